"""Products of matrices: convolutions of single pixels, as rows of pixels and columns of channels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.emit import Samples
from e2compile.targets.llvm.machine import Machine

# Floats of a cache line.
LINE = 16
# With fewer pixels, packing the weights costs more than it saves.
_LEAST_PIXELS = 64
# Windows of more channels, and for fewer vectors of products, are read as well where they are.
_MOST_CHANNELS = 4
_LEAST_VECTORS = 2


def serves(conv: Convolution) -> bool:
    """Whether a convolution is a product of matrices: many pixels, one by one, all channels together."""
    single = conv.kernel == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    return single and conv.groups == 1 and conv.batch * conv.height * conv.width >= _LEAST_PIXELS


def serves_weights(conv: Convolution, machine: Machine) -> bool:
    """Whether its weights' gradient is one: also of windows of few channels, copied side by side."""
    windows = max(conv.kernel) > 1 and conv.dilation == (1, 1) and conv.in_channels <= _MOST_CHANNELS
    many = conv.out_channels >= _LEAST_VECTORS * machine.lanes
    return serves(conv) or (windows and many and conv.groups == 1)


@dataclass(frozen=True)
class Pixels:
    """The pixels of all live samples, one after the other, so many of each."""

    live: Samples
    each: int

    @property
    def number(self) -> Any:
        return self.live.number * self.each

    def __getitem__(self, position: Any) -> Any:
        """Where a pixel is among those of all samples."""
        if self.live.index is None:
            return T.bind(position)
        return T.bind(self.live[position // self.each] * self.each + position % self.each)


@dataclass(frozen=True)
class Side:
    """The channels of one operand, cut into groups."""

    channels: int
    groups: tuple[Group, ...]

    @property
    def number(self) -> int:
        """How many groups there are."""
        return sum(group.repeat for group in self.groups)


@dataclass(frozen=True)
class Piece:
    """One group of a side's channels: the `index`-th, from `channel` on."""

    group: Group
    index: Any
    channel: Any

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """Where each vector begins within the group, and its width."""
        return list(zip(self.group.starts, self.group.widths, strict=True))


def pieces(side: Side, share: Any = 0, shares: int = 1) -> Iterator[Piece]:
    """Loops over the groups of channels that one of so many shares has."""
    before = 0
    for group in side.groups:
        with T.serial(group.repeat * share // shares, group.repeat * (share + 1) // shares) as number:
            yield Piece(group, T.bind(before + number), T.bind(group.start + number * group.step))
        before += group.repeat


def asked(channels: int, steps: int) -> tuple[int, int]:
    """Prefetches of each of so many steps that together ask for the lines of so many floats, and the floats
    from one to the next."""
    lines = -(-channels // (steps * LINE))
    return lines, -(-channels // (steps * lines))
