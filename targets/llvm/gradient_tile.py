"""The register tile of a weight gradient: input channels x taps x vectors of output channels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.axis import Tile
from e2compile.targets.llvm.emit import (
    Samples,
    ceil_div,
    fetch,
    keep,
    least,
    load,
    pointer,
    registers,
    splat,
    store,
    zero,
)
from e2compile.targets.llvm.gradient_plan import GradientPlan, TileClass


@dataclass(frozen=True)
class Images:
    """What is summed over: inputs, gradients of the outputs, and which samples of them live."""

    x: Any
    dy: Any
    live: Samples


@dataclass(frozen=True)
class Piece:
    """The `index`-th piece of a split: its units first ... last, each a band of an image."""

    index: Any
    split: Any
    first: Any
    last: Any


class SumTile:
    """One register tile summed over one piece of the images; `emit` writes its code."""

    def __init__(
        self, plan: GradientPlan, images: Images, target: Any, piece: Piece, kind: TileClass, number: Any
    ) -> None:
        self.plan, self.images, self.target, self.piece, self.kind = plan, images, target, piece, kind
        group = kind.group
        self.kernel_row = T.bind(number % plan.rows.kernel)
        rest = number // plan.rows.kernel
        self.channel = T.bind(kind.channel + rest % kind.repeat * kind.channels)
        part = T.bind(rest // kind.repeat // group.repeat)
        self.source = T.bind(part * plan.sources + self.channel)
        vector = group.start + rest // kind.repeat % group.repeat * group.step
        self.out = T.bind(part * plan.targets + vector)
        self.sums = {
            (channel, tap): registers([width for _, _, width in self._vectors()], plan.arithmetic.dtype)
            for channel, tap in product(range(kind.channels), range(len(kind.taps.taps)))
        }

    def emit(self) -> None:
        self._begin()
        plan, piece = self.plan, self.piece
        with T.serial(piece.first, piece.last) as number:
            unit = T.bind(piece.split + number * plan.splits)
            place = T.bind(self.images.live[unit // plan.bands])
            with T.serial(*self._rows(unit % plan.bands)) as row:
                source_row = row * plan.rows.scale + self.kernel_row * plan.rows.spread + plan.rows.shift
                x_line = T.bind(place * plan.rows.source + source_row)
                y_line = T.bind(place * plan.rows.target + row)
                for tile in self.kind.tiles:
                    with T.serial(tile.repeat) as run:
                        self._sum(tile, x_line, y_line, tile.first + run * tile.size)
        for register, index, width in self._places():
            store(self.target, index, fetch(register, width), width)

    def _rows(self, band: Any) -> tuple[Any, Any]:
        """The output rows of a band for which this kernel row is inside the image."""
        axis = self.plan.rows
        first, last = (axis.target * (band + i) // self.plan.bands for i in (0, 1))
        before = T.bind(self.kernel_row * axis.spread + axis.shift)
        low = tirx.max(first, ceil_div(tirx.max(-before, 0), axis.scale))
        high = least(last, ceil_div(tirx.max(axis.source - before, 0), axis.scale))
        return T.bind(low), T.bind(high)

    def _vectors(self) -> Iterator[tuple[int, int, int]]:
        group = self.kind.group
        for number, (start, width) in enumerate(zip(group.starts, group.widths, strict=True)):
            yield number, start, self.plan.arithmetic.width(width)

    def _places(self) -> Iterator[tuple[Any, Any, int]]:
        """Each accumulator: its register, its place in memory, its width."""
        conv = self.plan.conv
        inner = self.plan.sources
        for (channel, tap), sums in self.sums.items():
            column = self.kernel_row * conv.kernel[1] + self.kind.taps.taps[tap].kernel
            line = (column * inner + self.channel + channel) * conv.out_channels
            index = self.piece.split * prod(conv.weight_shape) + line + self.out
            group = self.kind.group
            for register, start, width in zip(sums, group.starts, group.widths, strict=True):
                yield register, index + start, width

    def _begin(self) -> None:
        """Goes on from what the pieces before summed."""
        with T.If(self.piece.index == 0):
            with T.Then():
                for register, _, width in self._places():
                    keep(register, zero(width, self.plan.arithmetic.dtype), width)
            with T.Else():
                for register, index, width in self._places():
                    keep(register, load(self.target, index, width), width)

    def _sum(self, tile: Tile, x_line: Any, y_line: Any, position: Any) -> None:
        """Adds up one run of output columns."""
        columns, conv = self.plan.columns, self.plan.conv
        dy = pointer(self.images.dy, (y_line * columns.target + position) * conv.out_channels + self.out)
        first = self.out if self.plan.depthwise else self.source
        pixel = x_line * columns.source + position * columns.scale
        x = pointer(self.images.x, pixel * conv.in_channels + first)
        used = {at for _, pairs in tile.reads for at, _ in pairs}
        gradients = {
            (at, number): load(dy, at * conv.out_channels + start, width)
            for at, (number, start, width) in product(sorted(used), self._vectors())
        }
        for (offset, pairs), channel in product(tile.reads, range(self.kind.channels)):
            values = self._values(x, offset * conv.in_channels + channel)
            for (at, tap), (number, _, width) in product(pairs, self._vectors()):
                target = self.sums[channel, tap][number]
                self.plan.arithmetic.add(target, values[number], gradients[at, number], width)

    def _values(self, x: Any, index: int) -> list[Any]:
        """What multiplies each vector of gradients: its own channels of x, or one channel in each lane."""
        if self.plan.depthwise:
            return [load(x, index + start, width) for _, start, width in self._vectors()]
        value = T.bind(x[index])
        wide = {width: T.bind(splat(value, width)) for _, _, width in self._vectors()}
        return [wide[width] for _, _, width in self._vectors()]
