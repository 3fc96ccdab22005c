"""The integer weight gradient by tiles: sums stay in them while images stream through the cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.emit import (
    Samples,
    arguments,
    ceil_div,
    fetch,
    function,
    gate,
    keep,
    least,
    load,
    padded,
    prefetch,
    registers,
    samples,
    store,
    tasks,
    typed,
    unless_empty,
    when,
    zero,
)
from e2compile.targets.llvm.integer_gradient import clamped
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tile_gradient_plan import TileGradientPlan
from e2compile.targets.llvm.tile_samples import Image, turn, turned
from e2compile.targets.llvm.tiles import BYTES, DEPTH, LANES, NUMBER, ROWS, SIZE, Shape, Tiles, configured
from e2compile.targets.llvm.weight_gradient import bits_reversed


def integer_weight_gradient(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    gated: bool = False,
    name: str = "integer_weight_gradient",
) -> tirx.PrimFunc:
    """(x, dy, [index, count], dweight): dweight = the gradient of the convolution's weights.

    x is int8 if `signed`, else uint8; dy is int8.
    """
    shapes = {"x": conv.x_shape, "dy": conv.y_shape} | gate(conv, gated) | {"dweight": conv.weight_shape}
    dtypes = {"x": "int8" if signed else "uint8", "dy": "int8", "dweight": "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        live, whole = samples(conv, given), TileGradientPlan(conv, machine)
        with unless_empty(live):
            partial = padded(whole.splits * whole.size, "int32")
            with T.parallel(whole.splits) as task, configured(machine, [Shape()] * NUMBER) as tiles:
                split = T.bind(bits_reversed(task, whole.splits.bit_length() - 1))
                Split(whole, _operands(whole, given, live), tiles, signed, partial, split).emit()
            _add_up(whole, partial, least(ceil_div(live.number, DEPTH), whole.splits), given["dweight"])
    return builder.get()


@dataclass(frozen=True)
class Operands:
    """A task's copies of `together` images: `sources`, and `gradients` turned from `upright` ones."""

    plan: TileGradientPlan
    live: Samples
    x: Image
    dy: Image
    sources: Any
    gradients: Any
    upright: Any

    def clear(self) -> None:
        """Zeros between and around pixels."""
        with T.serial(self.plan.together) as place:
            self.x.clear(self.sources, place * self.plan.source_size)
        self.dy.clear(self.upright, 0)

    def copy(self, image: Any, to: Any) -> None:
        """The live samples' `image`-th four to the `to`-th place."""
        plan = self.plan
        self.x.copy(self.live, image, self.sources, to * plan.source_size)
        self.dy.copy(self.live, image, self.upright, 0)
        with T.serial(plan.gradient_size // SIZE) as tile:
            turn(self.upright, tile * SIZE, self.gradients, to * plan.gradient_size + tile * SIZE)


def _operands(plan: TileGradientPlan, given: Mapping[str, Any], live: Samples) -> Operands:
    conv = plan.conv
    x = Image(given["x"], conv.x_shape[1:], plan.pitch, plan.source_line, conv.padding, conv.stride)
    dy = Image(given["dy"], conv.y_shape[1:], plan.pitch, plan.steps * ROWS)
    sizes = plan.together * plan.source_size, plan.together * plan.gradient_size, plan.gradient_size
    return Operands(plan, live, x, dy, *(padded(size, "int32") for size in sizes))


class Ahead:
    """Four samples that a task sums next, on their way to the second-level cache while others are summed."""

    def __init__(self, operands: Operands, image: Any) -> None:
        self.steps = operands.plan.taps * operands.plan.steps
        self.sizes = [prod(each.shape) for each in (operands.x, operands.dy)]
        self.samples = [each.samples(operands.live, image) for each in (operands.x, operands.dy)]

    def fetch(self, step: Any) -> None:
        """Asks for a step's share of them."""
        for size, four in zip(self.sizes, self.samples, strict=True):
            share = -(-size // (BYTES * self.steps)) * BYTES
            with when(step * share < size):
                for sample, byte in product(four, range(0, share, BYTES)):
                    prefetch(sample, step * share + byte, is_far=True)


@dataclass(frozen=True)
class Split:
    """A task: sums over every `splits`-th image.

    Registers are sums, column by column of the kernel, then gradients, then one for the input.
    """

    plan: TileGradientPlan
    operands: Operands
    tiles: Tiles
    signed: bool
    partial: Any
    number: Any

    def emit(self) -> None:
        plan = self.plan
        self.operands.clear()
        images = T.bind(ceil_div(ceil_div(self.operands.live.number, DEPTH) - self.number, plan.splits))
        with T.serial(ceil_div(images, plan.together)) as go:
            first = T.bind(go * plan.together)
            present = T.bind(least(images - first, plan.together))
            with T.serial(present) as place:
                self.operands.copy(self.number + (first + place) * plan.splits, place)
            with T.serial(plan.taps) as tap:
                self._sum(tap, first, present)

    def _sum(self, tap: Any, first: Any, present: Any) -> None:
        plan = self.plan
        places = [
            T.bind(((self.number * plan.taps + tap) * plan.sums + total) * SIZE) for total in range(plan.sums)
        ]
        with when(first == 0):
            for total in range(plan.sums):
                self.tiles.zero(total)
        with when(first > 0):
            for total, place in enumerate(places):
                self.tiles.load(total, self.partial, place, LANES)
        with T.serial(present) as image:
            ahead = Ahead(self.operands, self.number + (first + image + plan.together) * plan.splits)
            with T.serial(plan.steps) as step:
                ahead.fetch(tap * plan.steps + step)
                self._add(tap, image, step)
        for total, place in enumerate(places):
            self.tiles.store(total, self.partial, place, LANES)

    def _add(self, tap: Any, image: Any, step: Any) -> None:
        plan, tiles = self.plan, self.tiles
        row, block, group = plan.parts(tap)
        for each in range(plan.grouped):
            tile = (image * (plan.conv.out_channels // LANES) + group + each) * plan.steps + step
            tiles.load(plan.sums + each, self.operands.gradients, T.bind(tile * SIZE), LANES)
        first = T.bind(image * plan.source_size + (block * plan.source_block + step * ROWS) * LANES)
        for column in range(plan.conv.kernel[1]):
            source = T.bind(first + plan.tap(row, column) * LANES)
            tiles.load(NUMBER - 1, self.operands.sources, source, LANES)
            for each in range(plan.grouped):
                total = column * plan.grouped + each
                tiles.multiply_add(total, plan.sums + each, NUMBER - 1, (True, self.signed))


def _add_up(plan: TileGradientPlan, partial: Any, used: Any, target: Any) -> None:
    """Adds up splits in int64, clamps to int32, and turns tiles so that output channels are their columns."""
    _, kernel_width, inner, outer = plan.conv.weight_shape
    with tasks(plan.taps * plan.sums) as tile:
        row, block, group = plan.parts(tile // plan.sums)
        column, each = tile % plan.sums // plan.grouped, tile % plan.grouped
        lines = [_total(plan, partial, used, tile * SIZE + line * LANES) for line in range(ROWS)]
        first = (row * kernel_width + column) * inner + block * LANES
        place = T.bind(first * outer + (group + each) * LANES)
        for channel, line in enumerate(turned(lines)):
            store(target, place + channel * outer, line, LANES)


def _total(plan: TileGradientPlan, partial: Any, used: Any, place: Any) -> Any:
    (total,) = registers([LANES], "int64")
    keep(total, zero(LANES, "int64"), LANES)
    with T.serial(used) as split:
        value = T.Cast(typed("int64", LANES), load(partial, split * plan.size + place, LANES))
        keep(total, fetch(total, LANES) + value, LANES)
    return T.bind(clamped(fetch(total, LANES), LANES))
