"""Integral: the float32 values of a loop that are small integers, as int32 expressions.

Codes are made in float32, which says what each rounding is. As int32 their bytes cost a shift, and not a
product, a rounding and a conversion each.
"""

import operator
from collections.abc import Callable, Sequence
from math import frexp
from typing import Any

import torch
from torch._ops import OpOverload
from tvm import tirx
from tvm.ir import Expr

from e2compile.lower.loop import Compute, Load, Value

aten = torch.ops.aten

# Integers up to here are float32 values, each of them.
_MOST = 2**24

Range = tuple[int, int]


def as_integer(
    instructions: Sequence[Load | Compute], values: Sequence[Expr], argument: Any
) -> tuple[Expr, Range] | None:
    """An argument of an instruction as int32 with the range that it lies in; None where that is not known.

    `values` are those of `instructions`. A NaN is some integer, as it is when it is converted.
    """
    if isinstance(argument, (int, float)):
        if not _is_small_integer(argument):
            return None
        whole = int(argument)
        return tirx.const(whole, "int32"), (whole, whole)
    call = instructions[argument.index]
    if not isinstance(call, Compute) or call.dtype != "float32" or call.kwargs:
        return None
    if call.op is aten.full.default:
        return as_integer(instructions, values, call.args[0])
    if call.op is aten.clamp.default:
        return _clamped(instructions, call, values[argument.index])
    if call.op is aten.floor.default:
        return _shifted(instructions, values, call.args[0])
    if call.op not in _ARITHMETIC:
        return None
    a, b = (as_integer(instructions, values, each) for each in call.args)
    if a is None or b is None:
        return None
    apply = _ARITHMETIC[call.op]
    edges = [apply(x, y) for x in a[1] for y in b[1]]
    return _if_small(apply(a[0], b[0]), (min(edges), max(edges)))


_ARITHMETIC: dict[OpOverload, Callable[[Any, Any], Any]] = {
    aten.add.Tensor: operator.add,
    aten.add.Scalar: operator.add,
    aten.sub.Tensor: operator.sub,
    aten.sub.Scalar: operator.sub,
    aten.mul.Tensor: operator.mul,
    aten.mul.Scalar: operator.mul,
}


def _is_small_integer(value: Any) -> bool:
    """Whether a number is one; None, infinities and NaN are not."""
    return value is not None and abs(value) <= _MOST and int(value) == value


def _if_small(value: Expr, limits: Range) -> tuple[Expr, Range] | None:
    return (value, limits) if max(map(abs, limits)) <= _MOST else None


def _clamped(
    instructions: Sequence[Load | Compute], clamp: Compute, value: Expr
) -> tuple[Expr, Range] | None:
    """clamp(floor(x), low, high): a conversion."""
    source, *limits = clamp.args
    call = instructions[source.index]
    is_floor = isinstance(call, Compute) and call.op is aten.floor.default
    if not is_floor or len(limits) != 2 or not all(map(_is_small_integer, limits)):
        return None
    low, high = map(int, limits)
    return tirx.Cast("int32", value), (low, high)


def _shifted(
    instructions: Sequence[Load | Compute], values: Sequence[Expr], argument: Any
) -> tuple[Expr, Range] | None:
    """floor(an integer times a power of two below one): a shift, which rounds down, too."""
    call = instructions[argument.index] if isinstance(argument, Value) else None
    if not isinstance(call, Compute) or call.op is not aten.mul.Scalar:
        return None
    fraction, exponent = frexp(call.args[1])
    whole = as_integer(instructions, values, call.args[0])
    if whole is None or fraction != 0.5 or exponent > 0:
        return None
    value, (low, high) = whole
    bits = 1 - exponent
    return tirx.shift_right(value, tirx.const(bits, "int32")), (low >> bits, high >> bits)
