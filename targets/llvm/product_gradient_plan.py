"""How the weight gradient of single pixels is cut: into blocks of pixels, register tiles and tasks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import Group, cuts, group_sizes, groups, vectors
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.product import Side

# Pixels that are packed at a time. All channels of a block take a third of the first-level cache, so that it
# holds what comes next too; where that would be few pixels, a group of vectors of more of them does.
_BLOCK = 127
_LEAST_BLOCK = 18
_BLOCK_BYTES = 1 << 14
# Pixels are summed in at most so many splits, each of so many at least; but for a few, all their sums
# together stay in the second-level cache.
_MOST_SPLITS = 16
_FEW_SPLITS = 2
_LEAST_PIXELS = 256
_SUM_BYTES = 1 << 20
_MOST_VECTORS = 4
_CHAINS = 8
# Units of which a multiply-add is one: a load, a vector that is packed, a sum that is kept once a block.
_LOAD = 0.1
_COPY = 2.0
_KEPT = 4.0
# What is stored across the rows of the gradient is stored lane by lane.
_TRANSPOSED = 1.02


@dataclass(frozen=True)
class SumPlan:
    """A weight gradient: lane by lane the same channels of `narrow` times vectors of `wide`.

    `narrow` is x and `wide` dy; transposed, which windows never are, it is the other way round.
    """

    conv: Convolution
    machine: Machine
    transposed: bool
    narrow: Side
    wide: Side

    @property
    def pixels(self) -> int:
        """Of one sample."""
        return self.conv.out_height * self.conv.out_width

    @property
    def is_window(self) -> bool:
        """Whether `narrow` is a window of x, channels of all its pixels together."""
        return self.conv.kernel != (1, 1)

    @property
    def size(self) -> int:
        """Weights."""
        return self.narrow.channels * self.wide.channels

    @cached_property
    def splits(self) -> int:
        """Runs of blocks summed apart, a power of two; it must not depend on the number of threads."""
        most = max(_FEW_SPLITS, min(_MOST_SPLITS, _SUM_BYTES // (4 * self.size)))
        return 1 << max(1, min(most, self.conv.batch * self.pixels // _LEAST_PIXELS)).bit_length() - 1

    @property
    def shares(self) -> int:
        """Shares of the wide side's groups, each a task of its own in each split."""
        return -(-self.machine.threads // self.splits)

    @cached_property
    def block(self) -> int:
        """Pixels that are packed together: all of a split in blocks of about the same size."""
        pixels = -(-self.conv.batch * self.pixels // self.splits)
        resident = _BLOCK_BYTES // (4 * (self.narrow.channels + self.wide.channels))
        most = min(resident, _BLOCK) if resident >= _LEAST_BLOCK else _BLOCK
        return -(-pixels // -(-pixels // most))

    @property
    def pitch(self) -> int:
        """Packed pixels of a group: not so even that all groups lie in the same sets of a cache."""
        return self.block | 1

    @property
    def cost(self) -> float:
        """Estimated units of one pixel."""
        pairs = product(self.narrow.groups, self.wide.groups)
        sums = sum(
            rows.repeat * wide.repeat * self._tile(rows.step, len(wide.widths)) for rows, wide in pairs
        )
        copies = sum(group.repeat * len(group.widths) for side in self.sides for group in side.groups)
        return (sums + _COPY * copies) * (_TRANSPOSED if self.transposed else 1)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.narrow, self.wide

    def _tile(self, rows: int, vectors: int) -> float:
        kept = _KEPT * rows * vectors / self.block
        return max(rows * vectors, _CHAINS) + _LOAD * (rows + vectors) + kept


def sum_plan(conv: Convolution, machine: Machine) -> SumPlan:
    """The plan of the least estimated cost whose sums fit the registers."""
    return min(_plans(conv, machine), key=lambda plan: plan.cost)


def _plans(conv: Convolution, machine: Machine) -> Iterator[SumPlan]:
    inner, outer = prod(conv.weight_shape[:-1]), conv.out_channels
    for transposed in (False, True) if conv.kernel == (1, 1) else (False,):
        narrow, wide = (outer, inner) if transposed else (inner, outer)
        for size in group_sizes(wide, machine.lanes, _MOST_VECTORS):
            columns = Side(wide, tuple(groups(wide, machine.lanes, size)))
            for rows in range(1, min(narrow, (machine.registers - 2 - size) // size) + 1):
                yield SumPlan(conv, machine, transposed, Side(narrow, _rows(narrow, rows, machine)), columns)


def _rows(channels: int, most: int, machine: Machine) -> tuple[Group, ...]:
    """Groups of at most `most` channels, each in the vectors by which it is copied."""
    pieces = cuts(channels, most)
    return tuple(Group(cut.start, tuple(vectors(cut.size, machine.lanes)), cut.repeat) for cut in pieces)
