"""The integer convolution and its input gradient by tiles: weights and sums stay in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.emit import (
    Samples,
    arguments,
    function,
    gate,
    least,
    load,
    padded,
    samples,
    store,
    unless_empty,
    when,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.scaling import result
from e2compile.targets.llvm.tile_operands import Rows, packed_weights, source_rows, weight_tile
from e2compile.targets.llvm.tile_plan import TilePlan, plan
from e2compile.targets.llvm.tiles import BYTES, DEPTH, LANES, SIZE, Shape, Tiles, configured


def integer_convolution(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    gated: bool = False,
    name: str = "integer_convolution",
) -> tirx.PrimFunc:
    """(x, weight, [index, count], y): y = the convolution of x, int8 if `signed`, else uint8."""
    shapes = {"x": conv.x_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"y": conv.y_shape}
    dtypes = {"x": "int8" if signed else "uint8", "weight": "int8", "y": "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        whole = plan(conv, False, machine)
        gather(whole, Memory([given["x"]], given["weight"], given["y"], samples(conv, given)), signed)
    return builder.get()


def integer_input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "integer_input_gradient"
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input; dy is int8."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        given = arguments(shapes, {"dy": "int8", "weight": "int8", "dx": "int32"})
        whole = plan(conv, True, machine)
        gather(whole, Memory([given["dy"]], given["weight"], given["dx"], samples(conv, given)), True)
    return builder.get()


@dataclass(frozen=True)
class Memory:
    """The arguments of the function: planes of the source, weights, the target, the samples that live, and
    what sums are multiplied by, if they are."""

    planes: Sequence[Any]
    weight: Any
    target: Any
    live: Samples
    step: Any = None


def gather(plan: TilePlan, memory: Memory, signed: bool) -> None:
    with unless_empty(memory.live):
        weights = packed_weights(memory.weight, plan)
        with T.parallel(memory.live.number * plan.bands) as task:
            sample = T.bind(memory.live[task // plan.bands])
            first = T.bind(least(task % plan.bands * plan.band, plan.target_shape[1] - plan.band))
            sources = [source_rows(plane, plan, sample, first) for plane in memory.planes]
            with configured(plan.machine, _shapes(plan)) as tiles:
                origin = T.bind((sample * plan.target_shape[1] + first) * plan.target_shape[2])
                TileGather(plan, memory, tiles, sources, weights, origin, signed).emit()


def _shapes(plan: TilePlan) -> list[Shape]:
    """Sums, plane by plane, then a tile of a source, then one of weights for each row of the kernel."""
    sums, weights = plan.rows * plan.planes, plan.conv.kernel[0]
    source, weight = Shape(plan.positions, plan.depth), Shape(plan.depth // DEPTH)
    return [*[Shape(plan.positions)] * sums, source, *[weight] * weights]


@dataclass(frozen=True)
class TileGather:
    """A task: a band of rows of one sample, which begins at pixel `origin` of the target."""

    plan: TilePlan
    memory: Memory
    tiles: Tiles
    sources: Sequence[Rows]
    weights: Any
    origin: Any
    signed: bool

    def emit(self) -> None:
        with T.serial(self.plan.groups) as group:
            if self.plan.runs == 1:
                self._load_weights(group, 0)
            if self.memory.step is None:
                self._sum_into_target(group)
            else:
                self._sum_and_scale(group)

    def _sum_into_target(self, group: Any) -> None:
        with T.serial(self.plan.steps) as step:
            self._sum(group, step)
            for row, place in enumerate(self._places(group, step)):
                self.tiles.store(row, self.memory.target, place, self.plan.targets)

    def _sum_and_scale(self, group: Any) -> None:
        """Sums are scaled a step later: then products do not wait for it."""
        sums = padded(self._source * SIZE, "int32")
        with T.serial(self.plan.steps) as step:
            self._sum(group, step)
            with when(step > 0):
                self._scale(sums, group, step - 1)
            for total in range(self._source):
                self.tiles.store(total, sums, total * SIZE, LANES)
        self._scale(sums, group, self.plan.steps - 1)

    def _scale(self, sums: Any, group: Any, step: Any) -> None:
        plan, target = self.plan, self.memory.target
        for row, place in enumerate(self._places(group, step)):
            with T.serial(plan.positions) as position:
                planes = [
                    load(sums, (plane * plan.rows + row) * SIZE + position * LANES, LANES)
                    for plane in range(plan.planes)
                ]
                value = result(planes, self.memory.step, target.dtype, LANES)
                store(target, place + position * plan.targets, value, LANES)

    def _places(self, group: Any, step: Any) -> list[Any]:
        """Where in the target the tiles of a step begin, row by row."""
        plan = self.plan
        row, column = plan.site(step)
        pixels = [self.origin + (row + each) * plan.target_shape[2] + column for each in range(plan.rows)]
        return [T.bind(pixel * plan.targets + group * LANES) for pixel in pixels]

    def _sum(self, group: Any, step: Any) -> None:
        plan = self.plan
        row, column = plan.site(step)
        for total in range(self._source):
            self.tiles.zero(total)
        with T.serial(plan.runs) as run:
            if plan.runs > 1:
                self._load_weights(group, run)
            place = T.bind(row * plan.pitch + column * plan.sources + run * BYTES)
            for seen in range(plan.rows + plan.conv.kernel[0] - 1):
                for plane in range(plan.planes):
                    self._add(plane, seen, place)

    def _add(self, plane: int, seen: int, place: Any) -> None:
        """Adds what one row of the source gives to all that see it."""
        plan, tiles = self.plan, self.tiles
        rows = self.sources[plane]
        tiles.load(self._source, rows.buffer, rows.origin + place + seen * plan.pitch, plan.sources)
        for kernel_row in range(plan.conv.kernel[0]):
            if 0 <= seen - kernel_row < plan.rows:
                total = plane * plan.rows + seen - kernel_row
                tiles.multiply_add(total, self._source, self._source + 1 + kernel_row, (self.signed, True))

    def _load_weights(self, group: Any, run: Any) -> None:
        for row in range(self.plan.conv.kernel[0]):
            place = T.bind(weight_tile(self.plan, group, run, row))
            self.tiles.load(self._source + 1 + row, self.weights, place, LANES)

    @property
    def _source(self) -> int:
        return self.plan.rows * self.plan.planes
