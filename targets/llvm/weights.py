"""Weights in the order in which a gather reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.emit import padded, store, tasks


@dataclass(frozen=True)
class Strides:
    """Elements from one kernel row, input channel, kernel column to the next, within a group of vectors."""

    row: int
    channel: int
    column: int


@dataclass(frozen=True)
class Weights:
    """Where a gather finds the weights of `sources` steps of a sum and any group of target channels."""

    buffer: Any
    kernel: tuple[int, int]
    sources: int
    targets: int
    packed: bool

    def origin(self, channel: Any) -> Any:
        """The first weight of the group of vectors that begins at a target channel."""
        return channel * (self.kernel[0] * self.kernel[1] * self.sources) if self.packed else channel

    def strides(self, step: int) -> Strides:
        """Packed, all weights of a group of `step` channels are contiguous, in the order of their use."""
        if self.packed:
            return Strides(self.sources * self.kernel[1] * step, self.kernel[1] * step, step)
        column = self.sources * self.targets
        return Strides(self.kernel[1] * column, self.targets, column)


@dataclass(frozen=True)
class Matrix:
    """The weights of one kernel position and part as the function was given them."""

    buffer: Any
    origin: Any
    source_stride: int
    target_stride: int

    def place(self, source: Any, target: Any) -> Any:
        return self.origin + source * self.source_stride + target * self.target_stride

    def vector(self, source: Any, target: Any, width: int) -> Any:
        """One source channel's weights for neighbouring target channels."""
        place = self.place(source, target)
        return self.buffer[T.ramp(place, self.target_stride, width) if width > 1 else place]


# Copies a step's weights for a vector of target channels: (matrix, step, target, to, place, width).
Copy = Callable[[Matrix, Any, Any, Any, Any, int], None]


def copy_floats(matrix: Matrix, source: Any, target: Any, to: Any, place: Any, width: int) -> None:
    store(to, place, matrix.vector(source, target, width), width)


def plain(buffer: Any, conv: Convolution) -> Weights:
    """The weights as the function was given them."""
    return Weights(buffer, conv.kernel, conv.in_channels // conv.groups, conv.out_channels, False)


@dataclass(frozen=True)
class Packing:
    """How weights are copied: in `steps` of a sum, for all `targets` of a part; transposed, output channels
    are what is summed over."""

    conv: Convolution
    steps: int
    targets: int
    transposed: bool
    dtype: str
    copy: Copy


def packed(buffer: Any, packing: Packing, vectors: Sequence[Group]) -> Weights:
    """A copy, group of vectors by group of vectors."""
    conv = packing.conv
    size = packing.steps * packing.targets * conv.groups * conv.kernel[0] * conv.kernel[1]
    memory = padded(size, packing.dtype)
    copy = Weights(memory, conv.kernel, packing.steps, packing.targets * conv.groups, True)
    for group in vectors:
        _pack(buffer, copy, packing, group)
    return copy


def _pack(buffer: Any, copy: Weights, packing: Packing, group: Group) -> None:
    kernel, strides = packing.conv.kernel, copy.strides(group.step)
    with tasks(packing.conv.groups * group.repeat * kernel[0]) as task:
        row = T.bind(task % kernel[0])
        part = T.bind(task // kernel[0] // group.repeat)
        first = T.bind(group.start + task // kernel[0] % group.repeat * group.step)
        origin = T.bind(copy.origin(part * packing.targets + first) + row * strides.row)
        with T.serial(copy.sources) as step, T.serial(kernel[1]) as column:
            matrix = _matrix(buffer, packing, row * kernel[1] + column, part)
            place = origin + step * strides.channel + column * strides.column
            for start, width in zip(group.starts, group.widths, strict=True):
                packing.copy(matrix, step, first + start, copy.buffer, place + start, width)


def _matrix(buffer: Any, packing: Packing, position: Any, part: Any) -> Matrix:
    conv = packing.conv
    inner, outer = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    origin = position * inner * conv.out_channels + part * outer
    strides = (1, conv.out_channels) if packing.transposed else (conv.out_channels, 1)
    return Matrix(buffer, origin, *strides)
