"""Four samples as one: each int32 pixel holds the bytes that they have in one place."""

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.dot import BYTES, OFFSETS
from e2compile.targets.llvm.emit import Samples, ceil_div, least, padded, pointer, splat, store, tasks, typed
from e2compile.targets.llvm.machine import Machine

# Bytes of each sample that one task copies.
_CHUNK = 4096


def interleaved(buffer: Any, shape: tuple[int, ...], live: Samples, offset: bool, machine: Machine) -> Any:
    """The live samples of a buffer [samples, ...] of bytes, four by four; what is missing to four is zero.

    With `offset`, signed bytes become unsigned ones that are 128 more.
    """
    size = prod(shape[1:])
    result = padded(ceil_div(shape[0], BYTES) * size, "int32")
    chunks = [(0, _CHUNK, size // _CHUNK), (size - size % _CHUNK, size % _CHUNK, 1)]
    for origin, length, repeat in chunks:
        if not (length and repeat):
            continue
        with tasks(ceil_div(live.number, BYTES) * repeat) as task:
            group = T.bind(task // repeat)
            first = T.bind(origin + task % repeat * length)
            places = [live[least(group * BYTES + byte, live.number - 1)] for byte in range(BYTES)]
            lines = [pointer(buffer, place * size + first) for place in places]
            mask = T.bind(_mask(live.number - group * BYTES))
            to = Destination(result, T.bind(group * size + first))
            _interleave(lines, to, length, mask, offset, machine)
    return result


@dataclass(frozen=True)
class Destination:
    """A buffer from an element on."""

    buffer: Any
    first: Any


def _mask(samples: Any) -> Any:
    """The bytes of so many samples."""
    partial = T.shift_left(T.int32(1), least(samples, BYTES - 1) * 8) - 1
    return tirx.Select(samples >= BYTES, T.int32(-1), partial)


def _interleave(
    lines: list[Any], to: Destination, length: int, mask: Any, offset: bool, machine: Machine
) -> None:
    for group in groups(length, machine.lanes, 1):
        (width,) = group.widths
        with T.serial(group.repeat) as number:
            place = T.bind(group.start + number * width)
            value = _quads([line[T.ramp(place, 1, width) if width > 1 else place] for line in lines], width)
            if offset:
                value = T.bitwise_xor(value, splat(T.int32(OFFSETS), width))
            store(to.buffer, to.first + place, T.bitwise_and(value, splat(mask, width)), width)


def _quads(vectors: list[Any], width: int) -> Any:
    """Four vectors of bytes as one of quads."""
    total: Any = None
    for byte, vector in enumerate(vectors):
        lanes = T.Cast(typed("int32", width), T.reinterpret(typed("uint8", width), vector))
        lanes = T.shift_left(lanes, splat(T.int32(8 * byte), width)) if byte else lanes
        total = lanes if total is None else T.bitwise_or(total, lanes)
    return total
