"""Forward pass and input gradient: the loops around their register tile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import weights
from e2compile.targets.llvm.arithmetic import Dots, Floats
from e2compile.targets.llvm.axis import Lattice, Tile
from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.emit import (
    arguments,
    ceil_div,
    function,
    gate,
    least,
    opaque,
    samples,
    unless_empty,
)
from e2compile.targets.llvm.gather_plan import Memory, Plan, plan
from e2compile.targets.llvm.gather_tile import GatherTile, Site
from e2compile.targets.llvm.integer_weights import copy_joined
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.offsets import Offsets, offsets
from e2compile.targets.llvm.source_rows import SourceRows, source_rows
from e2compile.targets.llvm.tiling import RegisterTile
from e2compile.targets.llvm.weights import Packing, Weights, copy_floats

# Weights of more lanes leave the second-level cache between two rows: then a group of them stays instead.
_RESIDENT_WEIGHTS = 1 << 16
# With fewer uses of each weight than this, copying the weights costs more than it saves.
_USES_WORTH_A_COPY = 64


def forward(
    conv: Convolution,
    machine: Machine,
    bias: bool = False,
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "forward",
) -> tirx.PrimFunc:
    """(x, weight, [bias], [index, count], y): y = the convolution of x."""
    start = {"bias": (conv.out_channels,)} if bias else {}
    inputs = {"x": conv.x_shape, "weight": conv.weight_shape}
    shapes = inputs | start | gate(conv, gated) | {"y": conv.y_shape}
    with function(name) as builder:
        given = arguments(shapes)
        memory = Memory((given["x"],), given["weight"], given.get("bias"), given["y"], samples(conv, given))
        gather(plan(conv, False, machine, Floats(), tile), memory)
    return builder.get()


def input_gradient(
    conv: Convolution,
    machine: Machine,
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "input_gradient",
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        given = arguments(shapes)
        memory = Memory((given["dy"],), given["weight"], None, given["dx"], samples(conv, given))
        gather(plan(conv, True, machine, Floats(), tile), memory)
    return builder.get()


@dataclass(frozen=True)
class Job:
    """A plan, the memory it works on, its weights in their order of use, and what corrects its sums.

    `steps` is memory with the number of steps of a sum, if LLVM is not to know it.
    """

    plan: Plan
    memory: Memory
    weights: Weights
    offsets: Offsets | None
    steps: Any

    def tile(self, group: Group, run: tuple[Lattice, Tile, Any], site: Site) -> GatherTile:
        steps = self.plan.steps if self.steps is None else self.steps[0]
        return GatherTile(self.plan, self.memory, self.weights, self.offsets, steps, group, *run, site)


def gather(plan: Plan, memory: Memory) -> None:
    """Everything that a gather does, in the function under construction."""
    with unless_empty(memory.live):
        matrix = _weights(plan, memory.weight)
        corrections = offsets(plan, matrix) if plan.arithmetic.is_offset else None
        # Such sums are short: LLVM would unroll them, keep all sources of a run in registers, and spill.
        steps = opaque(plan.steps) if plan.arithmetic.depth > 1 and plan.steps > 1 else None
        job = Job(plan, memory, matrix, corrections, steps)
        if prod(plan.conv.weight_shape) > _RESIDENT_WEIGHTS * plan.arithmetic.depth:
            _channels_outside(job)
        else:
            _channels_inside(job)


def _channels_outside(job: Job) -> None:
    """All positions for one group of target channels after the other: its weights stay in the cache."""
    plan = job.plan
    for group in plan.groups:
        with _tasks(plan, job.memory, plan.parts * group.repeat) as (number, row, rows):
            for run in _runs(plan):
                job.tile(group, run, _site(plan, group, number, row, rows)).emit()


def _channels_inside(job: Job) -> None:
    """All target channels of one run of positions after the other: the target is written in its own order."""
    plan = job.plan
    with _tasks(plan, job.memory, 1) as (_, row, rows):
        for run in _runs(plan):
            for group in plan.groups:
                with T.serial(plan.parts * group.repeat) as number:
                    job.tile(group, run, _site(plan, group, number, row, rows)).emit()


def _weights(plan: Plan, weight: Any) -> Weights:
    conv = plan.conv
    uses = conv.batch * conv.out_height * conv.out_width
    several = plan.targets > plan.groups[0].step
    arithmetic = plan.arithmetic
    needed = plan.transposed or isinstance(arithmetic, Dots)
    if plan.depthwise or not (needed or (several and uses >= _USES_WORTH_A_COPY)):
        return weights.plain(weight, conv)
    copy = copy_joined(arithmetic, plan.sources) if isinstance(arithmetic, Dots) else copy_floats
    packing = Packing(conv, plan.steps, plan.targets, plan.transposed, arithmetic.dtype, copy)
    return weights.packed(weight, packing, plan.groups)


@contextmanager
def _tasks(plan: Plan, memory: Memory, groups: int) -> Iterator[tuple[Any, Any, SourceRows]]:
    """A parallel loop over groups of channels, then samples, then rows.

    The last tile of samples repeats the last sample rather than having code of its own.
    """
    number, together, rows = memory.live.number, plan.tile.samples, plan.rows.target
    waves = ceil_div(number, together)
    with T.parallel(groups * waves * rows) as task:
        row = T.bind(task % rows)
        first = T.bind(task // rows % waves * together)
        places = [T.bind(memory.live[least(first + i, number - 1)]) for i in range(together)]
        yield T.bind(task // rows // waves), row, source_rows(plan, memory.sources, row, places)


def _runs(plan: Plan) -> Iterator[tuple[Lattice, Tile, Any]]:
    """Loops over the positions of a row, one run of positions at a time."""
    for lattice, size in zip(plan.lattices, plan.tile.positions, strict=True):
        for tile in lattice.tiles(size):
            with T.serial(tile.repeat) as run:
                yield lattice, tile, run


def _site(plan: Plan, group: Group, number: Any, row: Any, rows: SourceRows) -> Site:
    """The `number`-th of the groups of all parts."""
    part = T.bind(number // group.repeat)
    channel = T.bind(part * plan.targets + group.start + number % group.repeat * group.step)
    return Site(rows, row, channel, part)
