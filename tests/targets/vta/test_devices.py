"""Which device runs a program's streams, named on the command line; and what happens where it cannot."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import e2compile
from e2compile.errors import DeviceError, MissingError, UsageError
from e2compile.runtime.engine import Library
from e2compile.runtime.program import LIBRARY, Program
from e2compile.targets import find
from e2compile.targets.vta.device import board, driver
from e2compile.targets.vta.device.interface import Device
from e2compile.targets.vta.device.server import serve
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.config import Config, named
from e2compile.targets.vta.simulator.simulator import INTERPRETER, Simulator
from e2compile.targets.vta.target import VtaTarget
from tests.commands import run
from tests.targets.vta.tiny import batch

PYNQ = named("pynq")


def simulator(folder: Path) -> Simulator:
    """A simulator of the program's own."""
    library = Library(folder / LIBRARY).module
    return Simulator(PYNQ, library.get_function(INTERPRETER, query_imports=True), 64 << 20)


@pytest.fixture(scope="module")
def address(fpga_program: Path) -> Iterator[str]:
    """A server of simulators."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, lambda: simulator(fpga_program)), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def trained(program: Program, steps: int = 2) -> dict[str, Any]:
    """The state after some steps, and the last loss."""
    for seed in range(steps):
        result = program.step(batch(seed))
    return program.arrays() | {"loss": np.array(result.loss)}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


@pytest.fixture(scope="module")
def expected(fpga_program: Path) -> dict[str, Any]:
    return trained(e2compile.load(fpga_program))


@pytest.mark.parametrize("kind", ["pynq", "vta"])
def test_a_step_over_the_network_is_a_step(
    kind: str, address: str, fpga_program: Path, expected: dict[str, Any]
) -> None:
    program = e2compile.load(fpga_program, f"{kind}://{address}")
    assert_same(trained(program), expected)
    program.close()


def test_two_programs_of_a_folder_each_have_their_own_device(
    fpga_program: Path, expected: dict[str, Any]
) -> None:
    first, second = (e2compile.load(fpga_program) for _ in range(2))
    assert_same(trained(first), expected)
    assert second.driver.cycles == 0 < first.driver.cycles
    assert_same(trained(second), expected)
    assert second.driver.cycles == first.driver.cycles


def test_a_step_on_the_strict_simulator_is_a_step(fpga_program: Path, expected: dict[str, Any]) -> None:
    assert_same(trained(e2compile.load(fpga_program, "simulator:strict")), expected)


@pytest.mark.parametrize(("device", "buffer"), [("board", "udmabuf0"), ("board:udmabuf1", "udmabuf1")])
def test_a_step_on_the_board_itself_is_a_step(
    device: str,
    buffer: str,
    fpga_program: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened(config: Config, name: str) -> Device:
        assert (config, name) == (PYNQ, buffer)
        return simulator(fpga_program)

    monkeypatch.setattr(board, "opened", opened)
    assert_same(trained(e2compile.load(fpga_program, device)), expected)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "gpu",
            r"no device 'gpu': there is simulator, simulator:strict, board, board:BUFFER, vta://HOST:PORT",
        ),
        ("zcu102://a:1", "no board 'zcu102': there is pynq, ultra96, zcu104, de10nano, vta"),
        ("pynq://", r"lacks an address: write pynq://HOST:PORT"),
    ],
)
def test_devices_that_are_none(device: str, message: str, fpga_program: Path) -> None:
    with pytest.raises(UsageError, match=message):
        e2compile.load(fpga_program, device)


def test_a_board_of_another_kind(fpga_program: Path) -> None:
    message = "is for pynq, not for zcu104: compile it with --target fpga:zcu104"
    with pytest.raises(UsageError, match=message):
        e2compile.load(fpga_program, "zcu104://127.0.0.1:1").step(batch())


def test_the_command_line_says_what_a_device_lacks(
    fpga_program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused = listener.getsockname()[1]
    assert run("train", fpga_program, "--device", f"pynq://127.0.0.1:{unused}") == 6
    assert f"no VTA server can be reached at 127.0.0.1:{unused}" in capsys.readouterr().err
    assert run("train", fpga_program, "--device", "board:nowhere") == 6
    assert "there is no nowhere: load the kernel module u-dma-buf" in capsys.readouterr().err
    assert run("evaluate", fpga_program, "--device", "fpga") == 2
    assert "no device 'fpga'" in capsys.readouterr().err


class Stuck:
    """A device that never finishes a run."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def is_done(self) -> bool:
        return False


class Broken(Stuck):
    """A device that fails while it runs."""

    def is_done(self) -> bool:
        raise DeviceError("the bus is gone")


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Stuck, "integer_convolution did not finish within 0.05 s"), (Broken, "the bus is gone")],
)
def test_a_device_that_fails_ends_the_run(
    kind: type[Stuck],
    message: str,
    fpga_program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(driver, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(board, "opened", lambda *_: kind(simulator(fpga_program)))
    with pytest.raises(DeviceError, match=message):
        e2compile.load(fpga_program, "board").step(batch())
    folder = shutil.copytree(fpga_program, tmp_path / "tiny")
    assert run("train", folder, "--steps", "1", "--device", "board") == 6
    assert message in capsys.readouterr().err


def test_loading_a_program_for_the_fpga_loads_no_torch(fpga_program: Path) -> None:
    code = (
        "import sys, e2compile\n"
        "e2compile.load(sys.argv[1], 'simulator').driver\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, fpga_program], check=True)


def test_targets_of_other_configurations(tmp_path: Path) -> None:
    assert find("fpga") == VtaTarget()
    assert find("fpga:zcu104") == VtaTarget(named("zcu104"))
    path = tmp_path / "mine.json"
    source = Path(config.__file__).parent / "configs" / "ultra96.json"
    path.write_text(source.read_text().replace('"LOG_UOP_BUFF_SIZE": 15', '"LOG_UOP_BUFF_SIZE": 14'))
    target = find(f"fpga:{path}")
    assert isinstance(target, VtaTarget)
    assert target.config.log_uop_buff_size == 14
    path.write_text("{")
    for text, message in (
        (f"fpga:{path}", "is not JSON"),
        ("fpga:nexys", "no VTA configuration is named 'nexys'"),
        ("cpu:fast", "target cpu has no configurations"),
        ("tpu:a", "no target 'tpu'"),
    ):
        with pytest.raises(UsageError, match=message):
            find(text)
    with pytest.raises(MissingError):
        find("cuda:0")
