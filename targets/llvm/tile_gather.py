"""The integer convolution and its input gradients by tiles: weights and sums stay in them."""

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
    splat,
    store,
    typed,
    unless_empty,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tile_operands import copied_rows, packed_weights, weight_tile
from e2compile.targets.llvm.tile_plan import TilePlan, plan
from e2compile.targets.llvm.tiles import BYTES, LANES, ROWS, SIZE, Tiles, configured

# What a unit of the high plane is worth in units of the low one.
_HIGH = 256.0


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
        _gather(whole, Memory([given["x"]], given["weight"], given["y"], samples(conv, given)), signed)
    return builder.get()


def integer_input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "integer_input_gradient"
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input; dy is int8."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        given = arguments(shapes, {"dy": "int8", "weight": "int8", "dx": "int32"})
        whole = plan(conv, True, machine)
        _gather(whole, Memory([given["dy"]], given["weight"], given["dx"], samples(conv, given)), True)
    return builder.get()


def planes_input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "planes_input_gradient"
) -> tirx.PrimFunc:
    """(high, low, weight, [index, count], dx): dx = 256 * float32(dx of high) + float32(dx of low).

    `high` and `low` are int8 gradients of the convolution's output, dx is float32. Each exact sum is rounded
    to float32 before both are added, and the sum once more.
    """
    inputs = {"high": conv.y_shape, "low": conv.y_shape, "weight": conv.weight_shape}
    with function(name) as builder:
        given = arguments(
            inputs | gate(conv, gated) | {"dx": conv.x_shape}, dict.fromkeys(inputs, "int8")
        )
        whole = plan(conv, True, machine, 2)
        planes = [given["high"], given["low"]]
        _gather(whole, Memory(planes, given["weight"], given["dx"], samples(conv, given)), True)
    return builder.get()


@dataclass(frozen=True)
class Memory:
    """The arguments of the function: planes of the source, weights, the target, the samples that live."""

    planes: Sequence[Any]
    weight: Any
    target: Any
    live: Samples


def _gather(plan: TilePlan, memory: Memory, signed: bool) -> None:
    with unless_empty(memory.live):
        weights = packed_weights(memory.weight, plan)
        with T.parallel(memory.live.number * plan.bands) as task:
            sample = T.bind(memory.live[task // plan.bands])
            first = T.bind(least(task % plan.bands * plan.band, plan.target_shape[1] - plan.band))
            sources = [copied_rows(plane, plan, sample, first) for plane in memory.planes]
            height, width = plan.conv.kernel[0], plan.positions
            sums = [width] * plan.rows * plan.planes
            with configured(plan.machine, [*sums, width, *[ROWS] * height]) as tiles:
                origin = T.bind((sample * plan.target_shape[1] + first) * plan.target_shape[2])
                TileGather(plan, tiles, sources, weights, memory.target, origin, signed).emit()


@dataclass(frozen=True)
class TileGather:
    """A task: a band of rows of one sample, which begins at pixel `origin` of the target.

    Registers are sums, plane by plane, then one for sources, then one for each row of the kernel.
    """

    plan: TilePlan
    tiles: Tiles
    sources: Sequence[Any]
    weights: Any
    target: Any
    origin: Any
    signed: bool

    def emit(self) -> None:
        plan = self.plan
        buffer = padded(plan.planes * SIZE, "int32") if plan.planes > 1 else None
        width = plan.target_shape[2]
        with T.serial(plan.groups) as group:
            if plan.runs == 1:
                self._load_weights(group, 0)
            with T.serial(-(-plan.band // plan.rows)) as block, T.serial(-(-width // plan.positions)) as tile:
                row = T.bind(least(block * plan.rows, plan.band - plan.rows))
                column = T.bind(least(tile * plan.positions, width - plan.positions))
                self._sum(group, row, column)
                for each in range(plan.rows):
                    pixel = self.origin + (row + each) * width + column
                    self._write(each, T.bind(pixel * plan.targets + group * LANES), buffer)

    def _sum(self, group: Any, row: Any, column: Any) -> None:
        for total in range(self._source):
            self.tiles.zero(total)
        with T.serial(self.plan.runs) as run:
            if self.plan.runs > 1:
                self._load_weights(group, run)
            place = T.bind(row * self.plan.pitch + column * self.plan.sources + run * BYTES)
            for seen in range(self.plan.rows + self.plan.conv.kernel[0] - 1):
                for plane in range(self.plan.planes):
                    self._add(plane, seen, place)

    def _add(self, plane: int, seen: int, place: Any) -> None:
        """Adds what one row of the source gives to all that see it."""
        plan, tiles = self.plan, self.tiles
        tiles.load(self._source, self.sources[plane], place + seen * plan.pitch, plan.sources)
        for kernel_row in range(plan.conv.kernel[0]):
            if 0 <= seen - kernel_row < plan.rows:
                total = plane * plan.rows + seen - kernel_row
                tiles.multiply_add(total, self._source, self._source + 1 + kernel_row, (self.signed, True))

    def _load_weights(self, group: Any, run: Any) -> None:
        for row in range(self.plan.conv.kernel[0]):
            place = T.bind(weight_tile(self.plan, group, run, row))
            self.tiles.load(self._source + 1 + row, self.weights, place, LANES)

    def _write(self, row: int, place: Any, buffer: Any) -> None:
        plan = self.plan
        if buffer is None:
            self.tiles.store(row, self.target, place, plan.targets)
            return
        for plane in range(plan.planes):
            self.tiles.store(plane * plan.rows + row, buffer, plane * SIZE, LANES)
        with T.serial(plan.positions) as position:
            high, low = (
                T.Cast(typed("float32", LANES), load(buffer, plane * SIZE + position * LANES, LANES))
                for plane in range(plan.planes)
            )
            value = high * splat(T.float32(_HIGH), LANES) + low
            store(self.target, place + position * plan.targets, value, LANES)

    @property
    def _source(self) -> int:
        return self.plan.rows * self.plan.planes
