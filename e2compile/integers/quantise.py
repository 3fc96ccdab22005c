"""Quantise: integer codes of a graph's tensors, written in element-wise ATen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from e2compile.graph import insert
from e2compile.integers.ranges import is_non_negative
from e2compile.ops import POWER_OF_TWO_ABOVE

aten = torch.ops.aten

Scale = Literal["max", "power"]

# Tensors of zeros have a step too: this maximum, whose reciprocal is still finite.
SMALLEST = 2.0**-100
# The largest 16-bit code whose two balanced byte planes are both of eight bits: 127 * 256 + 127.
LARGEST = 32639
# What one code of a low plane is of one of its high plane: kept with the node, for whoever compares codes.
LOW_UNIT = 1 / 256


@dataclass(frozen=True)
class Codes:
    """A tensor as integers: value = code * step. `step` is float32, () or, for a weight, [O, 1, 1, 1]."""

    code: fx.Node
    step: fx.Node


@dataclass(frozen=True)
class Planes:
    """A tensor as 16-bit codes q, |q| <= 32,639: `rounded` is q in float32, `high` and `low` are its int8
    planes, q = 256 * high + low with high = floor((q + 128) / 256); value = q * step.

    `low` is None where the high plane is all that is used of it.
    """

    rounded: fx.Node
    high: fx.Node
    low: fx.Node | None
    step: fx.Node


class Writer:
    """Inserts calls at a graph's insertion point, typed and blamed on one node."""

    def __init__(self, graph: fx.Graph, blame: fx.Node) -> None:
        self.graph, self.blame = graph, blame
        self.mode = next(iter(graph.find_nodes(op="placeholder"))).meta["val"].fake_mode

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.mode:
            return insert(self.graph, target, *args, blame=self.blame, **kwargs)

    def cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        return self(aten._to_copy.default, node, dtype=dtype)

    def constant(self, value: float) -> fx.Node:
        return self(aten.full.default, [], value, dtype=torch.float32)


def largest(write: Writer, x: fx.Node, mask: fx.Node | None = None) -> fx.Node:
    """The largest magnitude in x [N, C, ...], float32 (), over the samples that `mask` [N] lets live.

    First over all but the channels, as other reductions of activations are, so that they share a pass.
    """
    dims = [d for d in range(x.meta["val"].dim()) if d != 1]
    return write(aten.amax.default, _largest_but(write, x, dims, mask), [0])


def largest_by_row(write: Writer, weight: fx.Node) -> fx.Node:
    """The largest magnitude of each output channel of a weight [O, C, ...], float32 [O]."""
    return _largest_but(write, weight, list(range(1, weight.meta["val"].dim())))


def _largest_but(write: Writer, x: fx.Node, dims: Sequence[int], mask: fx.Node | None = None) -> fx.Node:
    magnitude = x if is_non_negative(x) else write(aten.abs.default, x)
    if mask is not None:
        live = write(aten.view.default, mask, [-1, *(1 for _ in x.meta["val"].shape[1:])])
        magnitude = write(aten.where.self, live, magnitude, write.constant(0.0))
    return write(aten.amax.default, magnitude, list(dims))


def step_of(write: Writer, maximum: fx.Node, levels: int, scale: Scale) -> fx.Node:
    """The value of one code where `levels`, a power of two, of them make up the maximum.

    E2-Train's quantiser (section 3): signed codes of b bits have 2^(b-1) levels, unsigned 2^b. With
    `power` the maximum is raised to a power of two.
    """
    maximum = write(aten.clamp_min.default, maximum, SMALLEST)
    if scale == "power":
        maximum = write(POWER_OF_TWO_ABOVE, maximum)
    return write(aten.mul.Scalar, maximum, 1 / levels)


def rounded(write: Writer, x: fx.Node, step: fx.Node, scale: Scale, low: int, high: int) -> fx.Node:
    """clamp(floor(x / step + 0.5), low, high) in float32.

    By a power of two it is divided as a product with the reciprocal, which is exact and takes a fraction of
    the time. Other steps are divided by: a product and a sum may be fused, and would then round once on one
    machine and twice on another.
    """
    if scale == "power":
        quotient = write(aten.mul.Tensor, x, write(aten.reciprocal.default, step))
    else:
        quotient = write(aten.div.Tensor, x, step)
    shifted = write(aten.add.Scalar, quotient, 0.5)
    return write(aten.clamp.default, write(aten.floor.default, shifted), low, high)


def activation(write: Writer, x: fx.Node, maximum: fx.Node, bits: int, scale: Scale) -> Codes:
    """Codes of an activation: uint8, 0 .. 2^bits - 1, where it cannot be negative, else int8."""
    if is_non_negative(x):
        step = step_of(write, maximum, 2**bits, scale)
        return Codes(write.cast(rounded(write, x, step, scale, 0, 2**bits - 1), torch.uint8), step)
    return _signed(write, x, maximum, bits, scale)


def weight(write: Writer, w: fx.Node, bits: int, scale: Scale, by_channel: bool) -> Codes:
    """int8 codes of a weight [O, C, ...], with one step for it all or one for each output channel."""
    maximum = largest_by_row(write, w)
    if by_channel:
        maximum = write(aten.view.default, maximum, [-1, 1, 1, 1])
    else:
        maximum = write(aten.amax.default, maximum, [0])
    return _signed(write, w, maximum, bits, scale)


def _signed(write: Writer, x: fx.Node, maximum: fx.Node, bits: int, scale: Scale) -> Codes:
    limit = 2 ** (bits - 1)
    step = step_of(write, maximum, limit, scale)
    return Codes(write.cast(rounded(write, x, step, scale, -limit, limit - 1), torch.int8), step)


def gradient(write: Writer, g: fx.Node, maximum: fx.Node, scale: Scale, needs_low: bool) -> Planes:
    """The 16-bit codes of an output gradient as byte planes."""
    step = step_of(write, maximum, 2**15, scale)
    codes = rounded(write, g, step, scale, -LARGEST, LARGEST)
    high, low = (write.cast(plane, torch.int8) for plane in planes(write, codes))
    low.meta["unit"] = LOW_UNIT
    return Planes(codes, high, low if needs_low else None, step)


def planes(write: Writer, codes: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The balanced byte planes of whole numbers in float32, in float32 themselves."""
    high = shortened(write, codes, 8)
    return high, write(aten.sub.Tensor, codes, write(aten.mul.Scalar, high, 256.0))


def shortened(write: Writer, codes: fx.Node, bits: int) -> fx.Node:
    """Whole numbers without their last bits, rounded: floor(q / 2^bits + 1/2), in float32, exactly."""
    raised = write(aten.add.Scalar, codes, 2.0 ** (bits - 1))
    return write(aten.floor.default, write(aten.mul.Scalar, raised, 2.0**-bits))


def combined(write: Writer, high: fx.Node, low: fx.Node | None, step: fx.Node) -> fx.Node:
    """(256 * high + low) * step in float32, of int32 sums over the two planes."""
    value = write(aten.mul.Scalar, write.cast(high, torch.float32), 256.0)
    if low is not None:
        value = write(aten.add.Tensor, value, write.cast(low, torch.float32))
    return write(aten.mul.Tensor, value, step)
