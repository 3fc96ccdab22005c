"""How the forward pass and the input gradient of single pixels are cut into register tiles and tasks."""

from collections.abc import Iterator
from dataclasses import dataclass

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import group_sizes, groups
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.product import LINE, Side

_TASKS = 16
_MOST_VECTORS = 4
_CHAINS = 8
# What loads cost, where a multiply-add is one: weights come from the second-level cache.
_WEIGHT_LOAD = 1.5
_SOURCE_LOAD = 0.3
# What a pixel adds whose place is not a constant away from that of the first.
_APART = 0.25
# More bytes than the last-level cache keeps until the next kernel reads them.
_STREAMED_BYTES = 32 << 20


@dataclass(frozen=True)
class ProductPlan:
    """Register tiles of `rows` pixels x the vectors of a group of `wide`, the target's channels."""

    conv: Convolution
    machine: Machine
    transposed: bool
    gated: bool
    rows: int
    wide: Side

    @property
    def pixels(self) -> int:
        """Of one sample."""
        return self.conv.height * self.conv.width

    @property
    def sources(self) -> int:
        return self.conv.out_channels if self.transposed else self.conv.in_channels

    @property
    def is_together(self) -> bool:
        """Whether the pixels of a tile are neighbours in memory, whichever samples live."""
        return not self.gated or self.pixels % self.rows == 0

    @property
    def shares(self) -> int:
        """Shares of the groups, each a task of its own for each run of rows, where there are few runs."""
        tiles = -(-self.conv.batch * self.pixels // self.rows)
        return min(-(-_TASKS // tiles), self.wide.number)

    @property
    def is_streamed(self) -> bool:
        """Whether the target is stored past the caches, which takes whole lines."""
        size = 4 * self.conv.batch * self.pixels * self.wide.channels
        return size > _STREAMED_BYTES and all(group.step % LINE == 0 for group in self.wide.groups)

    @property
    def cost(self) -> float:
        """Estimated multiply-adds' time of one pixel and source channel."""
        tiles = ((group.repeat, len(group.widths)) for group in self.wide.groups)
        return sum(repeat * self._tile(vectors) for repeat, vectors in tiles) / self.rows

    def _tile(self, vectors: int) -> float:
        source_load = _SOURCE_LOAD + (0 if self.is_together else _APART)
        return max(self.rows * vectors, _CHAINS) + source_load * self.rows + _WEIGHT_LOAD * vectors


def product_plan(conv: Convolution, machine: Machine, transposed: bool, gated: bool) -> ProductPlan:
    """The plan of a forward pass, transposed that of an input gradient, of the least estimated cost."""
    return min(_plans(conv, machine, transposed, gated), key=lambda plan: plan.cost)


def _plans(conv: Convolution, machine: Machine, transposed: bool, gated: bool) -> Iterator[ProductPlan]:
    channels = conv.in_channels if transposed else conv.out_channels
    pixels = conv.batch * conv.height * conv.width
    for vectors in group_sizes(channels, machine.lanes, _MOST_VECTORS):
        wide = Side(channels, tuple(groups(channels, machine.lanes, vectors)))
        for rows in range(1, min(pixels, (machine.registers - 2 - vectors) // vectors) + 1):
            yield ProductPlan(conv, machine, transposed, gated, rows, wide)
