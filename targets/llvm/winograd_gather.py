"""Forward pass and input gradient by Winograd's transforms, a block of tiles after the other."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import winograd
from e2compile.targets.llvm.blocks import Group, groups
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
    multiply_add,
    registers,
    samples,
    scratch,
    splat,
    store,
    unless_empty,
    when,
    zero,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.winograd import IN, OUT, PRODUCTS, Grid, Image, along_both, pitch

_TASKS = 32
# Tiles transformed together, in the first-level cache.
_BLOCK = 8
# Vectors of channels from which on a load of an input is shared by two of them, where registers hold the sums
# of a block for both. Where they do not, loads are the limit, and are always shared.
_WIDE = 8


def forward(
    conv: Convolution, machine: Machine, bias: bool = False, gated: bool = False, name: str = "forward"
) -> tirx.PrimFunc:
    """(x, weight, [bias], [index, count], y): y = the convolution of x."""
    start = {"bias": (conv.out_channels,)} if bias else {}
    inputs = {"x": conv.x_shape, "weight": conv.weight_shape}
    with function(name) as builder:
        given = arguments(inputs | start | gate(conv, gated) | {"y": conv.y_shape})
        live = samples(conv, given)
        source = Image(given["x"], conv.height, conv.width, conv.in_channels, conv.padding)
        target = Image(given["y"], conv.out_height, conv.out_width, conv.out_channels)
        tiles = winograd.grid(conv, live, transposed=False)
        _gather(Gather(conv, machine, source, target, tiles, False), given["weight"], given.get("bias"))
    return builder.get()


def input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "input_gradient"
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    before = (conv.kernel[0] - 1 - conv.padding[0], conv.kernel[1] - 1 - conv.padding[1])
    with function(name) as builder:
        given = arguments(shapes)
        live = samples(conv, given)
        source = Image(given["dy"], conv.out_height, conv.out_width, conv.out_channels, before)
        target = Image(given["dx"], conv.height, conv.width, conv.in_channels)
        tiles = winograd.grid(conv, live, transposed=True)
        _gather(Gather(conv, machine, source, target, tiles, True), given["weight"], None)
    return builder.get()


@dataclass(frozen=True)
class Gather:
    """A convolution of `source` to `target`; transposed, with the weights turned round."""

    conv: Convolution
    machine: Machine
    source: Image
    target: Image
    tiles: Grid
    transposed: bool

    @property
    def live(self) -> Samples:
        return self.tiles.live

    @cached_property
    def groups(self) -> list[Group]:
        least = _WIDE if self._fits(_BLOCK, 2) else 1
        vectors = 1 if self.target.channels <= least * self.machine.lanes else 2
        return groups(self.target.channels, self.machine.lanes, vectors)

    def together(self, vectors: int) -> int:
        """Tiles of a block whose sums for so many vectors of channels are in registers together."""
        return _BLOCK if self._fits(_BLOCK, vectors) else _BLOCK // 2

    def _fits(self, tiles: int, vectors: int) -> bool:
        return (tiles + 1) * vectors + 1 <= self.machine.registers

    @property
    def blocks_of_task(self) -> int:
        most = -(-self.conv.batch * self.tiles.rows * self.tiles.columns // _BLOCK)
        return max(1, most // _TASKS)

    def weight(self, channel: Any, position: Any, source: Any, step: int) -> Any:
        """The place of a transformed weight: the group that begins at a channel, its vectors together."""
        return (channel * PRODUCTS + position * step) * self.source.channels + source * step


def _gather(plan: Gather, weight: Any, bias: Any) -> None:
    with unless_empty(plan.live):
        transformed = _transformed_weights(plan, weight)
        size = _BLOCK * plan.blocks_of_task
        with T.parallel(ceil_div(plan.tiles.number, size)) as task:
            spread = scratch(PRODUCTS * pitch(_BLOCK, plan.source.channels))
            sums = scratch(PRODUCTS * max(pitch(_BLOCK, group.step) for group in plan.groups))
            with T.serial(plan.blocks_of_task) as block:
                first = T.bind(task * size + block * _BLOCK)
                with when(first < plan.tiles.number):
                    _spread_inputs(plan, first, spread)
                    for group in plan.groups:
                        with T.serial(group.repeat) as number:
                            channel = T.bind(group.start + number * group.step)
                            _multiply(plan, spread, transformed, sums, group, channel)
                            _collect_outputs(plan, first, sums, bias, group, channel)


def _transformed_weights(plan: Gather, weight: Any) -> Any:
    """The weights' transforms, in the order in which products take them."""
    sources, targets = plan.source.channels, plan.target.channels
    last = plan.conv.kernel[0] * plan.conv.kernel[1] - 1
    transformed = scratch(PRODUCTS * sources * targets)
    for group in plan.groups:
        with T.parallel(group.repeat * sources) as task:
            source = T.bind(task % sources)
            channel = T.bind(group.start + task // sources * group.step)

            def kernel(target: Any, width: int, source: Any = source) -> list[list[Any]]:
                side = plan.conv.kernel[0]
                places = [
                    ((last - at) * targets + target) * sources + source
                    if plan.transposed
                    else (at * sources + source) * targets + target
                    for at in range(last + 1)
                ]
                step = sources if plan.transposed else 1
                values = [
                    T.bind(weight[place if width == 1 else T.ramp(place, step, width)]) for place in places
                ]
                return [values[row * side : (row + 1) * side] for row in range(side)]

            for start, width in zip(group.starts, group.widths, strict=True):
                square = along_both(winograd.of_weights, kernel(channel + start, width))
                for row, column in product(range(IN), repeat=2):
                    place = plan.weight(channel, row * IN + column, source, group.step)
                    store(transformed, place + start, square[row][column], width)
    return transformed


def _spread_inputs(plan: Gather, first: Any, spread: Any) -> None:
    """The transforms of a block's inputs, one product's after the other's: (product, tile, channel).

    The last block repeats the last tile rather than having code of its own.
    """
    channels = plan.source.channels
    with T.serial(_BLOCK) as tile:
        place = plan.tiles.place(T.bind(least(first + tile, plan.tiles.number - 1)))
        window = winograd.window(plan.source, place, IN)
        for start, width, number in winograd.spans(plan.target.channels, plan.machine.lanes):
            with T.serial(number) as vector:
                winograd.window(plan.target, place, OUT).prefetch(start + vector * width, to_write=True)
        for start, width, number in winograd.spans(channels, plan.machine.lanes):
            with T.serial(number) as vector:
                channel = T.bind(start + vector * width)
                window.prefetch(channel, to_write=False, below=IN)
                square = along_both(winograd.of_inputs, window.square(channel, width))
                for row, column in product(range(IN), repeat=2):
                    line = (row * IN + column) * pitch(_BLOCK, channels)
                    store(spread, line + tile * channels + channel, square[row][column], width)


def _multiply(plan: Gather, spread: Any, weights: Any, sums: Any, group: Group, channel: Any) -> None:
    """Sixteen matrix products over the source channels, to (product, tile, channel of the group)."""
    channels = plan.source.channels
    vectors = list(zip(group.starts, group.widths, strict=True))
    together = plan.together(len(vectors))
    with T.serial(PRODUCTS) as position, T.serial(_BLOCK // together) as part:
        cells = [registers(group.widths) for _ in range(together)]
        for (number, (_, width)), cell in product(enumerate(vectors), cells):
            keep(cell[number], zero(width), width)
        line = T.bind(position * pitch(_BLOCK, channels) + part * together * channels)
        with T.serial(channels) as source:
            place = T.bind(plan.weight(channel, position, source, group.step))
            wide = [load(weights, place + start, width) for start, width in vectors]
            for tile, cell in enumerate(cells):
                value = T.bind(spread[line + tile * channels + source])
                for number, (_, width) in enumerate(vectors):
                    multiply_add(cell[number], splat(value, width), wide[number], width)
        to = T.bind(position * pitch(_BLOCK, group.step) + part * together * group.step)
        for (tile, cell), (number, (start, width)) in product(enumerate(cells), enumerate(vectors)):
            store(sums, to + tile * group.step + start, fetch(cell[number], width), width)


def _collect_outputs(plan: Gather, first: Any, sums: Any, bias: Any, group: Group, channel: Any) -> None:
    """The outputs of a block of tiles; those beyond the border of the image are left out."""
    target = plan.target
    with T.serial(_BLOCK) as tile:
        sample, row, column = plan.tiles.place(T.bind(least(first + tile, plan.tiles.number - 1)))
        pixel = T.bind((sample * target.height + row) * target.width + column)
        for start, width in zip(group.starts, group.widths, strict=True):
            places = [at * pitch(_BLOCK, group.step) + tile * group.step + start for at in range(PRODUCTS)]
            values = [load(sums, place, width) for place in places]
            square = [values[at : at + IN] for at in range(0, PRODUCTS, IN)]
            outputs = along_both(winograd.to_outputs, square)
            for i, j in product(range(OUT), repeat=2):
                value = outputs[i][j]
                if bias is not None:
                    value = value + load(bias, channel + start, width)
                place = (pixel + i * target.width + j) * target.channels + channel + start
                with _inside(target, row + i, column + j, i, j):
                    store(target.buffer, place, value, width)


def _inside(target: Image, row: Any, column: Any, i: int, j: int) -> AbstractContextManager[None]:
    """Asks only where tiles can stand over the border."""
    conditions = [row < target.height] if i and target.height % OUT else []
    conditions += [column < target.width] if j and target.width % OUT else []
    return when(tirx.all(*conditions)) if conditions else nullcontext()
