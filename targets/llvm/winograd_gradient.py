"""Weight gradient by Winograd's transforms: sums of products stay in the cache while tiles stream by."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import winograd
from e2compile.targets.llvm.blocks import Cut, Group, cuts, groups
from e2compile.targets.llvm.emit import (
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
    zero,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.winograd import IN, OUT, PRODUCTS, Grid, Image, along_both, pitch

# Sums of products of so many input and output channels stay in the second-level cache ...
_SOURCES, _TARGETS = 64, 128
# ... with the transforms of so many tiles.
_BLOCK = 64
_TASKS = 16
_LEAST_TILES_OF_SPLIT = 256
_PARTIAL_BYTES = 1 << 23
_SPARE_REGISTERS = 2
_VECTORS = 2


def weight_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "weight_gradient"
) -> tirx.PrimFunc:
    """(x, dy, [index, count], dweight): dweight = the gradient of the convolution's weights."""
    shapes = {"x": conv.x_shape, "dy": conv.y_shape} | gate(conv, gated) | {"dweight": conv.weight_shape}
    with function(name) as builder:
        given = arguments(shapes)
        live = samples(conv, given)
        x = Image(given["x"], conv.height, conv.width, conv.in_channels, conv.padding)
        dy = Image(given["dy"], conv.out_height, conv.out_width, conv.out_channels)
        plan = Gradient(conv, machine, x, dy, winograd.grid(conv, live, transposed=False))
        with unless_empty(live):
            sums = scratch(plan.splits * PRODUCTS * plan.weights)
            _sum_products(plan, sums)
            _to_weights(plan, sums, given["dweight"])
    return builder.get()


