"""Integer convolutions and input gradients whose sums leave the registers scaled, in float32 or bfloat16."""

from dataclasses import replace

from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.gather import gather
from e2compile.targets.llvm.gather_plan import Memory, Plan
from e2compile.targets.llvm.integer_gather import integer_plan, terms
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.scaling import Signature, scaled
from e2compile.targets.llvm.tiling import RegisterTile

# Of a gradient of two byte planes, and a weight of one.
_LARGEST_PRODUCT = 32639 * 128


def scaled_convolution(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    dtype: str = "float32",
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "scaled_convolution",
) -> tirx.PrimFunc:
    """(x, weight, step, [index, count], y): y = step times the convolution of x.

    x is int8 if `signed`, else uint8; step is float32 (), here and in what follows, and `dtype` that of
    the result: float32, or uint16 for the bits of bfloat16.
    """
    how = Signature(name, {"x": "int8" if signed else "uint8"}, "y", dtype, gated)
    return _gather(conv, integer_plan(conv, False, machine, signed, tile), how)


def scaled_input_gradient(
    conv: Convolution,
    machine: Machine,
    dtype: str = "float32",
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "scaled_input_gradient",
) -> tirx.PrimFunc:
    """(dy, weight, step, [index, count], dx): dx = step times the gradient of the convolution's input."""
    how = Signature(name, {"dy": "int8"}, "dx", dtype, gated)
    return _gather(conv, integer_plan(conv, True, machine, True, tile), how)


def planes_input_gradient(
    conv: Convolution,
    machine: Machine,
    dtype: str = "float32",
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "planes_input_gradient",
) -> tirx.PrimFunc:
    """(high, low, weight, step, [index, count], dx): dx = step times the sum of 256 times the input gradient
    of high and that of low, the int8 planes of a gradient of at most 32,639."""
    how = Signature(name, {"high": "int8", "low": "int8"}, "dx", dtype, gated)
    return _gather(conv, planes_plan(conv, machine, tile), how)


def planes_plan(conv: Convolution, machine: Machine, tile: RegisterTile | None = None) -> Plan:
    """The gather of an input gradient from two byte planes, in one sum where int32 holds it."""
    whole = integer_plan(conv, True, machine, True, tile)
    fits = terms(whole) * _LARGEST_PRODUCT < 1 << 31
    return whole if whole.arithmetic.source_dtype == "int16" and fits else replace(whole, planes=2)


def _gather(conv: Convolution, plan: Plan, how: Signature) -> tirx.PrimFunc:
    with scaled(conv, plan.transposed, how) as (builder, given):
        gather(plan, Memory(given.sources, given.weight, None, given.target, given.live, given.step))
    return builder.get()
