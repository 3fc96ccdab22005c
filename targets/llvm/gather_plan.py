"""Forward pass and input gradient described as one thing: a gather along two axes."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.arithmetic import Arithmetic
from e2compile.targets.llvm.axis import Axis, Lattice, forward_axis, gradient_axis
from e2compile.targets.llvm.blocks import Group, groups
from e2compile.targets.llvm.emit import Samples
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tiling import RegisterTile, priced

_NARROW = 16


@dataclass(frozen=True)
class Memory:
    """The arguments of the function: what is gathered, by which weights, from which start, to where.

    `sources` are one buffer, or the high and the low byte plane of one. Sums are multiplied by `step`, if
    there is one.
    """

    sources: tuple[Any, ...]
    weight: Any
    start: Any
    target: Any
    live: Samples
    step: Any = None


@dataclass(frozen=True)
class Plan:
    """A gather: along which axes, over how many source and target channels in each of `parts` parts.

    A depthwise one is a single part in which each target channel reads its own source channel. Each of
    `planes` byte planes of the source has sums of its own.
    """

    conv: Convolution
    rows: Axis
    columns: Axis
    parts: int
    sources: int
    targets: int
    transposed: bool
    depthwise: bool
    machine: Machine
    arithmetic: Arithmetic
    chosen: RegisterTile | None
    planes: int = 1

    @cached_property
    def lattices(self) -> list[Lattice]:
        return list(self.columns.lattices())

    @cached_property
    def tile(self) -> RegisterTile:
        return self.chosen or self.tiles[0]

    @property
    def tiles(self) -> list[RegisterTile]:
        """All that can be chosen, by estimated cost."""
        shape = (self.lattices, self.targets, self.conv.batch, self.depthwise)
        found = priced(*shape, self.machine, self.planes)
        return [tile for _, tile in sorted(found, key=lambda pick: pick[0])]

    @cached_property
    def groups(self) -> list[Group]:
        return groups(self.targets, self.machine.lanes, self.tile.vectors)

    @property
    def steps(self) -> int:
        """Steps of the sum over the source channels."""
        return -(-self.sources // self.arithmetic.depth)

    @cached_property
    def tap_sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of columns of the kernel that positions see, each once."""
        tiles = [
            (lattice, tile)
            for lattice, size in zip(self.lattices, self.tile.positions, strict=True)
            for tile in lattice.tiles(size)
        ]
        sets = [lattice.seen(tile, at) for lattice, tile in tiles for at in range(tile.size)]
        return tuple(dict.fromkeys(sets))

    @property
    def source_pitch(self) -> int:
        """Channels from one source position to the next."""
        return self.conv.out_channels if self.transposed else self.conv.in_channels

    @property
    def target_pitch(self) -> int:
        return self.conv.in_channels if self.transposed else self.conv.out_channels


def plan(
    conv: Convolution,
    transposed: bool,
    machine: Machine,
    arithmetic: Arithmetic,
    tile: RegisterTile | None = None,
    planes: int = 1,
) -> Plan:
    """The gather of a forward pass; transposed, that of an input gradient. By default with the best tile."""
    conv = folded(conv)
    axes = _axes(conv, transposed)
    parts = 1 if conv.is_depthwise else conv.groups
    inner, outer = conv.in_channels // parts, conv.out_channels // parts
    sources, targets = (outer, inner) if transposed else (inner, outer)
    machine = arithmetic.fitted(machine)
    return Plan(
        conv, *axes, parts, sources, targets, transposed, conv.is_depthwise, machine, arithmetic, tile, planes
    )


def folded(conv: Convolution) -> Convolution:
    """A narrow image as a single row, where the kernel sees single pixels."""
    pointwise = conv.kernel == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    if not pointwise or conv.width >= _NARROW:
        return conv
    return replace(conv, height=1, width=conv.height * conv.width)


def _axes(conv: Convolution, transposed: bool) -> tuple[Axis, Axis]:
    window = list(zip(conv.kernel, conv.stride, conv.padding, conv.dilation, strict=True))
    inner, outer = (conv.height, conv.width), (conv.out_height, conv.out_width)
    if transposed:
        rows, columns = (gradient_axis(outer[i], inner[i], *window[i]) for i in (0, 1))
    else:
        rows, columns = (forward_axis(inner[i], outer[i], *window[i]) for i in (0, 1))
    return rows, columns
