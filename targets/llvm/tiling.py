"""Estimates for how many samples, positions and vectors of channels a gather's register tile can hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from e2compile.targets.llvm.axis import Lattice, Tile
from e2compile.targets.llvm.blocks import group_sizes, groups
from e2compile.targets.llvm.machine import Machine

_MOST_SAMPLES = 8
_MOST_VECTORS = 6
# Chains of dependent multiply-adds that keep two units with a latency of four cycles busy.
_CHAINS = 8
# Cycles, where a multiply-add is one: weights stream from the second-level cache, sources sit in the first.
_WEIGHT_LOAD = 1.5
_SOURCE_LOAD = 0.5
# Breaks ties: fewer samples, whose rows lie far apart in memory, fewer loads, less code.
_SAMPLE = 0.01
_LOAD_ISSUE = 0.05
_CODE = 1e-5


@dataclass(frozen=True)
class RegisterTile:
    """`samples` x `positions` (one number for each lattice) x `vectors` accumulators."""

    samples: int
    positions: tuple[int, ...]
    vectors: int


def fits_reuse(accumulators: int, vectors: int, taps: int, machine: Machine) -> bool:
    """Whether the weights of all taps can stay in registers while each source is read once."""
    return accumulators + vectors * taps + 1 <= machine.registers


def priced(
    lattices: Sequence[Lattice],
    channels: int,
    batch: int,
    depthwise: bool,
    machine: Machine,
    planes: int,
) -> Iterator[tuple[float, RegisterTile]]:
    """The tiles that fit the registers, each with its estimated cycles a sample, over all lattices of a row.

    Where there are several lattices, their best numbers of positions go together, then their second best.
    A sample has accumulators for each of `planes` byte planes.
    """
    numbers = group_sizes(channels, machine.lanes, _MOST_VECTORS)
    for samples, vectors in product(range(1, min(batch, _MOST_SAMPLES) + 1), numbers):
        room = (machine.registers - 2 - vectors) // (samples * planes * vectors)
        if room < 1:
            continue
        shape = _Shape(samples * planes, vectors, channels, depthwise, machine)
        sizes = [sorted(_sizes(lattice, room, shape)) for lattice in lattices]
        for rank in range(max(map(len, sizes))):
            picks = [ranked[min(rank, len(ranked) - 1)] for ranked in sizes]
            tile = RegisterTile(samples, tuple(size for _, size in picks), vectors)
            yield sum(cost for cost, _ in picks), tile


@dataclass(frozen=True)
class _Shape:
    samples: int
    vectors: int
    channels: int
    depthwise: bool
    machine: Machine


def _sizes(lattice: Lattice, room: int, shape: _Shape) -> Iterator[tuple[float, int]]:
    for size in range(1, min(room, lattice.count) + 1):
        tiles = lattice.tiles(size)
        cycles = code = 0.0
        for group, tile in product(groups(shape.channels, shape.machine.lanes, shape.vectors), tiles):
            vectors = len(group.widths)
            cycles += group.repeat * tile.repeat * _cycles(tile, len(lattice.taps), vectors, shape)
            code += shape.samples * tile.uses * vectors
        yield cycles / shape.samples * (1 + _SAMPLE * shape.samples + _CODE * code), size


def _cycles(tile: Tile, taps: int, vectors: int, shape: _Shape) -> float:
    """Cycles of one input channel (of one row of taps, if depthwise) of a tile."""
    accumulators = shape.samples * tile.size * vectors
    reads = len(tile.reads)
    if shape.depthwise:
        reads, source_load = reads * vectors, 1.0
    else:
        reuse = fits_reuse(accumulators, vectors, taps, shape.machine)
        reads, source_load = reads if reuse else tile.uses, _SOURCE_LOAD
    loads = vectors * taps * _WEIGHT_LOAD + shape.samples * reads * source_load
    products = tile.uses * shape.samples * vectors
    return max(products, loads, taps * _CHAINS) + _LOAD_ISSUE * loads
