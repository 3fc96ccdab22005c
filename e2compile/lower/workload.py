"""What a kernel computes, told to a target that chooses how."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Convolution:
    """A 2-d convolution: x (N, H, W, C), weight (KH, KW, C / groups, O), y (N, OH, OW, O).

    The three contractions of training share it: forward, input gradient and weight gradient.
    A matrix product x (N, C) times (C, O) is the case of 1 x 1 pixels and a 1 x 1 kernel.
    """

    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_height(self) -> int:
        return _extent(self.height, self.kernel[0], self.stride[0], self.padding[0], self.dilation[0])

    @property
    def out_width(self) -> int:
        return _extent(self.width, self.kernel[1], self.stride[1], self.padding[1], self.dilation[1])

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.height, self.width, self.in_channels)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (*self.kernel, self.in_channels // self.groups, self.out_channels)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.out_height, self.out_width, self.out_channels)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel sees its own input channel alone, and there are several."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one contraction, padding counted as work."""
        taps = self.kernel[0] * self.kernel[1] * self.in_channels // self.groups
        return self.batch * self.out_height * self.out_width * self.out_channels * taps


def _extent(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@dataclass(frozen=True)
class Contraction:
    """One of a convolution's contractions: by which of a target's methods; `signed` is the first operand."""

    method: str
    conv: Convolution
    signed: bool = True


@dataclass(frozen=True)
class Pool:
    """A 2-d pooling: x (N, H, W, C) to y (N, OH, OW, C); `kind` is "max" or "average".

    Max pooling also gives, and its gradient takes, each maximum's place: where `places` is uint8 its number
    in its window, where it is int64 that in its H x W plane. `padded` counts padding in an average's divisor.
    """

    kind: str
    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    padded: bool = True
    divisor: int | None = None
    out_height: int = 0
    out_width: int = 0
    places: str = ""

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.height, self.width, self.channels)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.out_height, self.out_width, self.channels)


def pair(value: Any, fallback: Any = None) -> tuple[int, int]:
    """An option of ATen's for height and width: a number for both, one or two in a list, or the fallback."""
    value = value if value not in (None, [], ()) else fallback
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
