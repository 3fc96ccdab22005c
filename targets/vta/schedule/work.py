"""What the array is asked for: two kinds of products, of blocks in the order in which they lie in DRAM.

A block is an element of a scratchpad (see Config): an input block holds `batch` rows of `block` lanes, a
weight block `block` rows of `block` lanes, an output block `batch` rows of `block` bytes. Buffers are arrays
of blocks, row-major. Sums are exact int32; they leave as byte planes, plane p holding bits 8p to 8p + 7, as
many planes as the largest possible sum needs to be sign-extended from the last.
"""

from dataclasses import dataclass
from math import prod

Taps = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Correlation:
    """out[o, n, y, x] = sum over c and t of inp[c, n, y * stride + taps[t]] . wgt[o, c, t]^T.

    Buffers: inp [inputs, images, in_height, in_width], any border stored;
    wgt [outputs, inputs, taps]; out [planes, outputs, images, out_height, out_width].
    A forward convolution, an input gradient's parity class and a matrix product are all of this kind.
    """

    inputs: int
    outputs: int
    images: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    taps: Taps
    stride: tuple[int, int]
    planes: int

    @property
    def inp_shape(self) -> tuple[int, ...]:
        return self.inputs, self.images, self.in_height, self.in_width

    @property
    def wgt_shape(self) -> tuple[int, ...]:
        return self.outputs, self.inputs, len(self.taps)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.planes, self.outputs, self.images, self.out_height, self.out_width

    @property
    def products(self) -> int:
        """GEMM micro-ops that it needs at least."""
        return prod(self.out_shape[1:]) * self.inputs * len(self.taps)


@dataclass(frozen=True)
class Accumulation:
    """out[t, c, o] = sum over y and x of inp[c, y * stride + taps[t]] . wgt[o, y, x]^T.

    Buffers: inp [channels, in_height, in_width], any border stored;
    wgt [outputs, out_height, out_width]; out [planes, taps, channels, outputs].
    A weight gradient is of this kind: the lanes of an input block are samples of one channel, a weight block
    has a row for each of `block` output channels.
    """

    channels: int
    outputs: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    taps: Taps
    stride: tuple[int, int]
    planes: int

    @property
    def inp_shape(self) -> tuple[int, ...]:
        return self.channels, self.in_height, self.in_width

    @property
    def wgt_shape(self) -> tuple[int, ...]:
        return self.outputs, self.out_height, self.out_width

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.planes, len(self.taps), self.channels, self.outputs

    @property
    def products(self) -> int:
        """GEMM micro-ops that it needs at least."""
        return prod(self.out_shape[1:]) * self.out_height * self.out_width


Work = Correlation | Accumulation
