"""The e2.* operators: what ATen cannot say, each with a reference that PyTorch runs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 (Salmon et al., SC 2011): four words of a counter and two of a key to four words.

    Words are int64 tensors in 0 .. 2^32 - 1 of one broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (p0 >> 32) & _WORD, (p1 >> 32) & _WORD
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & _WORD, high0 ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


@torch.library.custom_op("e2::uniform", mutates_args=())
def uniform(seed: Tensor, step: Tensor, site: int, size: Sequence[int]) -> Tensor:
    """float32 draws from [0, 1), shape `size`, a pure function of (seed, step, site, position).

    `seed` and `step` are int64 of shape (). Position i takes the first word of Philox with counter
    (i, site, step low, step high) and key (seed low, seed high), its upper 24 bits as a fraction.
    """
    position = torch.arange(math.prod(size), dtype=torch.int64)
    counter = (position, torch.full_like(position, site), step & _WORD, (step >> 32) & _WORD)
    word = philox(counter, (seed & _WORD, (seed >> 32) & _WORD))[0]
    return ((word >> 8).to(torch.float32) * 2.0**-24).reshape(list(size))


@uniform.register_fake
def _(seed: Tensor, step: Tensor, site: int, size: Sequence[int]) -> Tensor:  # noqa: ARG001
    return torch.empty(list(size), dtype=torch.float32)


@torch.library.custom_op("e2::guard", mutates_args=())
def guard(mask: Tensor, name: str, frozen: bool) -> Tensor:
    """Marks `mask` [samples], bool, as what decides which samples a block runs for; its value is the mask.

    Everything that would be dead if no sample ran is the block's region. `frozen` says whether weights and
    optimizer state of a block that no sample ran keep their values, decay and momentum included.
    """
    del name, frozen
    return mask.clone()


@guard.register_fake
def _(mask: Tensor, name: str, frozen: bool) -> Tensor:  # noqa: ARG001
    return torch.empty_like(mask)


@torch.library.custom_op("e2::moments", mutates_args=())
def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Variance (divisor n) and mean [channels] of x [samples, channels, ...], over the samples that `mask`
    [samples] lets live and all dimensions but the second; zeros where none lives."""
    live = x[mask].transpose(0, 1).flatten(1)
    if live.shape[1] == 0:
        return x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    variance, mean = torch.var_mean(live, 1, correction=0)
    return variance, mean


