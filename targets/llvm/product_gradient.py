"""Weight gradient of single pixels: a product of matrices, a packed block of pixels at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import vectors
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
    prefetch,
    registers,
    samples,
    scratch,
    splat,
    store,
    unless_empty,
    zero,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.product import Piece, Pixels, Side, asked, pieces
from e2compile.targets.llvm.product_gradient_plan import SumPlan, sum_plan


def weight_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "weight_gradient"
) -> tirx.PrimFunc:
    """(x, dy, [index, count], dweight): dweight = the gradient of the convolution's weights."""
    shapes = {"x": conv.x_shape, "dy": conv.y_shape} | gate(conv, gated) | {"dweight": conv.weight_shape}
    with function(name) as builder:
        given = arguments(shapes)
        plan = sum_plan(conv, machine)
        pixels = Pixels(samples(conv, given), plan.pixels)
        names = ("dy", "x") if plan.transposed else ("x", "dy")
        with unless_empty(pixels.live):
            sums = scratch(plan.splits * plan.size)
            _sum_up(plan, tuple(given[name] for name in names), pixels, sums)
            _add_up(plan, sums, given["dweight"])
    return builder.get()


@dataclass(frozen=True)
class Block:
    """`size` pixels from the `start`-th on, and the place of the first one after them.

    `packed` are copies of what they have in `sources`, on the narrow and on the wide side.
    """

    sources: tuple[Any, ...]
    packed: tuple[Any, ...]
    split: Any
    is_first: Any
    start: Any
    size: Any
    coming: Any


