"""How the three contractions of a convolution become work for the array: what lies where in its buffers.

Samples are taken in groups, a run a group. A group's buffers hold blocks as `work` describes them; here is
which byte of a tensor each of a block's bytes is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from e2compile.lower.workload import Convolution
from e2compile.targets.vta.host.bundles import Bundles
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.schedule.work import Accumulation, Correlation, Taps

# Images of one run: many, so that it seldom starts and drains; few where a gate leaves some of a batch out,
# as the last group is run whole.
GROUP = 16
GATED_GROUP = 4
_LARGEST_PRODUCT = 1 << 14  # of two bytes: -128 * -128
_SUM_BITS = 32


class Unsuitable(Exception):
    """The array cannot do it; says why."""


@dataclass(frozen=True)
class Patch:
    """Pixels of an image as a buffer has them: pixel (y, x) is the image's pixel (y, x) * step - border.

    With `folds` (rows, columns) other than (1, 1) it has the channels of so many pixels of the image, one
    after another: fold (i, j) is `spacing` * (i, j) further. What lies outside the image is border.
    """

    height: int
    width: int
    step: tuple[int, int] = (1, 1)
    border: tuple[int, int] = (0, 0)
    folds: tuple[int, int] = (1, 1)
    spacing: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Part:
    """One run of a group. `kernel` names the weight's tap (ky, kx) of each of the work's taps; where the
    input is folded, that of its first fold. The work's output pixel (y, x) is the tensor's pixel
    (y, x) * step + first."""

    work: Correlation
    kernel: Taps
    step: tuple[int, int] = (1, 1)
    first: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Gather:
    """A convolution, or its input gradient: runs that read one input buffer.

    `images` samples are a group. The input buffer has the `patch` of each image, the channels of all folds
    one after another in its lanes. Output pixels that no part has are zero. All bundles are the same parts;
    what is of one lies in each buffer behind what is of the one before.
    """

    conv: Convolution
    transposed: bool
    images: int
    patch: Patch
    bundles: Bundles
    parts: tuple[Part, ...]

    @property
    def inp_blocks(self) -> int:
        """Blocks of a group's input buffer; likewise of all weights and of a group's sums, a part's after
        another's."""
        return self.bundles.count * prod(self.parts[0].work.inp_shape)

    @property
    def wgt_blocks(self) -> int:
        return self.bundles.count * sum(prod(part.work.wgt_shape) for part in self.parts)

    @property
    def out_blocks(self) -> int:
        return self.bundles.count * sum(prod(part.work.out_shape) for part in self.parts)

    @property
    def sources(self) -> int:
        """Channels of a tensor that is read; likewise below, that is written."""
        return self.conv.out_channels if self.transposed else self.conv.in_channels

    @property
    def results(self) -> int:
        return self.conv.in_channels if self.transposed else self.conv.out_channels


@dataclass(frozen=True)
class Gradient:
    """A weight gradient: a group is as many samples as a block has lanes. Bundles are as a Gather's."""

    conv: Convolution
    patch: Patch
    bundles: Bundles
    kernel: Taps
    work: Accumulation


