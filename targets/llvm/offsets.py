"""What reading source bytes as 128 more or less adds to a sum, by kernel row and by the taps in it."""

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.dot import OFFSETS
from e2compile.targets.llvm.emit import fetch, keep, load, padded, registers, splat, store, tasks, zero
from e2compile.targets.llvm.gather_plan import Plan
from e2compile.targets.llvm.weights import Weights


@dataclass(frozen=True)
class Offsets:
    """For each row of the kernel and each set of its taps that some position sees: one number for each
    target channel, to be added."""

    buffer: Any
    sets: tuple[tuple[int, ...], ...]
    targets: int

    def place(self, row: Any, taps: tuple[int, ...], channel: Any) -> Any:
        return (row * len(self.sets) + self.sets.index(taps)) * self.targets + channel


def offsets(plan: Plan, weights: Weights) -> Offsets:
    """Less what the flipped top bits add: -128 or 128 times the sums of the weights, from packed ones."""
    size = plan.rows.kernel * len(plan.tap_sets) * weights.targets
    result = Offsets(padded(size, "int32"), plan.tap_sets, weights.targets)
    for group in plan.groups:
        with tasks(plan.parts * group.repeat * plan.rows.kernel) as task:
            row = T.bind(task % plan.rows.kernel)
            number = T.bind(task // plan.rows.kernel)
            channel = number // group.repeat * plan.targets + number % group.repeat * group.step
            for taps in plan.tap_sets:
                _sum(plan, weights, result, group, row, T.bind(channel + group.start), taps)
    return result


def _sum(
    plan: Plan, weights: Weights, result: Offsets, group: Group, row: Any, channel: Any, taps: tuple[int, ...]
) -> None:
    strides = weights.strides(group.step)
    origin = T.bind(weights.origin(channel) + row * strides.row)
    for start, lanes in zip(group.starts, group.widths, strict=True):
        width = plan.arithmetic.width(lanes)
        (total,) = registers([width], "int32")
        keep(total, zero(width, "int32"), width)
        with T.serial(weights.sources) as step:
            for tap in taps:
                place = origin + step * strides.channel + tap * strides.column + start
                value = load(weights.buffer, place, width)
                plan.arithmetic.add(total, splat(T.int32(OFFSETS), width), value, width)
        place = result.place(row, taps, channel + start)
        store(result.buffer, place, zero(lanes, "int32") - fetch(total, lanes), lanes)
