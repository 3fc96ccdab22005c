"""Weight gradient of single pixels: a product of matrices, a packed block of pixels at a time."""

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
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
            for side, source, to in zip(plan.sides, sources, packed, strict=True):
                _pack(plan, side, pixels, block, source, to, share)
            for wide in pieces(plan.wide, share, plan.shares):
                for narrow in pieces(plan.narrow):
                    _sum_tile(plan, block, narrow, wide, sums)


def _pack(plan: SumPlan, side: Side, pixels: Pixels, block: Block, source: Any, to: Any, share: Any) -> None:
    """Copies a block, group of channels by group of channels; a share copies the wide ones that it sums."""
    part = (share, plan.shares) if side is plan.wide else ()
    with T.serial(block.size) as number:
        line = T.bind(pixels[block.start + number] * side.channels)
        for piece in pieces(side, *part):
            place = T.bind(piece.channel * plan.pitch + number * piece.group.step)
            for start, width in piece.vectors:
                store(to, place + start, load(source, line + piece.channel + start, width), width)


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
    for side, source in zip(plan.sides, block.sources, strict=True):
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
