"""What tiles of a weight gradient are loaded from: four samples as one, and matrices turned around."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.dot import joined
from e2compile.targets.llvm.emit import Samples, at, least, load, pointer, splat, store, zero
from e2compile.targets.llvm.interleave import mask
from e2compile.targets.llvm.tiles import DEPTH, LANES, ROWS

_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Image:
    """Samples of (height, width, channels) and where their pixels go: `origin` is the first one's place.

    The copy counts places of 16 int32 lanes: rows are `pitch` of them apart, groups of 16 channels `size`.
    """

    buffer: Any
    height: int
    width: int
    channels: int
    origin: int
    pitch: int
    size: int

    @property
    def groups(self) -> int:
        return self.channels // LANES

    def copy(self, live: Samples, group: Any, to: Any, start: Any) -> None:
        """The `group`-th four live samples, each a byte of every lane; what is missing to four is zero."""
        pixels = self.height * self.width
        places = [live[least(group * DEPTH + each, live.number - 1)] for each in range(DEPTH)]
        lines = [pointer(self.buffer, place * (pixels * self.channels)) for place in places]
        kept = splat(T.bind(mask(live.number - group * DEPTH, DEPTH)), LANES)
        with T.serial(self.groups) as block, T.serial(self.height) as row, T.serial(self.width) as column:
            source = T.bind((row * self.width + column) * self.channels + block * LANES)
            place = block * self.size + self.origin + row * self.pitch + column
            value = joined([line[at(source, LANES)] for line in lines], DEPTH, LANES)
            store(to, start + place * LANES, T.bitwise_and(value, kept), LANES)

    def clear(self, to: Any, start: Any) -> None:
        """Zeros wherever `copy` puts no pixel."""
        end = self.origin + (self.height - 1) * self.pitch + self.width
        with T.serial(self.groups) as block:
            first = T.bind(start + block * self.size * LANES)
            _clear(to, first, self.origin)
            with T.serial(self.height - 1) as row:
                gap = T.bind(first + (self.origin + row * self.pitch + self.width) * LANES)
                _clear(to, gap, self.pitch - self.width)
            _clear(to, first + end * LANES, self.size - end)


def _clear(to: Any, start: Any, places: int) -> None:
    with T.serial(places) as place:
        store(to, start + place * LANES, zero(LANES, "int32"), LANES)


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