@moments.register_fake
def _(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _live_norm(x: Tensor, mask: Tensor, weight: Any, bias: Any, eps: float) -> tuple[Tensor, ...]:
    """e2.batch_norm in ATen and e2.moments."""
    shape = [-1, *(1 for _ in x.shape[2:])]
    variance, mean = torch.ops.e2.moments(x, mask)
    rstd = torch.rsqrt(variance + eps)
    y = (x - mean.reshape(shape)) * rstd.reshape(shape)
    y = y if weight is None else y * weight.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    return y, variance, mean, rstd


@torch.library.custom_op("e2::batch_norm", mutates_args=())
def batch_norm(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training-mode batch norm of x [samples, channels, ...] over the samples that `mask` [samples] picks.

    Gives y, the variance (divisor n), the mean and 1 / sqrt(variance + eps), the last three [channels].
    y of the others is of no use; no gradient comes from it and none goes to their x.
    """
    return _live_norm(x, mask, weight, bias, eps)  # type: ignore[return-value]


@batch_norm.register_fake
def _(x: Tensor, mask: Any, weight: Any, bias: Any, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ARG001
    channels = x.shape[1]
    return torch.empty_like(x), x.new_empty(channels), x.new_empty(channels), x.new_empty(channels)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, mask, weight, bias, _ = inputs
    _, _, mean, rstd = output
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, mask, weight, mean, rstd)


def _live_norm_backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, mask, weight, mean, rstd = ctx.saved_tensors
    shape, rest = [-1, *(1 for _ in x.shape[2:])], [d for d in range(x.dim()) if d != 1]
    values = (mask.sum().clamp(min=1) * math.prod(x.shape[2:])).to(dy.dtype)
    normal = (x - mean.reshape(shape)) * rstd.reshape(shape)
    dbias, dweight = dy.sum(rest), (dy * normal).sum(rest)
    inner = dy - (dbias / values).reshape(shape) - normal * (dweight / values).reshape(shape)
    scale = rstd if weight is None else rstd * weight
    live = mask.reshape([-1, *(1 for _ in x.shape[1:])])
    dx = torch.where(live, scale.reshape(shape) * inner, torch.zeros((), dtype=dy.dtype))
    return dx, None, None if weight is None else dweight, dbias if ctx.has_bias else None, None


batch_norm.register_autograd(_live_norm_backward, setup_context=_save)


_EXPONENTS = {
    torch.float32: (torch.int32, 0x007FFFFF, 0x7F800000),
    torch.float64: (torch.int64, 0x000FFFFFFFFFFFFF, 0x7FF0000000000000),
}


@torch.library.custom_op("e2::power_of_two_above", mutates_args=())
def power_of_two_above(x: Tensor) -> Tensor:
    """The least power of two that is not below x, for each positive normal element; float32 or float64.

    Exact, as it is taken from the bits: the fraction rounded up into the exponent. Infinity and NaN stay.
    """
    integer, fraction, exponent = _EXPONENTS[x.dtype]
    bits = x.contiguous().view(integer)
    power = ((bits + fraction) & exponent).view(x.dtype)
    return torch.where(x.isfinite(), power, x)


@power_of_two_above.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


# Terms of one integer sum: 255 * 128 * 65,536 is the largest product sum below 2^31.
MOST_TERMS = 1 << 16
_INT32 = torch.iinfo(torch.int32)


@torch.library.custom_op("e2::integer_convolution", mutates_args=())
def integer_convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The exact convolution of x [N, C, H, W], int8 or uint8, with weight [O, C / groups, KH, KW], int8.

    The result is int32. A sum of more than 2^16 products could leave it: such a workload is refused.
    """
    y = torch.nn.functional.conv2d(
        x.double(), weight.double(), None, list(stride), list(padding), list(dilation), groups
    )
    return y.to(torch.int32)


@integer_convolution.register_fake
def _(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    y = torch.nn.functional.conv2d(
        x.float(), weight.float(), None, list(stride), list(padding), list(dilation), groups
    )
    return y.to(torch.int32)


@torch.library.custom_op("e2::integer_input_gradient", mutates_args=())
def integer_input_gradient(
    grad: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The exact gradient of a convolution's input, `size` [N, C, H, W], int32, from grad [N, O, OH, OW] and
    weight [O, C / groups, KH, KW], both int8."""
    dx: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        list(size), weight.double(), grad.double(), list(stride), list(padding), list(dilation), groups
    )
    return dx.to(torch.int32)


@integer_input_gradient.register_fake
def _(grad: Tensor, _: Tensor, size: Sequence[int], *__: Any) -> Tensor:
    return grad.new_empty(list(size), dtype=torch.int32)


@torch.library.custom_op("e2::integer_weight_gradient", mutates_args=())
def integer_weight_gradient(
    x: Tensor,
    grad: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient of a convolution's weight, `size` [O, C / groups, KH, KW], int32.

    x is [N, C, H, W], int8 or uint8, grad [N, O, OH, OW], int8. It is the exact sum over samples and
    positions, clamped to int32.
    """
    dw: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        x.double(), list(size), grad.double(), list(stride), list(padding), list(dilation), groups
    )
    return dw.clamp(_INT32.min, _INT32.max).to(torch.int32)


@integer_weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:  # noqa: ARG001
    return grad.new_empty(list(size), dtype=torch.int32)


# What follows is made by the lowering alone: see e2compile.lower.scaled.


@torch.library.custom_op("e2::scaled_convolution", mutates_args=())
def scaled_convolution(
    x: Tensor,
    weight: Tensor,
    step: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    """float32(integer_convolution) * step, [N, O, OH, OW]; step is float32 (), dtype float32 or bfloat16."""
    y: Tensor = integer_convolution(x, weight, stride, padding, dilation, groups)
    return (y.to(torch.float32) * step).to(dtype)


@scaled_convolution.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    step: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    y: Tensor = integer_convolution(x, weight, stride, padding, dilation, groups)
    return (y * step).to(dtype)


@torch.library.custom_op("e2::scaled_input_gradient", mutates_args=())
def scaled_input_gradient(
    grad: Tensor,
    weight: Tensor,
    step: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    """float32(integer_input_gradient) * step, [N, C, H, W]; step is float32 (), dtype float32 or bfloat16."""
    dx: Tensor = integer_input_gradient(grad, weight, size, stride, padding, dilation, groups)
    return (dx.to(torch.float32) * step).to(dtype)


@scaled_input_gradient.register_fake
def _(grad: Tensor, _: Tensor, __: Tensor, size: Sequence[int], *rest: Any) -> Tensor:
    return grad.new_empty(list(size), dtype=rest[-1])


@torch.library.custom_op("e2::planes_input_gradient", mutates_args=())
def planes_input_gradient(
    high: Tensor,
    low: Tensor,
    weight: Tensor,
    step: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    """(256 * float32(dx of high) + float32(dx of low)) * step, [N, C, H, W], dx of integer_input_gradient.

    high and low are the int8 planes [N, O, OH, OW] of codes of a magnitude of at most 32,639; step is float32
    (), dtype float32 or bfloat16.
    """
    geometry = (size, stride, padding, dilation, groups)
    dx, rest = (integer_input_gradient(plane, weight, *geometry).to(torch.float32) for plane in (high, low))
    total: Tensor = (dx * 256.0 + rest) * step
    return total.to(dtype)


@planes_input_gradient.register_fake
def _(high: Tensor, _: Tensor, __: Tensor, ___: Tensor, size: Sequence[int], *rest: Any) -> Tensor:
    return high.new_empty(list(size), dtype=rest[-1])


UNIFORM = torch.ops.e2.uniform.default
GUARD = torch.ops.e2.guard.default
MOMENTS = torch.ops.e2.moments.default
BATCH_NORM = torch.ops.e2.batch_norm.default
DECOMPOSITIONS = {BATCH_NORM: _live_norm}
POWER_OF_TWO_ABOVE = torch.ops.e2.power_of_two_above.default
INTEGER_CONVOLUTION = torch.ops.e2.integer_convolution.default
INTEGER_INPUT_GRADIENT = torch.ops.e2.integer_input_gradient.default
INTEGER_WEIGHT_GRADIENT = torch.ops.e2.integer_weight_gradient.default
PRODUCTS = (INTEGER_CONVOLUTION, INTEGER_INPUT_GRADIENT, INTEGER_WEIGHT_GRADIENT)
SCALED_CONVOLUTION = torch.ops.e2.scaled_convolution.default
SCALED_INPUT_GRADIENT = torch.ops.e2.scaled_input_gradient.default
PLANES_INPUT_GRADIENT = torch.ops.e2.planes_input_gradient.default
SCALED = (SCALED_CONVOLUTION, SCALED_INPUT_GRADIENT, PLANES_INPUT_GRADIENT)
