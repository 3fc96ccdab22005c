"""How a client and a board's server talk: frames over TCP, little-endian.

The client begins with a frame that holds VERSION and the name of its configuration (Config.name). Then each
request is a frame, and each answer one: a byte that says whether it worked, then the result, or the error's
text. A frame is its length in four bytes, LIMIT at most, and as many bytes.
"""

import struct
from enum import IntEnum
from socket import socket

from e2compile.errors import DeviceError

VERSION = 1
PORT = 9091
CHUNK = 16 << 20  # bytes of data in one request or answer
LIMIT = CHUNK + 64

HELLO = struct.Struct("<4sI")
MAGIC = b"eVTA"
REQUEST = struct.Struct("<BQQ")  # an Operation and its two numbers; a WRITE's data follow
ADDRESS = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


class Operation(IntEnum):
    """The methods of a Device."""

    ALLOCATE = 0  # size, 0
    WRITE = 1  # address, size
    READ = 2  # address, size
    START = 3  # instructions, count
    IS_DONE = 4  # 0, 0


def send(connection: socket, *parts: bytes) -> None:
    """A frame of these parts."""
    connection.sendall(b"".join((_LENGTH.pack(sum(map(len, parts))), *parts)))


def receive(connection: socket) -> bytearray:
    """The next frame. Raises EOFError where the other end has closed, DeviceError for too long a frame."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > LIMIT:
        raise DeviceError(f"a frame of {length} bytes was announced, {LIMIT} at most are allowed")
    return _exactly(connection, length)


def _exactly(connection: socket, size: int) -> bytearray:
    result = bytearray(size)
    view = memoryview(result)
    while view:
        number = connection.recv_into(view)
        if not number:
            raise EOFError("the connection was closed")
        view = view[number:]
    return result
