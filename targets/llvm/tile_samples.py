"""What tiles of a weight gradient are loaded from: four samples as one, and matrices turned around."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.dot import joined
from e2compile.targets.llvm.emit import Samples, at, least, load, pointer, splat, store
from e2compile.targets.llvm.interleave import mask
from e2compile.targets.llvm.tile_operands import clear
from e2compile.targets.llvm.tiles import DEPTH, LANES, ROWS

_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Image:
    """Samples, each of a `shape` (height, width, channels), and where their pixels go in a copy.

    That counts places of 16 int32 lanes. There is a line of `line` places for each row and column within a
    stride of the padded image, in which the rows are `pitch` places apart, for each group of 16 channels.
    """

    buffer: Any
    shape: tuple[int, ...]
    pitch: int
    line: int
    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)

    @property
    def size(self) -> int:
        """Places of a group of channels."""
        return prod(self.stride) * self.line

    def place(self, row: Any, column: Any) -> Any:
        """A pixel's in a group of channels."""
        (rows, columns), (above, left) = self.stride, self.padding
        row, column = row + above, column + left
        line = row % rows * columns + column % columns
        return line * self.line + row // rows * self.pitch + column // columns

    def copy(self, live: Samples, group: Any, to: Any, start: Any) -> None:
        """The `group`-th four live samples, each a byte of every lane; what is missing to four is zero."""
        height, width, channels = self.shape
        lines = self.samples(live, group)
        kept = splat(T.bind(mask(live.number - group * DEPTH, DEPTH)), LANES)
        with T.serial(channels // LANES) as block, T.serial(height) as row, T.serial(width) as column:
            source = T.bind((row * width + column) * channels + block * LANES)
            place = block * self.size + self.place(row, column)
            value = joined([line[at(source, LANES)] for line in lines], DEPTH, LANES)
            store(to, start + place * LANES, T.bitwise_and(value, kept), LANES)

    def samples(self, live: Samples, group: Any) -> list[Any]:
        """The `group`-th four live samples; the last one stands for those that are missing."""
        places = [live[least(group * DEPTH + each, live.number - 1)] for each in range(DEPTH)]
        return [pointer(self.buffer, place * prod(self.shape)) for place in places]

    def clear(self, to: Any, start: Any) -> None:
        """Zeros wherever `copy` puts no pixel, at least."""
        height, width, channels = self.shape
        if self.stride != (1, 1):
            clear(to, start, channels * self.size)
            return
        origin, end = self.place(0, 0), self.place(height - 1, width - 1) + 1
        with T.serial(channels // LANES) as block:
            first = T.bind(start + block * self.size * LANES)
            clear(to, first, origin * LANES)
            with T.serial(height - 1) as row:
                gap = T.bind(first + (origin + row * self.pitch + width) * LANES)
                clear(to, gap, (self.pitch - width) * LANES)
            clear(to, first + end * LANES, (self.size - end) * LANES)


def turn(source: Any, start: Any, to: Any, place: Any) -> None:
    """A tile of int32 with its rows as columns."""
    rows = [load(source, start + row * LANES, LANES) for row in range(ROWS)]
    for row, value in enumerate(turned(rows)):
        store(to, place + row * LANES, value, LANES)


def turned(rows: Sequence[Any]) -> list[Any]:
    """The columns of 16 vectors: beside the diagonal, blocks of 1, 2, 4 and 8 lanes change places."""
    rows = list(rows)
    for step in _STEPS:
        for upper in (row for row in range(ROWS) if not row & step):
            pair = [rows[upper], rows[upper + step]]
            low = [lane + (LANES - step if lane & step else 0) for lane in range(LANES)]
            rows[upper] = _picked(pair, low)
            rows[upper + step] = _picked(pair, [lane + step for lane in low])
    return rows


def _picked(pair: list[Any], lanes: Sequence[int]) -> Any:
    """Lanes of two vectors, those of the second counted after those of the first."""
    return T.bind(T.Shuffle(pair, [T.int32(lane) for lane in lanes]))
