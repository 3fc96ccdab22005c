"""An integer weight gradient by tiles: which shapes it serves, and how it is cut."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from e2compile.lower.workload import Convolution
from e2compile.ops import MOST_TERMS
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tile_plan import is_dense
from e2compile.targets.llvm.tiles import DEPTH, LANES, NUMBER, ROWS

# A register for a tile of the input, beside those of gradients and sums.
_MOST_TAPS = NUMBER - 2
# Sums are added up over more splits where all of them are of few bytes.
_LEAST_SPLITS, _MOST_SPLITS, _PARTIAL_BYTES = 2, 8, 1 << 20
# What a split sums up in one go stays near in the cache, but such a go has this many steps at least: after it
# sums go to memory.
_CACHED_BYTES = 1 << 17
_LEAST_STEPS = 12
# Of the places in a line of pixels not fewer than one of so many is a pixel.
_MOST_PLACES = 2
_LANE_BYTES = 4


@dataclass(frozen=True)
class TileGradientPlan:
    """A weight gradient over images of which each is four samples: their bytes fill the lanes of a pixel.

    Pixels are in one line, row by row, with zeros between rows; for each row and column within a stride of
    the input there is one, so that what a tap sees are neighbours. A step adds up 16 neighbours of the line:
    a tile of the gradient, turned, by one of the input that begins as much later as the weight's tap says.
    """

    conv: Convolution
    machine: Machine

    @property
    def images(self) -> int:
        return -(-self.conv.batch // DEPTH)

    @cached_property
    def splits(self) -> int:
        """Sets of images summed apart, a power of two, each in int32."""
        most = min(_MOST_SPLITS, max(_LEAST_SPLITS, _PARTIAL_BYTES // (_LANE_BYTES * self.size)))
        splits = 1 << (min(most, self.images).bit_length() - 1)
        while -(-self.images // splits) * self.terms > MOST_TERMS:
            splits *= 2
        return splits

    @property
    def terms(self) -> int:
        """Products that an image adds to a sum."""
        return DEPTH * self.conv.out_height * self.conv.out_width

    @property
    def pitch(self) -> int:
        """Pixels from a row to the next."""
        (_, seen), (_, last) = self._seen, self._last
        return max(last + 1, self.conv.out_width if self.conv.stride[1] == 1 else seen + 1)

    @property
    def steps(self) -> int:
        line = (self.conv.out_height - 1) * self.pitch + self.conv.out_width
        return -(-line // ROWS)

    @property
    def is_within(self) -> bool:
        """Whether all of the input is seen, but for what a row has beyond its last step."""
        return all(last <= seen for last, seen in zip(self._last, self._seen, strict=True))

    @property
    def _seen(self) -> tuple[int, int]:
        """The last row and column, of every `stride`-th of the padded input, that the kernel sees."""
        (height, width), (rows, columns), conv = self.conv.kernel, self.conv.stride, self.conv
        return conv.out_height - 1 + (height - 1) // rows, conv.out_width - 1 + (width - 1) // columns

    @property
    def _last(self) -> tuple[int, int]:
        """Those of them where the input ends, before the padding."""
        (rows, columns), (above, left), conv = self.conv.stride, self.conv.padding, self.conv
        return (conv.height - 1 + above) // rows, (conv.width - 1 + left) // columns

    @property
    def source_line(self) -> int:
        """Pixels of the input that are read, of every `stride`-th one."""
        (height, width), (rows, columns) = self.conv.kernel, self.conv.stride
        return self.steps * ROWS + (height - 1) // rows * self.pitch + (width - 1) // columns

    @property
    def source_block(self) -> int:
        """Pixels of the input: a line of them for each row and column within a stride."""
        return prod(self.conv.stride) * self.source_line

    def tap(self, row: Any, column: int) -> Any:
        """The first pixel of the input that a row and a column of the kernel see."""
        (height, width), line = self.conv.stride, self.source_line
        return (row % height * width + column % width) * line + row // height * self.pitch + column // width

    @property
    def source_size(self) -> int:
        """Lanes of an image of the input."""
        return self.source_block * self.conv.in_channels

    @property
    def gradient_size(self) -> int:
        return self.steps * ROWS * self.conv.out_channels

    @property
    def together(self) -> int:
        """Images that a split sums up in one go: sums wait in memory from one go to the next."""
        fitting = _CACHED_BYTES // (_LANE_BYTES * (self.source_size + self.gradient_size))
        return min(max(fitting, -(-_LEAST_STEPS // self.steps)), -(-self.images // self.splits))

    @property
    def grouped(self) -> int:
        """Tiles of gradients that are multiplied with each tile of the input."""
        fitting = range(1, 1 + (NUMBER - 1) // (self.conv.kernel[1] + 1))
        return max(number for number in fitting if self.conv.out_channels // LANES % number == 0)

    @property
    def taps(self) -> int:
        """Sets of sums that are made one after the other."""
        groups = self.conv.in_channels * self.conv.out_channels // (LANES * LANES)
        return self.conv.kernel[0] * groups // self.grouped

    @property
    def sums(self) -> int:
        """Tiles of a set: one for each column of the kernel and tile of gradients."""
        return self.conv.kernel[1] * self.grouped

    def parts(self, tap: Any) -> tuple[Any, Any, Any]:
        """A set's row of the kernel, tile of input channels, and first tile of output channels."""
        blocks, groups = self.conv.in_channels // LANES, self.conv.out_channels // LANES // self.grouped
        return tap // groups // blocks, tap // groups % blocks, tap % groups * self.grouped

    @property
    def size(self) -> int:
        """Lanes of all sums."""
        return prod(self.conv.weight_shape)


def serves(conv: Convolution, machine: Machine) -> bool:
    """Whether tiles compute a convolution's weight gradient, and are fast at it."""
    plan = TileGradientPlan(conv, machine)
    return (
        machine.tiles
        and is_dense(conv)
        and plan.is_within
        and conv.kernel[1] <= _MOST_TAPS
        and plan.terms <= MOST_TERMS
        and plan.steps * ROWS <= _MOST_PLACES * conv.out_height * conv.out_width
    )
