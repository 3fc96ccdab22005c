"""Tiles of a correlation that fit the scratchpads, the promising ones first."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.footprint import DISTANCE
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Memory
from e2compile.targets.vta.schedule import estimate
from e2compile.targets.vta.schedule.emit import MOST_SLOTS, Box
from e2compile.targets.vta.schedule.ranges import Range, cut, pieces, reach, sizes
from e2compile.targets.vta.schedule.work import Correlation

_TRIED = 4  # shapes of tiles of which streams are made and timed
_PIECES = (1, 2, 3)
# Slots of a scratchpad that is too small for all: one in use, the others loading.
_SLOTS = 4


@dataclass(frozen=True)
class Tile:
    """The most of each dimension that is worked on at once, and the slots of the scratchpads.

    A tile of outputs is made of up to `pieces` pieces, each with its own accumulators; its products are made
    in chunks of `inputs` input blocks and `taps` taps. `outputs_first` walks over all positions for each tile
    of output blocks, rather than over all output blocks for each tile of positions.
    """

    outputs: int
    images: int
    height: int
    width: int
    inputs: int
    taps: int
    pieces: int = 1
    outputs_first: bool = False
    inp_slots: int = 2
    wgt_slots: int = 2
    acc_slots: int = 2

    @property
    def whole(self) -> tuple[Range, Range, Range, Range]:
        return (0, self.outputs), (0, self.images), (0, self.height), (0, self.width)

    @property
    def wgt_elements(self) -> int:
        """Of a slot; likewise below."""
        return self.outputs * self.inputs * self.taps

    @property
    def piece_elements(self) -> int:
        most = max(prod(extent for _, extent in part) for part in pieces(self.whole, self.pieces))
        return self.room(most)

    def room(self, sums: int) -> int:
        return max(sums, DISTANCE)

    def inp_elements(self, work: Correlation) -> int:
        _, _, rows, columns = self.whole
        windows = (window(work, taps, rows, columns) for taps in cut(len(work.taps), self.taps))
        return self.inputs * self.images * max(high * wide for (_, high), (_, wide) in windows)


def window(work: Correlation, taps: Range, rows: Range, columns: Range) -> tuple[Range, Range]:
    """The input rows and columns that some taps read for a part of an image, and what fills a DMA row."""
    down, right = map(list, zip(*work.taps[taps[0] : sum(taps)], strict=True))
    high = reach(rows, work.stride[0], down)
    wide = reach(columns, work.stride[1], right)
    if columns[1] == work.out_width and work.in_width - wide[1] < estimate.ROW:
        wide = 0, work.in_width
        if rows[1] == work.out_height and (work.in_height - high[1]) * work.in_width < estimate.ROW:
            high = 0, work.in_height
    return high, wide


def candidates(work: Correlation, config: Config) -> Iterator[Tile]:
    """Tiles to make streams of and to time. Raises UsageError if the scratchpads are too small for any."""
    for shape in _promising(work, config):
        yield from _in_pieces(work, config, shape)


def _promising(work: Correlation, config: Config) -> list[Tile]:
    """The shapes of tiles that seem fastest."""
    for taps in ([len(work.taps)], sizes(len(work.taps))):
        fitting = (t for shape in _shapes(work, taps) for t in _slotted(work, config, shape))
        found = heapq.nsmallest(_TRIED, fitting, key=lambda tile: _cycles(work, config, tile))
        if found:
            return found
    raise UsageError(f"the scratchpads of {config.name} are too small for any part of it")


def _shapes(work: Correlation, taps: list[int]) -> Iterator[Tile]:
    """Long DMA rows come first: several images only if whole, parts of a row only if one at a time."""
    height, width = work.out_height, work.out_width
    places = {(n, height, width) for n in sizes(work.images)}
    places |= {(1, rows, width) for rows in sizes(height)} | {(1, 1, columns) for columns in sizes(width)}
    for place, o, c, k in product(places, sizes(work.outputs), sizes(work.inputs), taps):
        for first in (False, True) if o < work.outputs else (False,):
            yield Tile(o, *place, c, k, outputs_first=first)


def _slotted(work: Correlation, config: Config, tile: Tile) -> Iterator[Tile]:
    """The tile with as many slots as help, if it fits."""
    places, chunks, blocks = _counts(work, tile)
    inps = min((1 << config.log_inps) // tile.inp_elements(work), MOST_SLOTS)
    wgts = min((1 << config.log_wgts) // tile.wgt_elements, MOST_SLOTS)
    accs = (1 << config.log_accs) // tile.piece_elements
    if min(inps, wgts, accs) < 1:
        return
    inp_use = places * chunks if tile.outputs_first else chunks
    wgt_use = chunks if tile.outputs_first else blocks * chunks
    yield replace(
        tile,
        inp_slots=min(inps, max(inp_use, _SLOTS)),
        wgt_slots=min(wgts, max(wgt_use, _SLOTS)),
        acc_slots=min(accs, 2),
    )


def _in_pieces(work: Correlation, config: Config, tile: Tile) -> list[Tile]:
    """The tile in several numbers of pieces, first those that give each plane time to leave: more of them
    wait less, fewer have longer DMA rows."""
    _, chunks, _ = _counts(work, tile)
    result = []
    for count in _PIECES:
        parts = replace(tile, pieces=count)
        accs = (1 << config.log_accs) // (count * parts.piece_elements)
        if accs and len(pieces(parts.whole, count)) == count:
            result.append(replace(parts, acc_slots=min(accs, 2)))
    return sorted(result, key=lambda tile: chunks * tile.pieces < work.planes)


def _counts(work: Correlation, tile: Tile) -> tuple[int, int, int]:
    """Tiles of positions, chunks of the sums, tiles of output blocks."""
    rows, columns = -(-work.out_height // tile.height), -(-work.out_width // tile.width)
    chunks = -(-work.inputs // tile.inputs) * -(-len(work.taps) // tile.taps)
    return -(-work.images // tile.images) * rows * columns, chunks, -(-work.outputs // tile.outputs)


def _cycles(work: Correlation, config: Config, tile: Tile) -> int:
    """About how long it takes: the busiest stage, and what cannot overlap."""
    places, chunks, blocks = _counts(work, tile)
    sums = prod(work.out_shape[1:])
    gemm = estimate.gemm(places * blocks * (chunks + 1), work.products + sums)
    shifts = (work.planes - 1) * estimate.alu(places * blocks, sums)

    inp_loads, wgt_loads = places * chunks, blocks * chunks
    if tile.outputs_first:
        inp_loads *= 1 if inp_loads <= tile.inp_slots else blocks
        wgt_loads *= 1 if chunks <= tile.wgt_slots else places
    else:
        inp_loads *= 1 if chunks <= tile.inp_slots else blocks
        wgt_loads *= 1 if wgt_loads <= tile.wgt_slots else places
    (_, high), (_, wide) = window(work, (0, tile.taps), *tile.whole[2:])
    inp_box = Box(work.inp_shape, (0, 0, 0, 0), (tile.inputs, tile.images, high, wide))
    wgt_box = Box(work.wgt_shape, (0, 0, 0), (tile.outputs, tile.inputs, tile.taps))
    out_box = Box(work.out_shape, (0, 0, 0, 0, 0), (1, *(extent for _, extent in tile.whole)))
    inp, wgt = estimate.moved(Memory.INP, inp_box, config), estimate.moved(Memory.WGT, wgt_box, config)
    out = estimate.moved(Memory.OUT, out_box, config)

    compute, load = gemm + shifts, inp * inp_loads + wgt * wgt_loads
    store = work.planes * out * places * blocks
    last = work.planes * out + (work.planes - 1) * estimate.alu(1, prod(out_box.extent)) // 2
    if tile.acc_slots < 2:
        compute += last * places * blocks
    if min(tile.inp_slots, inp_loads) < 2 < inp_loads or min(tile.wgt_slots, wgt_loads) < 2 < wgt_loads:
        compute += load
    return max(compute, load, store) + inp + wgt + last
