"""Four samples as one: each int32 pixel holds the bytes that they have in one place."""

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.dot import BYTES, OFFSETS
from e2compile.targets.llvm.emit import Samples, at, ceil_div, least, padded, pointer, splat, store, typed
from e2compile.targets.llvm.gradient_plan import GradientPlan
from e2compile.targets.llvm.weight_gradient import bounds, shared_out


@dataclass(frozen=True)
class Rows:
    """The bytes of four samples, the elements that they become, and the bytes of them that count."""

    lines: list[Any]
    to: Any
    origin: Any
    mask: Any


def interleaved(buffer: Any, shape: tuple[int, ...], live: Samples, offset: bool, plan: GradientPlan) -> Any:
    """The live samples of a buffer [samples, ...] of bytes, four by four; what is missing to four is zero.

    With `offset` each has its top bit flipped: it becomes 128 more or less. A thread copies what it will sum
    up: it finds that in a cache of its own.
    """
    size = prod(shape[1:])
    result = padded(ceil_div(shape[0], BYTES) * size, "int32")
    with shared_out(plan) as (split, share):
        number = ceil_div(ceil_div(live.number, BYTES) - split, plan.splits)
        with T.serial(number) as turn:
            group = T.bind(split + turn * plan.splits)
            places = [live[least(group * BYTES + byte, live.number - 1)] for byte in range(BYTES)]
            lines = [pointer(buffer, place * size) for place in places]
            mask = T.bind(_mask(live.number - group * BYTES))
            _interleave(Rows(lines, result, T.bind(group * size), mask), size, share, offset, plan)
    return result


def _mask(samples: Any) -> Any:
    """The bytes of so many samples."""
    partial = T.shift_left(T.int32(1), least(samples, BYTES - 1) * 8) - 1
    return tirx.Select(samples >= BYTES, T.int32(-1), partial)


def _interleave(rows: Rows, size: int, share: Any, offset: bool, plan: GradientPlan) -> None:
    for group in groups(size, plan.machine.lanes, 1):
        (width,) = group.widths
        with T.serial(*bounds(plan, share, group.repeat)) as number:
            place = T.bind(group.start + number * width)
            value = _quads([line[at(place, width)] for line in rows.lines], width)
            if offset:
                value = T.bitwise_xor(value, splat(T.int32(OFFSETS), width))
            store(rows.to, rows.origin + place, T.bitwise_and(value, splat(rows.mask, width)), width)


def _quads(vectors: list[Any], width: int) -> Any:
    """Four vectors of bytes as one of quads."""
    total: Any = None
    for byte, vector in enumerate(vectors):
        lanes = T.Cast(typed("int32", width), T.reinterpret(typed("uint8", width), vector))
        lanes = T.shift_left(lanes, splat(T.int32(8 * byte), width)) if byte else lanes
        total = lanes if total is None else T.bitwise_or(total, lanes)
    return total
