"""Forward pass and input gradient: the loops around their register tile."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import weights
from e2compile.targets.llvm.axis import Lattice, Tile
from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.emit import arguments, ceil_div, function, gate, least, samples, when
from e2compile.targets.llvm.gather_plan import Memory, Plan, plan
from e2compile.targets.llvm.gather_tile import GatherTile, Site
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.weights import Weights

# Weights beyond this leave the second-level cache between two rows: then a group of them stays instead.
_RESIDENT_WEIGHTS = 1 << 16
# With fewer uses of each weight than this, copying the weights costs more than it saves.
_USES_WORTH_A_COPY = 64


def forward(
    conv: Convolution, machine: Machine, bias: bool = False, gated: bool = False, name: str = "forward"
) -> tirx.PrimFunc:
    """(x, weight, [bias], [index, count], y): y = the convolution of x."""
    start = {"bias": (conv.out_channels,)} if bias else {}
    inputs = {"x": conv.x_shape, "weight": conv.weight_shape}
    shapes = inputs | start | gate(conv, gated) | {"y": conv.y_shape}
    with function(name) as builder:
        given = arguments(shapes)
        memory = Memory(given["x"], given["weight"], given.get("bias"), given["y"], samples(conv, given))
        _gather(plan(conv, False, machine), memory)
    return builder.get()


def input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "input_gradient"
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        given = arguments(shapes)
        memory = Memory(given["dy"], given["weight"], None, given["dx"], samples(conv, given))
        _gather(plan(conv, True, machine), memory)
    return builder.get()


def _gather(plan: Plan, memory: Memory) -> None:
    live = memory.live
    with nullcontext() if live.index is None else when(live.number > 0):
        matrix = _weights(plan, memory.weight)
        if prod(plan.conv.weight_shape) > _RESIDENT_WEIGHTS:
            _channels_outside(plan, memory, matrix)
        else:
            _channels_inside(plan, memory, matrix)


def _channels_outside(plan: Plan, memory: Memory, matrix: Weights) -> None:
    """All positions for one group of target channels after the other: its weights stay in the cache."""
    for group in plan.groups:
        with _tasks(plan, memory, plan.parts * group.repeat) as (number, row, places):
            for run in _runs(plan):
                GatherTile(plan, memory, matrix, group, *run, _site(plan, group, number, row, places)).emit()


def _channels_inside(plan: Plan, memory: Memory, matrix: Weights) -> None:
    """All target channels of one run of positions after the other: the target is written in its own order."""
    with _tasks(plan, memory, 1) as (_, row, places):
        for run in _runs(plan):
            for group in plan.groups:
                with T.serial(plan.parts * group.repeat) as number:
                    site = _site(plan, group, number, row, places)
                    GatherTile(plan, memory, matrix, group, *run, site).emit()


def _weights(plan: Plan, weight: Any) -> Weights:
    conv = plan.conv
    uses = conv.batch * conv.out_height * conv.out_width
    several = plan.targets > plan.groups[0].step
    if plan.depthwise or not (plan.transposed or (several and uses >= _USES_WORTH_A_COPY)):
        return weights.plain(weight, conv)
    return weights.packed(weight, conv, plan.groups, plan.transposed)


@contextmanager
def _tasks(plan: Plan, memory: Memory, groups: int) -> Iterator[tuple[Any, Any, list[Any]]]:
    """A parallel loop over groups of channels, then samples, then rows.

    The last tile of samples repeats the last sample rather than having code of its own.
    """
    number, together, rows = memory.live.number, plan.tile.samples, plan.rows.target
    waves = ceil_div(number, together)
    with T.parallel(groups * waves * rows) as task:
        row = T.bind(task % rows)
        first = T.bind(task // rows % waves * together)
        places = [T.bind(memory.live[least(first + i, number - 1)]) for i in range(together)]
        yield T.bind(task // rows // waves), row, places


def _runs(plan: Plan) -> Iterator[tuple[Lattice, Tile, Any]]:
    """Loops over the positions of a row, one run of positions at a time."""
    for lattice, size in zip(plan.lattices, plan.tile.positions, strict=True):
        for tile in lattice.tiles(size):
            with T.serial(tile.repeat) as run:
                yield lattice, tile, run


def _site(plan: Plan, group: Group, number: Any, row: Any, places: list[Any]) -> Site:
    """The `number`-th of the groups of all parts."""
    part = T.bind(number // group.repeat)
    channel = T.bind(part * plan.targets + group.start + number % group.repeat * group.step)
    return Site(places, row, channel, part)
