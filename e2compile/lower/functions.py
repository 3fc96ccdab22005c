"""Functions of one element that TVM lacks or computes otherwise than ATen.

TVM takes comparisons for those of a total order: it turns `x != x` into false, `not x < y` into `x >= y`,
and compares a NaN unequal to nothing. What ATen defines for NaN is therefore written with `is_nan`.
"""

from collections.abc import Sequence
from math import frexp
from typing import Any

from tvm import tirx
from tvm.ir import Expr

# The integer as wide as a float, all its bits but the sign, and the bits of infinity.
_FORMATS = {
    "float32": ("int32", 0x7FFFFFFF, 0x7F800000),
    "float64": ("int64", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}

# Powers of two nearer to one than this have a reciprocal in either type.
_EXPONENTS = 120


def is_float(x: Expr) -> bool:
    return "float" in str(x.ty.dtype)


def constant(value: Any, like: Expr) -> Expr:
    """A Python number in an expression's type; an expression as it is."""
    return tirx.const(value, like.ty.dtype) if isinstance(value, (bool, int, float)) else value


def is_nan(x: Expr) -> Expr:
    """By the bits: `x != x` is folded away, and `tirx.isnan` is wrong in vectors."""
    bits, magnitude, infinity = _FORMATS[x.ty.dtype]
    pattern = tirx.bitwise_and(tirx.reinterpret(bits, x), tirx.const(magnitude, bits))
    return pattern > tirx.const(infinity, bits)


def narrowed(x: Expr) -> Expr:
    """The bits of the bfloat16 nearest to a float32, of two as near the even one, as uint16.

    In bits, as TVM takes values of its own bfloat16 for integers once they are bound to a name. Lanes of a
    vector, too, as in `widened`.
    """
    lanes = x.ty.dtype.removeprefix("float32")
    word = f"uint32{lanes}"
    bits = tirx.reinterpret(word, x)
    high = tirx.shift_right(bits, tirx.const(16, word))
    is_number = tirx.bitwise_and(bits, tirx.const(0x7FFFFFFF, word)) <= tirx.const(0x7F800000, word)
    up = tirx.bitwise_and(high, tirx.const(1, word)) + tirx.const(0x7FFF, word)
    nearest = tirx.shift_right(bits + up, tirx.const(16, word))
    quiet = tirx.bitwise_or(high, tirx.const(0x40, word))
    return tirx.Cast(f"uint16{lanes}", tirx.Select(is_number, nearest, quiet))


def upper(x: Expr) -> Expr:
    """The bits of a bfloat16 that a float32 holds exactly."""
    lanes = x.ty.dtype.removeprefix("float32")
    word = f"uint32{lanes}"
    high = tirx.shift_right(tirx.reinterpret(word, x), tirx.const(16, word))
    return tirx.Cast(f"uint16{lanes}", high)


def widened(bits: Expr) -> Expr:
    """The float32 that the bits of a bfloat16 stand for."""
    lanes = bits.ty.dtype.removeprefix("uint16")
    word = f"uint32{lanes}"
    shifted = tirx.shift_left(tirx.Cast(word, bits), tirx.const(16, word))
    return tirx.reinterpret(f"float32{lanes}", shifted)


def negation(a: Expr) -> Expr:
    """Not `tirx.Not`, which is pushed into comparisons."""
    return tirx.Select(a, tirx.const(False, "bool"), tirx.const(True, "bool"))


def equal(a: Expr, b: Expr) -> Expr:
    if a.same_as(b) and is_float(a):
        return negation(is_nan(a))
    return tirx.EQ(a, b)


def unequal(a: Expr, b: Expr) -> Expr:
    return tirx.any(tirx.NE(a, b), is_nan(a), is_nan(b)) if is_float(a) else tirx.NE(a, b)


def greater(a: Expr, b: Expr) -> Expr:
    """Whether a value takes the place of the greatest so far: a NaN does."""
    return tirx.any(a > b, is_nan(a)) if is_float(a) else a > b


def maximum(a: Expr, b: Expr) -> Expr:
    return tirx.any(a, b) if a.ty.dtype == "bool" else tirx.Select(greater(a, b), a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    if a.ty.dtype == "bool":
        return tirx.all(a, b)
    return tirx.Select(tirx.any(a < b, is_nan(a)) if is_float(a) else a < b, a, b)


def greatest_magnitude(a: Expr, b: Expr) -> Expr:
    """The greater of a float that is not negative and another one's magnitude; a NaN is the greatest.

    By their bits, which are ordered as they are.
    """
    bits, magnitude, _ = _FORMATS[a.ty.dtype]
    other = tirx.bitwise_and(tirx.reinterpret(bits, b), tirx.const(magnitude, bits))
    return tirx.reinterpret(a.ty.dtype, tirx.max(tirx.reinterpret(bits, a), other))


def quotient(a: Expr, b: Expr) -> Expr:
    """a / b; by a power of two as the product with its reciprocal, which is as exact."""
    if isinstance(b, tirx.FloatImm) and abs(frexp(b.value)[0]) == 0.5 and abs(frexp(b.value)[1]) < _EXPONENTS:
        return a * tirx.const(1 / b.value, b.ty.dtype)
    return tirx.div(a, b)


def clamp(x: Expr, min: Any = None, max: Any = None) -> Expr:
    """Written with selects, so that a NaN passes as in ATen; the names are ATen's."""
    if min is not None:
        low = constant(min, x)
        x = tirx.Select(x < low, low, x)
    if max is not None:
        high = constant(max, x)
        x = tirx.Select(x > high, high, x)
    return x


def sign(x: Expr) -> Expr:
    zero, one = constant(0, x), constant(1, x)
    return tirx.Select(x > zero, one, tirx.Select(x < zero, -one, zero))


def power_of_two_above(x: Expr) -> Expr:
    """e2.power_of_two_above: the fraction's bits rounded up into the exponent."""
    bits, _, infinity = _FORMATS[x.ty.dtype]
    unit = infinity & -infinity
    raised = tirx.reinterpret(bits, x) + tirx.const(unit - 1, bits)
    power = tirx.reinterpret(x.ty.dtype, tirx.bitwise_and(raised, tirx.const(infinity, bits)))
    pattern = tirx.bitwise_and(tirx.reinterpret(bits, x), tirx.const(infinity, bits))
    return tirx.Select(pattern < tirx.const(infinity, bits), power, x)


def power(x: Expr, exponent: Any) -> Expr:
    one = constant(1, x)
    if isinstance(exponent, (int, float)) and exponent in (1, 2, 3):
        return {1: x, 2: x * x, 3: x * x * x}[int(exponent)]
    if isinstance(exponent, int) and exponent >= 0 and not is_float(x):
        return one if exponent == 0 else x * power(x, exponent - 1)
    roots = (
        {0.5: tirx.sqrt(x), -0.5: one / tirx.sqrt(x), -1: one / x, -2: one / (x * x)} if is_float(x) else {}
    )
    if not isinstance(exponent, Expr) and exponent in roots:
        return roots[exponent]
    return tirx.pow(x, constant(exponent, x))


def log1p(x: Expr) -> Expr:
    """Kahan's: log(u) x / (u - 1) with u = 1 + x, whose rounding cancels."""
    one = constant(1, x)
    u = one + x
    small = tirx.Select(tirx.EQ(u, one), x, tirx.log(u) * (x / (u - one)))
    return tirx.Select(x > constant(1e9, x), tirx.log(x), small)


def expm1(x: Expr) -> Expr:
    """Kahan's again: (u - 1) x / log(u) with u = exp(x)."""
    one = constant(1, x)
    u = tirx.exp(x)
    near = tirx.Select(tirx.EQ(u, one), x, (u - one) * (x / tirx.log(u)))
    return tirx.Select(tirx.abs(x) < constant(0.5, x), near, u - one)


_TANH = (
    (4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
     -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16),
    (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06),
)  # fmt: skip
_ERF = (
    (-1.60960333262415e-02, -2.95459980854025e-03, -7.34990630326855e-04, -5.69250639462346e-05,
     -2.10102402082508e-06, 2.77068142495902e-08, -2.72614225801306e-10),
    (-1.42647390514189e-02, -7.37332916720468e-03, -1.68282697438203e-03, -2.13374055278905e-04,
     -1.45660718464996e-05),
)  # fmt: skip


def tanh(x: Expr) -> Expr:
    """In float32 Eigen's rational approximation: unlike TVM's it is as exact near zero."""
    return _rational(x, 7.90531110763549805, *_TANH) if x.ty.dtype == "float32" else tirx.tanh(x)


def erf(x: Expr) -> Expr:
    """Eigen's rational approximation in float32; TVM's call of C's erff is wrong in vectors."""
    return _rational(x, 4.0, *_ERF)


def _rational(x: Expr, bound: float, numerator: Sequence[float], denominator: Sequence[float]) -> Expr:
    """x P(x^2) / Q(x^2) for x within +-bound."""
    x = clamp(x, -bound, bound)
    square = x * x
    return x * _polynomial(square, numerator) / _polynomial(square, denominator)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    result = constant(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + constant(coefficient, x)
    return result
