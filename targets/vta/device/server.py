"""Lets another machine use this board's VTA: python vta_server.pyz --config pynq --port 9091 --host 0.0.0.0

The archive that archive.py makes is all that a board needs besides Python 3.10 and NumPy.

Whoever reaches the port reads and writes the buffer that the VTA uses, and has it run what they send: the VTA
can be told to read and write any physical memory. By default only this machine can; name a host's address
on a trusted network alone. One client is served at a time, each with the whole buffer.
"""

import argparse
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import DeviceError
from e2compile.targets.vta.device import board, wire
from e2compile.targets.vta.device.interface import Device
from e2compile.targets.vta.device.wire import Operation
from e2compile.targets.vta.isa import config

Bytes = NDArray[np.uint8]


def serve(listener: socket.socket, opened: Callable[[], Device]) -> NoReturn:
    """Serve one client after the other, each with a newly opened device, for ever."""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                _converse(connection, opened)
            except (EOFError, OSError):
                continue


def _converse(connection: socket.socket, opened: Callable[[], Device]) -> None:
    """Answer until the client goes, or says what cannot be understood."""
    try:
        device = opened()
        _greet(wire.receive(connection), device)
        wire.send(connection, b"\1")
        while True:
            _answer(connection, device, wire.receive(connection))
    except DeviceError as error:
        wire.send(connection, b"\0", str(error).encode())


def _greet(hello: bytearray, device: Device) -> None:
    if len(hello) < wire.HELLO.size or not hello.startswith(wire.MAGIC):
        raise DeviceError("this is the server of a VTA, and does not understand its client")
    _, version = wire.HELLO.unpack_from(hello)
    if version != wire.VERSION:
        raise DeviceError(f"the server speaks version {wire.VERSION} of the protocol, the client {version}")
    name = hello[wire.HELLO.size :].decode(errors="replace")
    if name != device.config.name:
        raise DeviceError(f"the server's VTA is a {device.config.name}, the program is for a {name}")


def _answer(connection: socket.socket, device: Device, request: bytearray) -> None:
    """Do what a request asks for. What the device refuses is answered; what is no request ends the talk."""
    if len(request) < wire.REQUEST.size:
        raise DeviceError(f"a request of {len(request)} bytes is too short")
    code, first, second = wire.REQUEST.unpack_from(request)
    if code not in list(Operation):
        raise DeviceError(f"no operation has the number {code}")
    data = np.frombuffer(request, np.uint8)[wire.REQUEST.size :]
    if data.size != (second if code == Operation.WRITE else 0):
        raise DeviceError(f"a request has {data.size} bytes of data, which is not what it says")
    if code == Operation.READ and second > wire.CHUNK:
        raise DeviceError(f"{second} bytes are too many to read at once, {wire.CHUNK} at most are allowed")
    try:
        result = _result(device, Operation(code), first, second, data)
    except DeviceError as error:
        wire.send(connection, b"\0", str(error).encode())
    else:
        wire.send(connection, b"\1", result)


def _result(device: Device, operation: Operation, first: int, second: int, data: Bytes) -> bytes:
    match operation:
        case Operation.ALLOCATE:
            return wire.ADDRESS.pack(device.allocate(first))
        case Operation.WRITE:
            device.write(first, data)
        case Operation.READ:
            return device.read(first, second).tobytes()
        case Operation.START:
            device.start(first, second)
        case Operation.IS_DONE:
            return bytes([device.is_done()])
    return b""


def main() -> int:
    parser = argparse.ArgumentParser(description="Let another machine use this board's VTA.")
    parser.add_argument("--config", choices=config.names(), required=True, help="what the bitstream is")
    parser.add_argument(
        "--host", default="127.0.0.1", help="listen at this address, by default to this machine alone"
    )
    parser.add_argument("--port", type=int, default=wire.PORT)
    parser.add_argument("--buffer", default=board.BUFFER, help="the u-dma-buf that is the VTA's memory")
    options = parser.parse_args()
    vta = config.named(options.config)
    try:
        board.opened(vta, options.buffer)
        with socket.create_server((options.host, options.port)) as listener:
            print(f"{vta.name} at {options.host}:{options.port}", flush=True)
            serve(listener, lambda: board.opened(vta, options.buffer))
    except (DeviceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return DeviceError.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