def _sum_up(plan: SumPlan, sources: tuple[Any, ...], pixels: Pixels, sums: Any) -> None:
    """Each split sums its own run of blocks of pixels; each share of it has some of the wide channels."""
    number = T.bind(pixels.number)
    blocks = T.bind(ceil_div(number, plan.block))
    with T.parallel(plan.splits * plan.shares) as task:
        split, share = T.bind(task // plan.shares), T.bind(task % plan.shares)
        packed = tuple(scratch(side.channels * plan.pitch) for side in plan.sides)
        first = T.bind(blocks * split // plan.splits)
        with T.serial(T.bind(blocks * (split + 1) // plan.splits) - first) as index:
            start = T.bind((first + index) * plan.block)
            size = T.bind(least(number - start, plan.block))
            coming = pixels[least(start + plan.block, number - 1)]
            block = Block(sources, packed, split, index == 0, start, size, coming)
            if plan.is_window:
                _pack_windows(plan, pixels, block)
            else:
                _pack(plan, plan.narrow, pixels, block, sources[0], packed[0])
            _pack(plan, plan.wide, pixels, block, sources[1], packed[1], share, plan.shares)
            for wide in pieces(plan.wide, share, plan.shares):
                for narrow in pieces(plan.narrow):
                    _sum_tile(plan, block, narrow, wide, sums)


def _pack(plan: SumPlan, side: Side, pixels: Pixels, block: Block, source: Any, to: Any, *part: Any) -> None:
    """Copies a block, group of channels by group of channels, of which a share may have a part."""
    with T.serial(block.size) as number:
        line = T.bind(pixels[block.start + number] * side.channels)
        for piece in pieces(side, *part):
            place = T.bind(piece.channel * plan.pitch + number * piece.group.step)
            for start, width in piece.vectors:
                store(to, place + start, load(source, line + piece.channel + start, width), width)


def _pack_windows(plan: SumPlan, pixels: Pixels, block: Block) -> None:
    """Copies the windows that a block's pixels see, one after the other, with zeros beyond the border."""
    conv = plan.conv
    size = conv.kernel[1] * conv.in_channels
    with T.serial(block.size) as number:
        place = pixels[block.start + number]
        row = T.bind(place % plan.pixels // conv.out_width * conv.stride[0] - conv.padding[0])
        column = T.bind(place % conv.out_width * conv.stride[1] - conv.padding[1])
        image = T.bind(place // plan.pixels * conv.height)
        for tap in range(conv.kernel[0]):
            seen = tirx.all(row + tap >= 0, row + tap < conv.height)
            whole = tirx.all(seen, column >= 0, column + conv.kernel[1] <= conv.width)
            line = T.bind(((image + row + tap) * conv.width + column) * conv.in_channels)
            to = T.bind(number * plan.narrow.channels + tap * size)
            with T.If(whole):
                with T.Then():
                    _copy(block, line, to, vectors(size, plan.machine.lanes))
                with T.Else(), T.serial(conv.kernel[1]) as at:
                    inside = tirx.all(seen, column + at >= 0, column + at < conv.width)
                    with T.serial(conv.in_channels) as channel:
                        step = T.bind(at * conv.in_channels + channel)
                        value = T.if_then_else(inside, block.sources[0][line + step], T.float32(0))
                        store(block.packed[0], to + step, value, 1)


def _copy(block: Block, line: Any, to: Any, widths: Sequence[int]) -> None:
    for start, width in zip(accumulate(widths, initial=0), widths, strict=False):
        store(block.packed[0], to + start, load(block.sources[0], line + start, width), width)


def _sum_tile(plan: SumPlan, block: Block, narrow: Piece, wide: Piece, sums: Any) -> None:
    """Adds what a block has for one register tile, and asks for its part of what the next block reads."""
    cells = [registers(wide.group.widths) for _ in range(narrow.group.step)]
    origin = T.bind(
        block.split * plan.size + wide.channel * plan.narrow.channels + narrow.channel * wide.group.step
    )
    places = [
        (cell[number], origin + row * wide.group.step + start, width)
        for row, cell in enumerate(cells)
        for number, (start, width) in enumerate(wide.vectors)
    ]
    with T.If(block.is_first):
        with T.Then():
            for register, _, width in places:
                keep(register, zero(width), width)
        with T.Else():
            for register, place, width in places:
                keep(register, load(sums, place, width), width)
    tile = T.bind((wide.index * plan.narrow.number + narrow.index) * plan.block)
    with T.serial(block.size) as pixel:
        _sum_pixel(plan, block, narrow, wide, pixel, cells)
        _ask(plan, block, tile + pixel)
    for register, place, width in places:
        store(sums, place, fetch(register, width), width)


def _sum_pixel(
    plan: SumPlan, block: Block, narrow: Piece, wide: Piece, pixel: Any, cells: list[list[Any]]
) -> None:
    left, right = block.packed
    if plan.is_window:
        row = T.bind(pixel * plan.narrow.channels + narrow.channel)
    else:
        row = T.bind(narrow.channel * plan.pitch + pixel * narrow.group.step)
    column = T.bind(wide.channel * plan.pitch + pixel * wide.group.step)
    values = [load(right, column + start, width) for start, width in wide.vectors]
    for number, cell in enumerate(cells):
        value = T.bind(left[row + number])
        splats = {width: T.bind(splat(value, width)) for width in wide.group.widths}
        for register, other, width in zip(cell, values, wide.group.widths, strict=True):
            multiply_add(register, splats[width], other, width)


def _ask(plan: SumPlan, block: Block, step: Any) -> None:
    """One step's share of the next block's cache lines: as many steps as a block has ask for all of them."""
    steps = plan.narrow.number * plan.wide.number
    for side, source in list(zip(plan.sides, block.sources, strict=True))[plan.is_window :]:
        lines, stride = asked(side.channels, steps)
        for line in range(lines):
            prefetch(source, block.coming * side.channels + (step * lines + line) * stride)


def _add_up(plan: SumPlan, sums: Any, target: Any) -> None:
    """Adds the splits in their order, whichever thread summed them, and puts each sum in its place."""
    row_step, column_step = (1, plan.narrow.channels) if plan.transposed else (plan.wide.channels, 1)
    with T.parallel(plan.narrow.channels) as row:
        for piece in pieces(plan.wide):
            origin = T.bind(piece.channel * plan.narrow.channels + row * piece.group.step)
            for start, width in piece.vectors:
                (total,) = registers([width])
                keep(total, load(sums, origin + start, width), width)
                with T.serial(plan.splits - 1) as split:
                    place = (split + 1) * plan.size + origin + start
                    keep(total, fetch(total, width) + load(sums, place, width), width)
                to = row * row_step + (piece.channel + start) * column_step
                index = T.ramp(to, column_step, width) if width > 1 else to
                T.buffer_store(target, fetch(total, width), [index])
