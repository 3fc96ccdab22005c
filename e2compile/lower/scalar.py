"""Element-wise ATen calls as TIR expressions on one element."""

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from tvm import tirx
from tvm.ir import Expr

from e2compile.lower import functions
from e2compile.ops import POWER_OF_TWO_ABOVE

aten = torch.ops.aten

Rule = Callable[..., Expr]


def dtype_text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def memory_text(dtype: torch.dtype) -> str:
    """The type of a buffer that holds values of a type: a bfloat16 is the uint16 of its bits."""
    return "uint16" if dtype is torch.bfloat16 else dtype_text(dtype)


def _binary(apply: Callable[[Any, Any], Expr]) -> Rule:
    """With ATen's factor alpha on the second operand."""
    return lambda a, b, alpha=None: apply(a, b if alpha is None else b * alpha)


def _either(a: Expr, b: Expr) -> Expr:
    return tirx.any(a, b) if a.ty.dtype == "bool" else a | b


def _both(a: Expr, b: Expr) -> Expr:
    return tirx.all(a, b) if a.ty.dtype == "bool" else a & b


def _add(a: Expr, b: Expr) -> Expr:
    return tirx.any(a, b) if a.ty.dtype == "bool" else a + b


def _multiply(a: Expr, b: Expr) -> Expr:
    return tirx.all(a, b) if a.ty.dtype == "bool" else a * b


# Operands of arithmetic are cast to the result's type first, those of comparisons to their common type.
RULES: dict[OpOverload, Rule] = {
    aten.add.Tensor: _binary(_add),
    aten.add.Scalar: _binary(_add),
    aten.sub.Tensor: _binary(lambda a, b: a - b),
    aten.sub.Scalar: _binary(lambda a, b: a - b),
    aten.rsub.Scalar: lambda a, b, alpha=None: b - (a if alpha is None else a * alpha),
    aten.mul.Tensor: _multiply,
    aten.mul.Scalar: _multiply,
    aten.div.Tensor: functions.quotient,
    aten.div.Scalar: functions.quotient,
    aten.neg.default: lambda a: -a,
    aten.abs.default: tirx.abs,
    aten.sign.default: functions.sign,
    aten.reciprocal.default: lambda a: tirx.div(tirx.const(1, a.ty.dtype), a),
    aten.sqrt.default: tirx.sqrt,
    # 1/sqrt, not the hardware's approximation
    aten.rsqrt.default: lambda a: tirx.div(tirx.const(1, a.ty.dtype), tirx.sqrt(a)),
    aten.exp.default: tirx.exp,
    aten.exp2.default: tirx.exp2,
    aten.expm1.default: functions.expm1,
    aten.log.default: tirx.log,
    aten.log1p.default: functions.log1p,
    aten.sin.default: tirx.sin,
    aten.cos.default: tirx.cos,
    aten.tanh.default: functions.tanh,
    aten.erf.default: functions.erf,
    aten.sigmoid.default: lambda a: tirx.div(
        tirx.const(1, a.ty.dtype), tirx.const(1, a.ty.dtype) + tirx.exp(-a)
    ),
    aten.relu.default: lambda x: functions.clamp(x, 0),
    aten.clamp.default: functions.clamp,
    aten.clamp_min.default: functions.clamp,
    aten.clamp_max.default: lambda x, high: functions.clamp(x, max=high),
    aten.maximum.default: functions.maximum,
    aten.minimum.default: functions.minimum,
    aten.pow.Tensor_Scalar: functions.power,
    aten.pow.Tensor_Tensor: functions.power,
    POWER_OF_TWO_ABOVE: functions.power_of_two_above,
    aten.floor.default: tirx.floor,
    aten.ceil.default: tirx.ceil,
    aten.bitwise_and.Tensor: _both,
    aten.bitwise_or.Tensor: _either,
    aten.logical_and.default: tirx.all,
    aten.logical_or.default: tirx.any,
    aten.logical_not.default: functions.negation,
    aten.bitwise_not.default: lambda a: (
        functions.negation(a) if a.ty.dtype == "bool" else tirx.bitwise_not(a)
    ),
    **{
        overload: apply
        for name, apply in {
            "eq": functions.equal,
            "ne": functions.unequal,
            "lt": lambda a, b: a < b,
            "le": lambda a, b: a <= b,
            "gt": lambda a, b: a > b,
            "ge": lambda a, b: a >= b,
        }.items()
        for overload in (getattr(aten, name).Tensor, getattr(aten, name).Scalar)
    },
}


def uniform(seed: Expr, step: Expr, site: int, position: Expr) -> Expr:
    """e2.uniform at one position: see e2compile.ops."""

    def word(value: Expr | int) -> Expr:
        return tirx.const(value, "uint32") if isinstance(value, int) else tirx.Cast("uint32", value)

    def wide(value: Expr) -> Expr:
        return tirx.Cast("uint64", value)

    shift = tirx.const(32, "int64")
    c0, c1, c2, c3 = word(position), word(site), word(step), word(step >> shift)
    key0, key1 = word(seed), word(seed >> shift)
    for i in range(10):
        p0 = wide(c0) * tirx.const(0xD2511F53, "uint64")
        p1 = wide(c2) * tirx.const(0xCD9E8D57, "uint64")
        high0, high1 = (word(p >> tirx.const(32, "uint64")) for p in (p0, p1))
        # one addition each: TVM would add two constants without wrapping around
        k0, k1 = key0 + word(i * 0x9E3779B9 & 0xFFFFFFFF), key1 + word(i * 0xBB67AE85 & 0xFFFFFFFF)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, word(p1), high0 ^ c3 ^ k1, word(p0)
    return tirx.Cast("float32", c0 >> word(8)) * tirx.const(2.0**-24, "float32")
