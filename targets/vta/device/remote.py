"""A board's VTA over the network: the client of e2compile.targets.vta.device.server."""

import socket

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import DeviceError
from e2compile.targets.vta.device import wire
from e2compile.targets.vta.device.wire import Operation
from e2compile.targets.vta.isa.config import Config


class Remote:
    """The device of a server at an address, "host" or "host:port".

    Raises DeviceError where there is none within `timeout` seconds, or it is not of this configuration;
    and where a later answer takes longer, or never comes.
    """

    def __init__(self, address: str, config: Config, timeout: float = 30) -> None:
        host, colon, port = address.rpartition(":")
        if not colon:
            host, port = address, str(wire.PORT)
        if not port.isdecimal():
            raise DeviceError(f"{address!r} is no address: write host or host:port")
        self._address, self._config = address, config
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError) as error:
            raise DeviceError(f"no VTA server can be reached at {address}: {error}") from error
        try:
            self._ask(wire.HELLO.pack(wire.MAGIC, wire.VERSION), config.name.encode())
        except DeviceError as error:
            self.close()
            if isinstance(error.__cause__, TimeoutError):
                error.add_note("  it serves one client at a time: is another one connected?")
            raise

    @property
    def config(self) -> Config:
        return self._config

    def close(self) -> None:
        self._socket.close()

    def allocate(self, size: int) -> int:
        return int.from_bytes(self._request(Operation.ALLOCATE, size), "little")

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        data = np.ascontiguousarray(data)
        for first in range(0, data.size, wire.CHUNK):
            chunk = data[first : first + wire.CHUNK]
            self._request(Operation.WRITE, address + first, chunk.size, chunk.tobytes())

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        result = np.empty(size, np.uint8)
        for first in range(0, size, wire.CHUNK):
            chunk = min(wire.CHUNK, size - first)
            content = self._request(Operation.READ, address + first, chunk)
            if len(content) != chunk:
                raise DeviceError(f"{self._address} answered {len(content)} bytes, not {chunk}")
            result[first : first + chunk] = np.frombuffer(content, np.uint8)
        return result

    def start(self, instructions: int, count: int) -> None:
        self._request(Operation.START, instructions, count)

    def is_done(self) -> bool:
        return self._request(Operation.IS_DONE) == b"\1"

    def _request(self, operation: Operation, first: int = 0, second: int = 0, data: bytes = b"") -> bytes:
        return self._ask(wire.REQUEST.pack(operation, first, second), data)

    def _ask(self, *parts: bytes) -> bytes:
        """The answer to a frame. Raises DeviceError with the server's text, or why there is no answer."""
        try:
            wire.send(self._socket, *parts)
            answer = wire.receive(self._socket)
        except (OSError, EOFError) as error:
            raise DeviceError(f"the VTA server at {self._address} does not answer: {error}") from error
        if answer[:1] != b"\1":
            raise DeviceError(f"{self._address}: {answer[1:].decode(errors='replace')}")
        return bytes(memoryview(answer)[1:])
