"""Weights in the order in which a gather reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.emit import scratch, store, when


@dataclass(frozen=True)
class Strides:
    """Elements from one kernel row, input channel, kernel column to the next, within a group of vectors."""

    row: int
    channel: int
    column: int


@dataclass(frozen=True)
class Weights:
    """Where a gather finds the weights of `sources` input channels and any group of target channels."""

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


def plain(buffer: Any, conv: Convolution) -> Weights:
    """The weights as the function was given them."""
    return Weights(buffer, conv.kernel, conv.in_channels // conv.groups, conv.out_channels, False)


def packed(buffer: Any, conv: Convolution, vectors: Sequence[Group], transposed: bool) -> Weights:
    """A copy, group of vectors by group of vectors; transposed, output channels are what is summed over."""
    inner, outer = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    sources, targets = (outer, inner) if transposed else (inner, outer)
    copy = Weights(
        scratch(sources * targets * conv.groups * conv.kernel[0] * conv.kernel[1]),
        conv.kernel, sources, targets * conv.groups, True,
    )  # fmt: skip
    for group in vectors:
        _pack(buffer, copy, conv, group, transposed)
    return copy


def _pack(buffer: Any, copy: Weights, conv: Convolution, group: Group, transposed: bool) -> None:
    targets = copy.targets // conv.groups
    strides = copy.strides(group.step)
    inner = conv.in_channels // conv.groups
    tasks = conv.groups * group.repeat * conv.kernel[0]
    # Two at least, so that the copy is a function of its own: within one, TVM tells LLVM that what is
    # read through a pointer into a buffer is not what was written to the buffer.
    with T.parallel(max(tasks, 2)) as task, when(task < tasks):
        row = T.bind(task % conv.kernel[0])
        part = T.bind(task // conv.kernel[0] // group.repeat)
        first = T.bind(group.start + task // conv.kernel[0] % group.repeat * group.step)
        origin = T.bind(copy.origin(part * targets + first) + row * strides.row)
        with T.serial(copy.sources) as source, T.serial(conv.kernel[1]) as column:
            matrix = (row * conv.kernel[1] + column) * inner * conv.out_channels
            for start, width in zip(group.starts, group.widths, strict=True):
                target = first + start
                line, place = (target, source) if transposed else (source, target)
                index = matrix + line * conv.out_channels + place + part * (conv.out_channels // conv.groups)
                lane = conv.out_channels if transposed else 1
                value = buffer[T.ramp(index, lane, width) if width > 1 else index]
                store(copy.buffer, origin + source * strides.channel + column * strides.column + start,
                      value, width)  # fmt: skip