def forward(conv: Convolution, config: Config, gated: bool = False) -> Gather:
    """The runs of a convolution. Raises Unsuitable, as those below do."""
    planes = _planes(prod(conv.kernel) * conv.in_channels // conv.groups)
    bundles, taps = Bundles.of(conv, config.block), _taps(conv)
    is_folded = conv.groups == 1 and conv.in_channels < config.block and len(taps) > 1
    is_point = len(taps) == 1
    if is_folded or is_point:
        folds = conv.kernel if is_folded else (1, 1)
        size = conv.out_height, conv.out_width
        patch = Patch(*size, conv.stride, conv.padding, folds, conv.dilation)
    else:
        patch = Patch(
            conv.height + 2 * conv.padding[0], conv.width + 2 * conv.padding[1], border=conv.padding
        )
    channels = bundles.inputs * (len(taps) if is_folded else 1)
    images = _images(conv, config, gated)
    work = Correlation(
        inputs=_blocks(channels, config),
        outputs=_blocks(bundles.outputs, config),
        images=images // config.batch,
        in_height=patch.height,
        in_width=patch.width,
        out_height=conv.out_height,
        out_width=conv.out_width,
        taps=((0, 0),) if is_folded or is_point else taps,
        stride=(1, 1) if is_folded or is_point else conv.stride,
        planes=planes,
    )
    part = Part(work, tuple(_kernel(conv))[: len(work.taps)])
    return Gather(conv, False, images, patch, bundles, (part,))


def input_gradient(conv: Convolution, config: Config, gated: bool = False) -> Gather:
    """The runs of a convolution's input gradient: one for each of the stride's parities that has taps.

    dx[iy] adds up dy[oy] w[ky] where iy + padding - ky * dilation = oy * stride; for the iy of one parity
    that is a correlation of stride 1 with some of the taps. No zero is multiplied.
    """
    planes = _planes(prod(conv.kernel) * conv.out_channels // conv.groups)
    bundles = Bundles.of(conv, config.block)
    rows, columns = (_parities(conv, axis) for axis in (0, 1))
    low = tuple(max(0, *(-min(p.offsets, default=0) for p in ps)) for ps in (rows, columns))
    high = [
        max([p.extent - 1 + max(p.offsets) for p in ps if p.offsets and p.extent], default=0) + 1
        for ps in (rows, columns)
    ]
    sizes = (conv.out_height, conv.out_width)
    height, width = (border + max(size, end) for border, size, end in zip(low, sizes, high, strict=True))
    images = _images(conv, config, gated)
    parts = []
    for row in rows:
        for column in columns:
            if not (row.offsets and column.offsets and row.extent and column.extent):
                continue
            work = Correlation(
                inputs=_blocks(bundles.outputs, config),
                outputs=_blocks(bundles.inputs, config),
                images=images // config.batch,
                in_height=height,
                in_width=width,
                out_height=row.extent,
                out_width=column.extent,
                taps=tuple((y + low[0], x + low[1]) for y in row.offsets for x in column.offsets),
                stride=(1, 1),
                planes=planes,
            )
            kernel = tuple((y, x) for y in row.kernel for x in column.kernel)
            parts.append(Part(work, kernel, conv.stride, (row.first, column.first)))
    patch = Patch(height, width, border=(low[0], low[1]))
    return Gather(conv, True, images, patch, bundles, tuple(parts))


def weight_gradient(conv: Convolution, config: Config) -> Gradient:
    """The run of a convolution's weight gradient: samples in the lanes, a sum over pixels."""
    planes = _planes(config.block * conv.out_height * conv.out_width)
    bundles, taps = Bundles.of(conv, config.block), _taps(conv)
    is_point = len(taps) == 1
    if is_point:
        patch = Patch(conv.out_height, conv.out_width, conv.stride, conv.padding)
    else:
        patch = Patch(
            conv.height + 2 * conv.padding[0], conv.width + 2 * conv.padding[1], border=conv.padding
        )
    work = Accumulation(
        channels=-(-bundles.inputs // config.batch),
        outputs=_blocks(bundles.outputs, config),
        in_height=patch.height,
        in_width=patch.width,
        out_height=conv.out_height,
        out_width=conv.out_width,
        taps=taps,
        stride=(1, 1) if is_point else conv.stride,
        planes=planes,
    )
    return Gradient(conv, patch, bundles, tuple(_kernel(conv)), work)


@dataclass(frozen=True)
class _Parity:
    """Pixels first, first + stride, ... of an axis, `extent` of them: pixel number j adds up the output
    gradient's pixels j + offsets[i] times the kernel's tap kernel[i]."""

    first: int
    extent: int
    kernel: tuple[int, ...]
    offsets: tuple[int, ...]


def _parities(conv: Convolution, axis: int) -> list[_Parity]:
    size = (conv.height, conv.width)[axis]
    stride, padding, dilation = conv.stride[axis], conv.padding[axis], conv.dilation[axis]
    result = []
    for first in range(stride):
        taps = [k for k in range(conv.kernel[axis]) if (first + padding - k * dilation) % stride == 0]
        offsets = tuple((first + padding - k * dilation) // stride for k in taps)
        result.append(_Parity(first, max(0, -(-(size - first) // stride)), tuple(taps), offsets))
    return result


def _taps(conv: Convolution) -> Taps:
    return tuple((y * conv.dilation[0], x * conv.dilation[1]) for y, x in _kernel(conv))


def _kernel(conv: Convolution) -> Iterator[tuple[int, int]]:
    return ((y, x) for y in range(conv.kernel[0]) for x in range(conv.kernel[1]))


def _blocks(channels: int, config: Config) -> int:
    return -(-channels // config.block)


def _images(conv: Convolution, config: Config, gated: bool) -> int:
    """Samples of a group: what the batch has, up to a group's, in whole input blocks."""
    most = min(conv.batch, GATED_GROUP if gated else GROUP)
    return -(-most // config.batch) * config.batch


def _planes(terms: int) -> int:
    """The bytes of a sum of so many products of bytes."""
    bits = (terms * _LARGEST_PRODUCT).bit_length() + 1
    if bits > _SUM_BITS:
        raise Unsuitable("sums that may leave 32 bits")
    return -(-bits // 8)
