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

    That counts places of 16 int32 lanes: the first pixel has `origin`, rows are `pitch` of them apart, groups
    of 16 channels `size`.
    """

    buffer: Any
    shape: tuple[int, ...]
    origin: int
    pitch: int
    size: int

    def copy(self, live: Samples, group: Any, to: Any, start: Any) -> None:
        """The `group`-th four live samples, each a byte of every lane; what is missing to four is zero."""
        height, width, channels = self.shape
        lines = self.samples(live, group)
        kept = splat(T.bind(mask(live.number - group * DEPTH, DEPTH)), LANES)
        with T.serial(channels // LANES) as block, T.serial(height) as row, T.serial(width) as column:
            source = T.bind((row * width + column) * channels + block * LANES)
            place = block * self.size + self.origin + row * self.pitch + column
            value = joined([line[at(source, LANES)] for line in lines], DEPTH, LANES)
            store(to, start + place * LANES, T.bitwise_and(value, kept), LANES)

    def samples(self, live: Samples, group: Any) -> list[Any]:
        """The `group`-th four live samples; the last one stands for those that are missing."""
        places = [live[least(group * DEPTH + each, live.number - 1)] for each in range(DEPTH)]
        return [pointer(self.buffer, place * prod(self.shape)) for place in places]

    def clear(self, to: Any, start: Any) -> None:
        """Zeros wherever `copy` puts no pixel."""
        height, width, channels = self.shape
        end = self.origin + (height - 1) * self.pitch + width
        with T.serial(channels // LANES) as block:
            first = T.bind(start + block * self.size * LANES)
            clear(to, first, self.origin * LANES)
            with T.serial(height - 1) as row:
                gap = T.bind(first + (self.origin + row * self.pitch + width) * LANES)
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
