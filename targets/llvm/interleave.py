"""Several samples as one: each int32 pixel holds the integers that they have in one place."""

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.dot import LANE_BITS, OFFSETS, depth, joined
from e2compile.targets.llvm.emit import Samples, at, ceil_div, least, padded, pointer, splat, store
from e2compile.targets.llvm.gradient_plan import GradientPlan
from e2compile.targets.llvm.weight_gradient import bounds, shared_out


@dataclass(frozen=True)
class Rows:
    """The bytes of some samples, the elements that they become, and the bits of those that count."""

    lines: list[Any]
    to: Any
    origin: Any
    mask: Any


def interleaved(buffer: Any, shape: tuple[int, ...], live: Samples, offset: bool, plan: GradientPlan) -> Any:
    """The live samples of a buffer [samples, ...] of bytes, as many together as a lane holds.

    What is missing to so many is zero.
    With `offset` each has its top bit flipped: it becomes 128 more or less. A thread copies what it will sum
    up: it finds that in a cache of its own.
    """
    size, together = prod(shape[1:]), depth(plan.machine)
    result = padded(ceil_div(shape[0], together) * size, "int32")
    with shared_out(plan) as (split, share):
        number = ceil_div(ceil_div(live.number, together) - split, plan.splits)
        with T.serial(number) as turn:
            group = T.bind(split + turn * plan.splits)
            places = [live[least(group * together + i, live.number - 1)] for i in range(together)]
            lines = [pointer(buffer, place * size) for place in places]
            kept = T.bind(mask(live.number - group * together, together))
            _interleave(Rows(lines, result, T.bind(group * size), kept), size, share, offset, plan)
    return result


def mask(samples: Any, together: int) -> Any:
    """The bits of so many samples."""
    partial = T.shift_left(T.int32(1), least(samples, together - 1) * (LANE_BITS // together)) - 1
    return tirx.Select(samples >= together, T.int32(-1), partial)


def _interleave(rows: Rows, size: int, share: Any, offset: bool, plan: GradientPlan) -> None:
    for group in groups(size, plan.machine.lanes, 1):
        (width,) = group.widths
        with T.serial(*bounds(plan, share, group.repeat)) as number:
            place = T.bind(group.start + number * width)
            value = joined([line[at(place, width)] for line in rows.lines], len(rows.lines), width)
            if offset:
                value = T.bitwise_xor(value, splat(T.int32(OFFSETS), width))
            store(rows.to, rows.origin + place, T.bitwise_and(value, splat(rows.mask, width)), width)