@dataclass(frozen=True)
class Gradient:
    """A weight gradient: each task sums the blocks of tiles of one split, for a share of the channels."""

    conv: Convolution
    machine: Machine
    x: Image
    dy: Image
    tiles: Grid

    @property
    def weights(self) -> int:
        return self.x.channels * self.dy.channels

    @cached_property
    def shares(self) -> list[tuple[Cut, Cut]]:
        """Pairs of cuts of the input and output channels."""
        return list(product(cuts(self.x.channels, _SOURCES), cuts(self.dy.channels, _TARGETS)))

    @cached_property
    def splits(self) -> int:
        """Sets of blocks summed apart, a power of two; it must not depend on the number of threads."""
        tiles = self.conv.batch * self.tiles.rows * self.tiles.columns
        shares = sum(x.repeat * dy.repeat for x, dy in self.shares)
        room = _PARTIAL_BYTES // (4 * PRODUCTS * self.weights)
        most = min(_TASKS // shares, tiles // _LEAST_TILES_OF_SPLIT, room)
        return 1 << max(most, 1).bit_length() - 1

    @property
    def blocks(self) -> Any:
        return ceil_div(self.tiles.number, _BLOCK)

    def place(self, split: Any, position: Any, source: Any, target: Any) -> Any:
        """Where the sum of the products of an input and an output channel is."""
        return ((split * PRODUCTS + position) * self.x.channels + source) * self.dy.channels + target


@dataclass(frozen=True)
class Share:
    """`sources` input channels from `source` on, `targets` output channels from `target` on, in a split."""

    source: Any
    sources: int
    target: Any
    targets: int
    split: Any


@dataclass(frozen=True)
class Block:
    """`number` tiles from `first` on, transformed: (product, tile, channel of the share) of x and of dy.

    `index` is 0 for the first block of a split.
    """

    index: Any
    first: Any
    number: Any
    x: Any
    dy: Any


def _sum_products(plan: Gradient, sums: Any) -> None:
    for of_x, of_dy in plan.shares:
        with T.parallel(of_x.repeat * of_dy.repeat * plan.splits) as task:
            split = T.bind(task % plan.splits)
            source = T.bind(of_x.start + task // plan.splits % of_x.repeat * of_x.size)
            target = T.bind(of_dy.start + task // plan.splits // of_x.repeat * of_dy.size)
            share = Share(source, of_x.size, target, of_dy.size, split)
            x, dy = (scratch(PRODUCTS * pitch(_BLOCK, size)) for size in (of_x.size, of_dy.size))
            with T.serial(ceil_div(plan.blocks - split, plan.splits)) as index:
                first = T.bind((split + index * plan.splits) * _BLOCK)
                block = Block(index, first, T.bind(least(plan.tiles.number - first, _BLOCK)), x, dy)
                _transform(plan, share, block)
                _add_block(plan, share, block, sums)


def _transform(plan: Gradient, share: Share, block: Block) -> None:
    sides = (
        (plan.x, IN, winograd.of_inputs, share.source, share.sources, block.x),
        (plan.dy, OUT, winograd.of_gradients, share.target, share.targets, block.dy),
    )
    with T.serial(block.number) as tile:
        place = plan.tiles.place(block.first + tile)
        for image, size, transform, first, channels, to in sides:
            seen = winograd.window(image, place, size)
            for start, width, number in winograd.spans(channels, plan.machine.lanes):
                with T.serial(number) as vector:
                    channel = T.bind(start + vector * width)
                    seen.prefetch(first + channel, to_write=False, below=size)
                    square = along_both(transform, seen.square(first + channel, width))
                    _store(to, square, tile, channels, channel, width)


def _store(buffer: Any, square: list[list[Any]], tile: Any, channels: int, channel: Any, width: int) -> None:
    for row, column in product(range(IN), repeat=2):
        place = (row * IN + column) * pitch(_BLOCK, channels) + tile * channels + channel
        store(buffer, place, square[row][column], width)


def _add_block(plan: Gradient, share: Share, block: Block, sums: Any) -> None:
    """sums += x^T dy, one matrix product after the other, register tile by register tile."""
    vectors = min(_VECTORS, -(-share.targets // plan.machine.lanes))
    room = (plan.machine.registers - _SPARE_REGISTERS - vectors) // vectors
    with T.serial(PRODUCTS) as position:
        for group in groups(share.targets, plan.machine.lanes, vectors):
            for cut in cuts(share.sources, 1 << room.bit_length() - 1):
                with T.serial(group.repeat) as number, T.serial(cut.repeat) as piece:
                    target = T.bind(group.start + number * group.step)
                    source = T.bind(cut.start + piece * cut.size)
                    Tile(plan, share, block, position, group, target, source, cut.size).emit(sums)


@dataclass(frozen=True)
class Tile:
    """One register tile: `sources` input channels from `source` x the group of output channels at `target`.

    Both count from the share's first.
    """

    plan: Gradient
    share: Share
    block: Block
    position: Any
    group: Group
    target: Any
    source: Any
    sources: int

    def emit(self, sums: Any) -> None:
        cells = [registers(self.group.widths) for _ in range(self.sources)]
        places = [
            (cell[number], T.bind(self._place(row) + start), width)
            for (row, cell), (number, (start, width)) in product(enumerate(cells), enumerate(self._vectors))
        ]
        with T.If(self.block.index == 0):
            with T.Then():
                for register, _, width in places:
                    keep(register, zero(width), width)
            with T.Else():
                for register, place, width in places:
                    keep(register, load(sums, place, width), width)
        sources, targets = self.share.sources, self.share.targets
        x_line = T.bind(self.position * pitch(_BLOCK, sources) + self.source)
        dy_line = T.bind(self.position * pitch(_BLOCK, targets) + self.target)
        with T.serial(self.block.number) as tile:
            x, dy = T.bind(x_line + tile * sources), T.bind(dy_line + tile * targets)
            wide = [load(self.block.dy, dy + start, width) for start, width in self._vectors]
            for row, cell in enumerate(cells):
                value = T.bind(self.block.x[x + row])
                for number, (_, width) in enumerate(self._vectors):
                    multiply_add(cell[number], splat(value, width), wide[number], width)
        for register, place, width in places:
            store(sums, place, fetch(register, width), width)

    @property
    def _vectors(self) -> list[tuple[int, int]]:
        return list(zip(self.group.starts, self.group.widths, strict=True))

    def _place(self, row: int) -> Any:
        source, target = self.share.source + self.source + row, self.share.target + self.target
        return self.plan.place(self.share.split, self.position, source, target)


def _to_weights(plan: Gradient, sums: Any, dweight: Any) -> None:
    """Adds up the splits that have blocks, in their order, and transforms the sums."""
    side = plan.conv.kernel[0]
    with T.parallel(plan.x.channels) as source:
        for start, width, number in winograd.spans(plan.dy.channels, plan.machine.lanes):
            with T.serial(number) as vector:
                target = T.bind(start + vector * width)
                totals = registers([width] * PRODUCTS)
                for total in totals:
                    keep(total, zero(width), width)
                with T.serial(least(plan.blocks, plan.splits)) as split:
                    for position, total in enumerate(totals):
                        value = load(sums, plan.place(split, position, source, target), width)
                        keep(total, fetch(total, width) + value, width)
                values = [T.bind(fetch(total, width)) for total in totals]
                square = [values[at : at + IN] for at in range(0, PRODUCTS, IN)]
                kernel = along_both(winograd.to_weights, square)
                for row, column in product(range(side), repeat=2):
                    line = (row * side + column) * plan.x.channels + source
                    store(dweight, line * plan.dy.channels + target, kernel[row][column], width)
