"""A device over the network is the device, and nothing that a client sends makes the server lose its way."""

import ast
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from e2compile.errors import DeviceError
from e2compile.targets.vta.device import wire
from e2compile.targets.vta.device.archive import archive
from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.device.remote import Remote
from e2compile.targets.vta.device.server import serve
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator
from tests.targets.vta.small import started

PYNQ = config.named("pynq")
HELLO = wire.HELLO.pack(wire.MAGIC, wire.VERSION) + PYNQ.name.encode()
SIZE = 64 << 20


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server of simulators, one for each client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (listener, lambda: Simulator(PYNQ, compiled(PYNQ), SIZE))
        threading.Thread(target=serve, args=arguments, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture
def remote(port: int) -> Iterator[Remote]:
    device = Remote(f"127.0.0.1:{port}", PYNQ)
    yield device
    device.close()


def test_a_stream_runs(remote: Remote) -> None:
    address, expected = started(remote)
    assert remote.is_done()
    np.testing.assert_array_equal(remote.read(address, expected.size), expected)


def test_much_data_goes_in_several_frames(remote: Remote) -> None:
    data = np.random.default_rng(0).integers(0, 256, wire.CHUNK + 5, np.uint8)
    address = remote.allocate(data.size)
    remote.write(address, data)
    np.testing.assert_array_equal(remote.read(address, data.size), data)


def test_each_client_has_all_of_the_memory(port: int) -> None:
    for _ in range(3):
        device = Remote(f"127.0.0.1:{port}", PYNQ)
        assert device.allocate(SIZE - 2 * PAGE) == PAGE
        device.close()


def test_what_the_device_refuses_comes_back_and_the_talk_goes_on(remote: Remote) -> None:
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"127\.0\.0\.1:\d+: 4 bytes at address 0x0 are outside"):
            remote.read(0, 4)
        with pytest.raises(DeviceError, match="no FINISH"):
            remote.start(remote.allocate(PAGE), 1)
    assert not remote.is_done()


def test_another_configuration_is_refused(port: int) -> None:
    other = config.named("pynq-4x8")
    with pytest.raises(DeviceError, match=f"VTA is a {PYNQ.name}, the program is for a {other.name}"):
        Remote(f"127.0.0.1:{port}", other)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([b""], "does not understand its client"),
        ([b"GET / HTTP/1.1"], "does not understand its client"),
        ([wire.HELLO.pack(wire.MAGIC, 99) + b"x"], "speaks version 1 of the protocol, the client 99"),
        ([HELLO, b"\0"], "a request of 1 bytes is too short"),
        ([HELLO, wire.REQUEST.pack(9, 0, 0)], "no operation has the number 9"),
        ([HELLO, wire.REQUEST.pack(wire.Operation.WRITE, PAGE, 4) + b"abc"], "a request has 3 bytes of data"),
        ([HELLO, wire.REQUEST.pack(wire.Operation.START, PAGE, 4) + b"abc"], "a request has 3 bytes of data"),
        ([HELLO, wire.REQUEST.pack(wire.Operation.READ, PAGE, 1 << 40)], "too many to read at once"),
    ],
)
def test_nonsense_is_answered_and_ends_the_talk(port: int, frames: list[bytes], message: str) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        for frame in frames[:-1]:
            wire.send(connection, frame)
            assert wire.receive(connection) == b"\1"
        wire.send(connection, frames[-1])
        answer = wire.receive(connection)
        assert answer[:1] == b"\0"
        assert message in answer[1:].decode()
        with pytest.raises(EOFError):
            wire.receive(connection)


def test_an_oversized_frame_is_not_read(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(struct.pack("<I", wire.LIMIT + 1))
        assert f"{wire.LIMIT} at most are allowed" in wire.receive(connection)[1:].decode()


@pytest.mark.parametrize("sent", [b"", b"\1", struct.pack("<I", 100) + b"abc"])
def test_a_client_that_goes_leaves_the_server_working(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)
    Remote(f"127.0.0.1:{port}", PYNQ).close()


def test_addresses_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused = listener.getsockname()[1]
    for address in (f"127.0.0.1:{unused}", f"nowhere.invalid:{unused}", "127.0.0.1:99999"):
        with pytest.raises(DeviceError, match=f"no VTA server can be reached at {address}"):
            Remote(address, PYNQ, timeout=10)
    with pytest.raises(DeviceError, match="is no address"):
        Remote("127.0.0.1:http", PYNQ)


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DeviceError, match=f"the VTA server at {address} does not answer: timed out"):
            Remote(address, PYNQ, timeout=0.2)


def test_a_board_needs_one_file_and_numpy(tmp_path: Path) -> None:
    path = tmp_path / "vta_server.pyz"
    archive(path)
    with ZipFile(path) as files:
        for name in files.namelist():
            if name.endswith(".py"):
                ast.parse(files.read(name), name, feature_version=(3, 10))
    command = [sys.executable, str(path), "--config", "pynq", "--buffer", "nowhere"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == DeviceError.exit_code
    assert found.stderr == "error: there is no nowhere: load the kernel module u-dma-buf (nowhere=BYTES)\n"
    code = (
        f"import sys; sys.path.insert(0, {str(path)!r})\n"
        "import e2compile.targets.vta.device.server as server\n"
        f"assert server.__file__.startswith({str(path)!r})\n"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
