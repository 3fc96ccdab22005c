"""Tiles of an accumulation that fit the scratchpads, the promising ones first."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from e2compile.errors import UsageError
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Memory
from e2compile.targets.vta.schedule import estimate
from e2compile.targets.vta.schedule.bands import Bands
from e2compile.targets.vta.schedule.emit import MOST_SLOTS, Box
from e2compile.targets.vta.schedule.nest import IDLE
from e2compile.targets.vta.schedule.ranges import Range, cut, pieces, sizes
from e2compile.targets.vta.schedule.work import Accumulation

_TRIED = 3  # shapes of tiles of which streams are made and timed
_PIECES = (1, 2, 4)
# Slots of a scratchpad that is too small for all, besides those in use.
_MORE_SLOTS = 2
_MOST_SIZES = 6  # of a tile's channels


@dataclass(frozen=True)
class Tile:
    """The most of each dimension that is worked on at once, and the slots of the scratchpads.

    A tile of outputs, taps x channels x output blocks, leaves in up to `pieces` pieces. Its sums run over
    chunks of `height` x `width` pixels, and in a chunk over groups of `group` channels, whose rows an input
    slot holds in bands (see Bands). `outputs_first` walks over all channels for each tile of output blocks,
    rather than over all output blocks for each tile of channels.
    """

    taps: int
    channels: int
    outputs: int
    group: int
    height: int
    width: int
    keeps: bool = False
    pieces: int = 1
    outputs_first: bool = True
    inp_slots: int = 2
    wgt_slots: int = 2
    acc_slots: int = 2

    @property
    def whole(self) -> tuple[Range, Range, Range]:
        return (0, self.taps), (0, self.channels), (0, self.outputs)

    @property
    def wgt_elements(self) -> int:
        """Of a slot; likewise below."""
        return self.outputs * self.height * self.width

    @property
    def piece_elements(self) -> int:
        most = max(prod(extent for _, extent in part) for part in pieces(self.whole, self.pieces))
        return self.room(most)

    def room(self, sums: int) -> int:
        return sums + IDLE

    def inp_elements(self, work: Accumulation) -> int:
        all_bands = (self.bands(work, taps) for taps in cut(len(work.taps), self.taps))
        return self.group * max(bands.size * bands.columns((0, self.width))[1] for bands in all_bands)

    def bands(self, work: Accumulation, taps: Range) -> Bands:
        return Bands(work, taps, self.height, self.keeps)

    def used(self, work: Accumulation) -> int:
        """Bands that a chunk reads, at most."""
        return max(self.bands(work, taps).used for taps in cut(len(work.taps), self.taps))


def candidates(work: Accumulation, config: Config) -> Iterator[Tile]:
    """Tiles to make streams of and to time. Raises UsageError if the scratchpads are too small for any."""
    for shape in _promising(work, config):
        yield from _in_pieces(config, shape)


def _promising(work: Accumulation, config: Config) -> list[Tile]:
    """The shapes of tiles that seem fastest."""
    for taps in ([len(work.taps)], sizes(len(work.taps))):
        fitting = (t for shape in _shapes(work, config, taps) for t in _slotted(work, config, shape))
        found = heapq.nsmallest(_TRIED, fitting, key=lambda tile: _cycles(work, config, tile))
        if found:
            return found
    raise UsageError(f"the scratchpads of {config.name} are too small for any part of it")


def _in_pieces(config: Config, tile: Tile) -> list[Tile]:
    """The tile in several numbers of pieces."""
    result = []
    for count in _PIECES:
        parts = replace(tile, pieces=count)
        accs = (1 << config.log_accs) // (count * parts.piece_elements)
        if accs and len(pieces(parts.whole, count)) == count:
            result.append(replace(parts, acc_slots=min(accs, 2)))
    return result


def _shapes(work: Accumulation, config: Config, taps: list[int]) -> Iterator[Tile]:
    """Parts of a row only if one at a time, for long DMA rows; groups as large as leave slots to load."""
    places = {(rows, work.out_width) for rows in sizes(work.out_height)}
    places |= {(1, wide) for wide in sizes(work.out_width)}
    for o, k, place, keeps in product(sizes(work.outputs), taps, places, (False, True)):
        fitting = [c for c in sizes(work.channels) if c * o * k <= 1 << config.log_accs]
        for c in fitting[:_MOST_SIZES]:
            one = Tile(k, c, o, 1, *place, keeps)
            room = (1 << config.log_inps) // one.inp_elements(work)
            groups = {min(c, room // (one.used(work) + more)) for more in range(_MORE_SLOTS + 1)}
            for group in groups - {0}:
                for first in (False, True) if o < work.outputs and c < work.channels else (True,):
                    yield replace(one, group=group, outputs_first=first)


def _slotted(work: Accumulation, config: Config, tile: Tile) -> Iterator[Tile]:
    """The tile with as many slots as help, if it fits."""
    chunks, _, outputs = _counts(work, tile)
    used, groups = tile.used(work), -(-tile.channels // tile.group)
    inps = min((1 << config.log_inps) // tile.inp_elements(work), MOST_SLOTS)
    wgts = min((1 << config.log_wgts) // tile.wgt_elements, MOST_SLOTS)
    accs = (1 << config.log_accs) // tile.piece_elements
    if inps < used * (groups if tile.keeps else 1) or min(wgts, accs) < 1:
        return
    inp_use = 0 if tile.outputs_first else _bands(work, tile, used) * groups
    wgt_use = chunks if tile.outputs_first else chunks * outputs
    yield replace(
        tile,
        inp_slots=min(inps, max(inp_use, used * (groups if tile.keeps else 1) + _MORE_SLOTS)),
        wgt_slots=min(wgts, max(wgt_use, 1 + _MORE_SLOTS)),
        acc_slots=min(accs, 2),
    )


def _bands(work: Accumulation, tile: Tile, used: int) -> int:
    """Bands of a group that all chunks read."""
    chunks = _counts(work, tile)[0]
    return chunks - 1 + used if tile.keeps else chunks


def _counts(work: Accumulation, tile: Tile) -> tuple[int, int, int]:
    """Chunks of the sums, tiles of taps and channels, tiles of output blocks."""
    chunks = -(-work.out_height // tile.height) * -(-work.out_width // tile.width)
    blocks = -(-len(work.taps) // tile.taps) * -(-work.channels // tile.channels)
    return chunks, blocks, -(-work.outputs // tile.outputs)


def _cycles(work: Accumulation, config: Config, tile: Tile) -> int:
    """About how long it takes: for each tile of outputs the busiest stage, and what cannot overlap."""
    chunks, blocks, outputs = _counts(work, tile)
    used, groups = tile.used(work), -(-tile.channels // tile.group)
    sums = prod(extent for _, extent in tile.whole)
    bands = tile.bands(work, (0, tile.taps))
    wide = bands.columns((0, tile.width))[1]
    inp_box = Box(work.inp_shape, (0, 0, 0), (tile.group, bands.size, wide))
    wgt_box = Box(work.wgt_shape, (0, 0, 0), (tile.outputs, tile.height, tile.width))
    out_box = Box(work.out_shape, (0, 0, 0, 0), (1, *(extent for _, extent in tile.whole)))
    inp, wgt = estimate.moved(Memory.INP, inp_box, config), estimate.moved(Memory.WGT, wgt_box, config)
    out = estimate.moved(Memory.OUT, out_box, config)

    runs = min(tile.height, used + 1) if used > 1 else 1
    products = estimate.gemm(chunks * groups * runs + 1, sums * (work.out_height * work.out_width + 1))
    shifts = (work.planes - 1) * estimate.alu(1, sums)
    store = work.planes * out
    last = store + shifts // 2
    compute = products + shifts + (last if tile.acc_slots < 2 else 0)
    inps, wgts = inp * groups * _bands(work, tile, used), wgt * chunks
    if tile.inp_slots <= used and chunks * groups * blocks > 1:
        compute += inps
    stall = wgt + inp - (tile.inp_slots - used) * products // (chunks * groups)

    keeps_inps = not tile.outputs_first and tile.inp_slots >= groups * _bands(work, tile, used)
    keeps_wgts = tile.wgt_slots >= (chunks if tile.outputs_first else chunks * outputs)
    firsts = max(blocks if keeps_inps else 0, (outputs if tile.outputs_first else 1) if keeps_wgts else 0)
    again = (0 if keeps_inps else inps) + (0 if keeps_wgts else wgts)
    first_times = firsts * max(compute + chunks * max(stall, 0), inps + wgts, store)
    return first_times + (blocks * outputs - firsts) * max(compute, again, store) + inp + wgt + last
