"""The integer convolution and its input gradient by tiles: weights and sums stay in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
    samples,
    unless_empty,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tile_operands import Rows, fetch_ahead, packed_weights, source_rows, weight_tile
from e2compile.targets.llvm.tile_plan import TilePlan, plan
from e2compile.targets.llvm.tile_sums import Sums
from e2compile.targets.llvm.tiles import BYTES, DEPTH, LANES, Shape, Tiles, configured


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
        number = memory.live.number * plan.bands
        with T.parallel(number) as task:
            sample, first = _band(plan, memory.live, task)
            after, row = _band(plan, memory.live, least(task + 1, number - 1))
            height = plan.conv.stride[0]
            sources = [source_rows(plane, plan, sample, first * height) for plane in memory.planes]
            with configured(plan.machine, _shapes(plan)) as tiles:
                origin = T.bind((sample * plan.target_shape[1] + first) * plan.target_shape[2])
                ahead = T.bind((after * plan.source_shape[1] + row * height) * plan.line)
                TileGather(plan, memory, tiles, sources, weights, origin, ahead, signed).emit()


def _band(plan: TilePlan, live: Samples, task: Any) -> tuple[Any, Any]:
    """A task's sample, and its first row of the target."""
    first = least(task % plan.bands * plan.band, plan.target_shape[1] - plan.band)
    return T.bind(live[task // plan.bands]), T.bind(first)


def _shapes(plan: TilePlan) -> list[Shape]:
    """Sums, plane by plane, then a tile of a source, then one of weights for each row of the kernel."""
    source, weight = Shape(plan.positions, plan.depth), Shape(plan.depth // DEPTH)
    return [*[Shape(plan.positions)] * plan.sums, source, *[weight] * plan.conv.kernel[0]]


@dataclass(frozen=True)
class TileGather:
    """A task: a band of rows of one sample, which begins at pixel `origin` of the target.

    The next task's begins `ahead` in the sources.
    """

    plan: TilePlan
    memory: Memory
    tiles: Tiles
    sources: Sequence[Rows]
    weights: Any
    origin: Any
    ahead: Any
    signed: bool

    def emit(self) -> None:
        if self.plan.keeps_weights:
            self._load_weights(0, 0)
        if self.memory.step is None:
            self._sum_into_target()
        else:
            self._sum_and_scale()

    def _sum_into_target(self) -> None:
        plan = self.plan
        with T.serial(plan.visits) as visit:
            for step, group in plan.summed(visit):
                self._sum(group, step)
                place = self._place(group, step)
                for row in range(plan.rows):
                    self.tiles.store(row, self.memory.target, place + row * plan.target_line, plan.targets)

    def _sum_and_scale(self) -> None:
        """Sums are scaled a visit later, while others are made: neither waits for the other.

        The first visit scales what it finds, to where its own sums will be.
        """
        plan, memory = self.plan, self.memory
        sums = Sums(plan, memory.step, memory.target)
        with sums.rounding(), T.serial(plan.visits) as visit:
            sums.prefetch(self._target(visit))
            for plane in memory.planes:
                fetch_ahead(plane, plan, self.ahead, visit)
            before = partial(sums.scale_share, self._target(T.bind(tirx.max(visit - 1, 0))))
            for number, (step, group) in enumerate(plan.summed(visit)):
                self._sum(group, step, before if number == 0 else None)
                sums.take(self.tiles, number)
        with sums.rounding():
            sums.scale_all(self._target(plan.visits - 1))

    def _target(self, visit: Any) -> Any:
        """Where in the target a visit's tiles begin."""
        step, group = self.plan.summed(visit)[0]
        return self._place(group, step)

    def _place(self, group: Any, step: Any) -> Any:
        plan = self.plan
        row, column = plan.site(step)
        pixel = self.origin + row * plan.target_shape[2] + column
        return T.bind(pixel * plan.targets + group * LANES)

    def _sum(self, group: Any, step: Any, meanwhile: Callable[[Any, int], None] | None = None) -> None:
        """A step's sums. `meanwhile` is done after the products of each row that is seen in each run."""
        plan = self.plan
        (row, column), (height, width) = plan.site(step), plan.conv.stride
        for total in range(plan.sums):
            self.tiles.zero(total)
        with T.serial(plan.runs) as run:
            if not plan.keeps_weights:
                self._load_weights(group, run)
            place = T.bind(row * height * plan.pitch + column * width * plan.sources + run * BYTES)
            for seen in range(plan.seen):
                for plane in range(plan.planes):
                    self._add(plane, seen, place)
                if meanwhile is not None:
                    meanwhile(run, seen)

    def _add(self, plane: int, seen: int, place: Any) -> None:
        """Adds what one row of the source gives to all that see it."""
        plan, tiles = self.plan, self.tiles
        rows, source, (height, width) = self.sources[plane], plan.sums, plan.conv.stride
        tiles.load(source, rows.buffer, rows.origin + place + seen * plan.pitch, width * plan.sources)
        for kernel_row in range(plan.conv.kernel[0]):
            row, rest = divmod(seen - kernel_row, height)
            if rest == 0 and 0 <= row < plan.rows:
                total = plane * plan.rows + row
                tiles.multiply_add(total, source, source + 1 + kernel_row, (self.signed, True))

    def _load_weights(self, group: Any, run: Any) -> None:
        for row in range(self.plan.conv.kernel[0]):
            place = T.bind(weight_tile(self.plan, group, run, row))
            self.tiles.load(self.plan.sums + 1 + row, self.weights, place, LANES)
