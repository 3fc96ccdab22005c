"""Element-wise ATen calls as TIR expressions on one element."""

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from tvm import tirx
from tvm.ir import Expr

aten = torch.ops.aten

Rule = Callable[..., Expr]


def dtype_text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _binary(apply: Callable[[Any, Any], Expr]) -> Rule:
    """With ATen's factor alpha on the second operand, where the operator has one."""
    return lambda a, b, alpha=1: apply(a, b if alpha == 1 else b * tirx.const(alpha, b.ty.dtype))


def _divide(a: Expr, b: Expr) -> Expr:
    return tirx.div(a, b)


def _clamp(x: Expr, low: Any = None, high: Any = None) -> Expr:
    """Written with selects, so that a NaN passes as in ATen."""
    if low is not None:
        low = tirx.const(low, x.ty.dtype) if isinstance(low, (int, float)) else low
        x = tirx.Select(x < low, low, x)
    if high is not None:
        high = tirx.const(high, x.ty.dtype) if isinstance(high, (int, float)) else high
        x = tirx.Select(x > high, high, x)
    return x


def _relu(x: Expr) -> Expr:
    return _clamp(x, 0)


def _sign(x: Expr) -> Expr:
    zero, one = tirx.const(0, x.ty.dtype), tirx.const(1, x.ty.dtype)
    return tirx.Select(x > zero, one, tirx.Select(x < zero, -one, zero))


def _power(x: Expr, exponent: Any) -> Expr:
    if exponent == 2:
        return x * x
    if exponent == 3:
        return x * x * x
    if exponent == 0.5:
        return tirx.sqrt(x)
    return tirx.pow(x, tirx.const(exponent, x.ty.dtype) if isinstance(exponent, (int, float)) else exponent)


def _maximum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.any(a > b, a != a), a, b)


def _minimum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.any(a < b, a != a), a, b)


# Operands are cast to the result's type first.
ARITHMETIC: dict[OpOverload, Rule] = {
    aten.add.Tensor: _binary(lambda a, b: a + b),
    aten.add.Scalar: _binary(lambda a, b: a + b),
    aten.sub.Tensor: _binary(lambda a, b: a - b),
    aten.sub.Scalar: _binary(lambda a, b: a - b),
    aten.rsub.Scalar: lambda a, b: b - a,
    aten.mul.Tensor: lambda a, b: a * b,
    aten.mul.Scalar: lambda a, b: a * b,
    aten.div.Tensor: _divide,
    aten.div.Scalar: _divide,
    aten.neg.default: lambda a: -a,
    aten.abs.default: tirx.abs,
    aten.sign.default: _sign,
    aten.reciprocal.default: lambda a: tirx.div(tirx.const(1, a.ty.dtype), a),
    aten.sqrt.default: tirx.sqrt,
    # 1/sqrt, not the hardware's approximation
    aten.rsqrt.default: lambda a: tirx.div(tirx.const(1, a.ty.dtype), tirx.sqrt(a)),
    aten.exp.default: tirx.exp,
    aten.log.default: tirx.log,
    aten.log1p.default: tirx.log1p,
    aten.sin.default: tirx.sin,
    aten.cos.default: tirx.cos,
    aten.tanh.default: tirx.tanh,
    aten.erf.default: tirx.erf,
    aten.sigmoid.default: lambda a: tirx.div(tirx.const(1, a.ty.dtype), tirx.const(1, a.ty.dtype) + tirx.exp(-a)),
    aten.relu.default: _relu,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: lambda x, high: _clamp(x, None, high),
    aten.maximum.default: _maximum,
    aten.minimum.default: _minimum,
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Tensor_Tensor: _power,
    aten.floor.default: tirx.floor,
    aten.ceil.default: tirx.ceil,
    aten.bitwise_and.Tensor: lambda a, b: tirx.all(a, b) if a.ty.dtype == "bool" else a & b,
    aten.bitwise_or.Tensor: lambda a, b: tirx.any(a, b) if a.ty.dtype == "bool" else a | b,
    aten.logical_and.default: tirx.all,
    aten.logical_or.default: tirx.any,
    aten.logical_not.default: lambda a: tirx.Not(a),
    aten.bitwise_not.default: lambda a: tirx.Not(a) if a.ty.dtype == "bool" else tirx.bitwise_not(a),
}

# Operands are cast to their common type first.
COMPARISONS: dict[OpOverload, Rule] = {
    overload: apply
    for name, apply in {
        "eq": lambda a, b: tirx.EQ(a, b),
        "ne": lambda a, b: tirx.NE(a, b),
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
    }.items()
    for overload in (getattr(aten, name).Tensor, getattr(aten, name).Scalar)
}


def uniform(seed: Expr, step: Expr, site: int, position: Expr) -> Expr:
    """e2.uniform at one position: see e2compile.ops."""

    def word(value: Expr | int) -> Expr:
        return tirx.const(value, "uint32") if isinstance(value, int) else tirx.Cast("uint32", value)

    def wide(value: Expr) -> Expr:
        return tirx.Cast("uint64", value)

    shift = tirx.const(32, "int64")
    c0, c1, c2, c3 = word(position), word(site), word(step), word(step >> shift)
    k0, k1 = word(seed), word(seed >> shift)
    for _ in range(10):
        p0 = wide(c0) * tirx.const(0xD2511F53, "uint64")
        p1 = wide(c2) * tirx.const(0xCD9E8D57, "uint64")
        high0, high1 = (word(p >> tirx.const(32, "uint64")) for p in (p0, p1))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, word(p1), high0 ^ c3 ^ k1, word(p0)
        k0, k1 = k0 + word(0x9E3779B9), k1 + word(0xBB67AE85)
    return tirx.Cast("float32", c0 >> word(8)) * tirx.const(2.0**-24, "float32")
