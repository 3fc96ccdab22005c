"""How a weight gradient is cut: into register tiles, into cache-sized pieces of data, into parallel tasks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.arithmetic import Arithmetic
from e2compile.targets.llvm.axis import Axis, Lattice, Tile, forward_axis
from e2compile.targets.llvm.blocks import Group, group_sizes, groups
from e2compile.targets.llvm.gather_plan import folded
from e2compile.targets.llvm.machine import Machine

# Images of at most this many bytes stay in the second-level cache while all register tiles pass over them;
# each such piece costs a pass over the weights, so it is no smaller than they are, within these bounds.
_LEAST_CACHED_BYTES = 1 << 18
_MOST_CACHED_BYTES = 1 << 19
_MOST_TASKS = 16
# A task adds up at least this many positions, so that adding up the tasks' results is little beside it ...
_TASK_POSITIONS = 256
# ... and all tasks' results together stay in the last-level cache.
_PARTIAL_BYTES = 1 << 22
_MOST_CHANNELS = 16
_MOST_VECTORS = 6
_MOST_COLUMNS = 4
_CHAINS = 8
# Cycles, where a multiply-add is one, that a load adds, and that a run of columns adds.
_LOAD = 0.25
_RUN_OVERHEAD = 2.0
_SPARE_REGISTERS = 2
_CODE = 1e-5


@dataclass(frozen=True)
class GradientTile:
    """Accumulators: `channels` of the input x `taps` of a kernel row x `vectors` of output channels.

    They add up `columns` positions of the output at a time.
    """

    channels: int
    taps: int
    vectors: int
    columns: int


@dataclass(frozen=True)
class TileClass:
    """Register tiles with the same code: they differ in kernel row, part, input and output channels."""

    taps: Lattice
    tiles: tuple[Tile, ...]
    group: Group
    channel: int
    channels: int
    repeat: int
    number: int


@dataclass(frozen=True)
class GradientPlan:
    """A weight gradient; a depthwise one is a single part whose vectors pair up channel by channel."""

    conv: Convolution
    rows: Axis
    columns: Axis
    parts: int
    sources: int
    targets: int
    depthwise: bool
    machine: Machine
    arithmetic: Arithmetic
    most_positions: int | None
    chosen: GradientTile | None

    @cached_property
    def lattice(self) -> Lattice:
        (lattice,) = self.columns.lattices()
        return lattice

    @cached_property
    def tile(self) -> GradientTile:
        return self.chosen or self.tiles[0]

    @property
    def tiles(self) -> list[GradientTile]:
        """All that can be chosen, by estimated cost."""
        return [tile for _, tile in sorted(priced(self), key=lambda pick: pick[0])]

    @cached_property
    def classes(self) -> list[TileClass]:
        """All register tiles, those of equal shape together."""
        return list(_classes(self, self.tile))

    @cached_property
    def splits(self) -> int:
        """Sets of units summed apart, a power of two; it must not depend on the number of threads."""
        conv = self.conv
        positions = conv.batch * conv.out_height * conv.out_width
        weights = 4 * prod(conv.weight_shape)
        most = min(_MOST_TASKS, self.units, positions // _TASK_POSITIONS, _PARTIAL_BYTES // weights)
        splits = 1 << max(most, 1).bit_length() - 1
        while self.most_positions is not None and self._split_positions(splits) > self.most_positions:
            splits *= 2
        return splits

    def _split_positions(self, splits: int) -> int:
        """Positions that one of so many splits adds up at most."""
        return -(-self.units // splits) * -(-self.conv.out_height // self.bands) * self.conv.out_width

    @property
    def shares(self) -> int:
        """Shares of the register tiles, each a task of its own in each split."""
        return max(1, _MOST_TASKS // self.splits)

    @cached_property
    def bands(self) -> int:
        """Parts of an image, by rows, that fit the cache together with their gradients."""
        needed = -(-self._image_bytes // self._cached_bytes)
        if self.most_positions is not None:
            needed = max(needed, -(-self.conv.out_height // (self.most_positions // self.conv.out_width)))
        return min(self.conv.out_height, needed)

    @property
    def units(self) -> int:
        """Bands of all images: what is shared out among the splits."""
        return self.conv.batch * self.bands

    @property
    def together(self) -> int:
        """Units that fit the cache together."""
        return max(1, self._cached_bytes * self.bands // self._image_bytes)

    @property
    def _cached_bytes(self) -> int:
        return max(_LEAST_CACHED_BYTES, min(_MOST_CACHED_BYTES, 4 * prod(self.conv.weight_shape)))

    @property
    def _image_bytes(self) -> int:
        return 4 * (prod(self.conv.x_shape[1:]) + prod(self.conv.y_shape[1:]))


def plan(
    conv: Convolution,
    machine: Machine,
    arithmetic: Arithmetic,
    most_positions: int | None = None,
    tile: GradientTile | None = None,
) -> GradientPlan:
    """The weight gradient of a convolution, cut for a machine; a split's sum may be bounded in length.

    By default it has the best tile.
    """
    row = folded(conv)
    conv = row if most_positions is None or row.out_width <= most_positions else conv
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = conv.kernel, conv.stride, conv.padding, conv.dilation
    rows = forward_axis(conv.height, conv.out_height, kh, sh, ph, dh)
    columns = forward_axis(conv.width, conv.out_width, kw, sw, pw, dw)
    parts = 1 if conv.is_depthwise else conv.groups
    sources, targets = 1 if conv.is_depthwise else conv.in_channels // parts, conv.out_channels // parts
    machine = arithmetic.fitted(machine)
    is_depthwise = conv.is_depthwise
    return GradientPlan(
        conv, rows, columns, parts, sources, targets, is_depthwise, machine, arithmetic, most_positions, tile
    )


def _classes(plan: GradientPlan, tile: GradientTile) -> Iterator[TileClass]:
    lattice = plan.lattice
    for first in range(0, len(lattice.taps), tile.taps):
        taps = Lattice(
            0, 1, lattice.count, lattice.stride, lattice.source, lattice.taps[first : first + tile.taps]
        )
        tiles = tuple(taps.tiles(tile.columns))
        whole, rest = divmod(plan.sources, tile.channels)
        spans = [(0, tile.channels, whole), (plan.sources - rest, rest, 1)]
        for group in groups(plan.targets, plan.machine.lanes, tile.vectors):
            for channel, channels, repeat in spans:
                if channels and repeat:
                    number = plan.rows.kernel * plan.parts * repeat * group.repeat
                    yield TileClass(taps, tiles, group, channel, channels, repeat, number)


def priced(plan: GradientPlan) -> Iterator[tuple[float, GradientTile]]:
    """Estimated cycles of an output row for each tile that fits the registers."""
    channels = range(1, min(plan.sources, _MOST_CHANNELS) + 1)
    vectors = group_sizes(plan.targets, plan.machine.lanes, _MOST_VECTORS)
    columns = range(1, min(_MOST_COLUMNS, plan.lattice.count) + 1)
    for shape in product(channels, _tap_counts(plan), vectors, columns):
        tile = GradientTile(*shape)
        moving = tile.vectors * (tile.columns + (1 if plan.depthwise else 0)) + 1
        if tile.channels * tile.taps * tile.vectors + moving <= plan.machine.registers - _SPARE_REGISTERS:
            yield sum(_cycles(plan, kind) for kind in _classes(plan, tile)), tile


def _tap_counts(plan: GradientPlan) -> list[int]:
    taps = plan.columns.kernel
    return sorted({-(-taps // pieces) for pieces in range(1, taps + 1)})


def _cycles(plan: GradientPlan, kind: TileClass) -> float:
    vectors = len(kind.group.widths)
    total = code = 0.0
    for tile in kind.tiles:
        products = tile.uses * kind.channels * vectors
        reads = len(tile.reads) * (vectors if plan.depthwise else kind.channels)
        loads = _LOAD * (reads + tile.size * vectors)
        chain = _CHAINS * tile.uses / max(1, len(kind.taps.taps))
        total += tile.repeat * (max(products, chain) + loads + _RUN_OVERHEAD)
        code += products
    return kind.number * total * (1 + _CODE * code)
