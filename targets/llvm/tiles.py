"""Tiles: eight registers of 16 rows of 64 bytes, multiplied as matrices; or loops that do the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.dot import summed
from e2compile.targets.llvm.emit import at, load, scratch, splat, store, zero
from e2compile.targets.llvm.machine import Machine

NUMBER = 8
ROWS = 16
LANES = 16
BYTES = 64
# Bytes in a lane, and lanes in a tile.
DEPTH = 4
SIZE = ROWS * LANES


class Tiles(Protocol):
    """The tile registers of a task, by number. Places in memory and pitches count a buffer's elements."""

    def zero(self, tile: int) -> None: ...

    def load(self, tile: int, buffer: Any, place: Any, pitch: int) -> None:
        """Rows from memory, the first at `place`."""

    def store(self, tile: int, buffer: Any, place: Any, pitch: int) -> None:
        """Rows to memory of int32."""

    def multiply_add(self, total: int, left: int, right: int, signed: tuple[bool, bool]) -> None:
        """total[i, j] += the sum over k, b < 4 of left[i, 4 k + b] * right[k, 4 j + b]."""


@dataclass(frozen=True)
class Shape:
    """The rows of a tile, and the bytes of a row."""

    rows: int = ROWS
    bytes: int = BYTES


@contextmanager
def configured(machine: Machine, shapes: Sequence[Shape]) -> Iterator[Tiles]:
    """The tile registers of a task, each of a shape."""
    if machine.is_emulated:
        yield _Loops(shapes, [scratch(SIZE, "int32") for _ in shapes])
        return
    _call("ldtilecfg", _address(_configuration(shapes), 0))
    yield _Instructions()
    _call("tilerelease")


def _configuration(shapes: Sequence[Shape]) -> Any:
    """What LDTILECFG reads: the palette, from byte 16 on each tile's bytes of a row, from 48 on its rows."""
    buffer = scratch(BYTES, "uint8")
    store(buffer, 0, zero(BYTES, "uint8"), BYTES)
    store(buffer, 0, T.uint8(1), 1)
    for tile, shape in enumerate(shapes):
        store(buffer, 16 + 2 * tile, T.uint8(shape.bytes), 1)
        store(buffer, 48 + tile, T.uint8(shape.rows), 1)
    return buffer


def _call(name: str, *arguments: Any) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _address(buffer: Any, place: Any) -> Any:
    return T.address_of(buffer[place])


def _bytes(buffer: Any) -> int:
    """Of an element."""
    return DEPTH if buffer.dtype == "int32" else 1


class _Instructions:
    """AMX's: LLVM takes them for calls that read and write any memory."""

    def zero(self, tile: int) -> None:
        _call("tilezero", T.int8(tile))

    def load(self, tile: int, buffer: Any, place: Any, pitch: int) -> None:
        _call("tileloadd64", T.int8(tile), _address(buffer, place), T.int64(pitch * _bytes(buffer)))

    def store(self, tile: int, buffer: Any, place: Any, pitch: int) -> None:
        _call("tilestored64", T.int8(tile), _address(buffer, place), T.int64(pitch * _bytes(buffer)))

    def multiply_add(self, total: int, left: int, right: int, signed: tuple[bool, bool]) -> None:
        kind = "".join("s" if each else "u" for each in signed)
        _call(f"tdpb{kind}d", T.int8(total), T.int8(left), T.int8(right))


@dataclass(frozen=True)
class _Loops:
    """The same on any CPU: each tile is memory of int32 lanes."""

    shapes: Sequence[Shape]
    memory: Sequence[Any]

    def zero(self, tile: int) -> None:
        with T.serial(self.shapes[tile].rows) as row:
            store(self.memory[tile], row * LANES, zero(LANES, "int32"), LANES)

    def load(self, tile: int, buffer: Any, place: Any, pitch: int) -> None:
        with T.serial(self.shapes[tile].rows) as row:
            value = buffer[at(place + row * pitch, BYTES // _bytes(buffer))]
            lanes = value if buffer.dtype == "int32" else T.reinterpret(f"int32x{LANES}", value)
            store(self.memory[tile], row * LANES, lanes, LANES)

    def store(self, tile: int, buffer: Any, place: Any, pitch: int) -> None:
        with T.serial(self.shapes[tile].rows) as row:
            store(buffer, place + row * pitch, load(self.memory[tile], row * LANES, LANES), LANES)

    def multiply_add(self, total: int, left: int, right: int, signed: tuple[bool, bool]) -> None:
        sums, lefts, rights = (self.memory[tile] for tile in (total, left, right))
        with T.serial(self.shapes[total].rows) as row, T.serial(self.shapes[right].rows) as k:
            first = splat(T.bind(lefts[row * LANES + k]), LANES), signed[0]
            second = load(rights, k * LANES, LANES), signed[1]
            value = summed(load(sums, row * LANES, LANES), first, second, DEPTH, LANES)
            store(sums, row * LANES, value, LANES)
