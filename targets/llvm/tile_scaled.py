"""Integer convolutions and input gradients by tiles whose sums are scaled, in float32 or bfloat16.

The functions are those of scaled_gather.
"""

from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.scaling import Signature, scaled
from e2compile.targets.llvm.tile_gather import Memory, gather
from e2compile.targets.llvm.tile_plan import TilePlan, plan


def scaled_convolution(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    dtype: str = "float32",
    gated: bool = False,
    name: str = "scaled_convolution",
) -> tirx.PrimFunc:
    """(x, weight, step, [index, count], y): y = step times the convolution of x, int8 if `signed`."""
    how = Signature(name, {"x": "int8" if signed else "uint8"}, "y", dtype, gated)
    return _gather(conv, plan(conv, False, machine), how, signed)


def scaled_input_gradient(
    conv: Convolution,
    machine: Machine,
    dtype: str = "float32",
    gated: bool = False,
    name: str = "scaled_input_gradient",
) -> tirx.PrimFunc:
    """(dy, weight, step, [index, count], dx): dx = step times the gradient of the convolution's input."""
    return _gather(conv, plan(conv, True, machine), Signature(name, {"dy": "int8"}, "dx", dtype, gated), True)


def planes_input_gradient(
    conv: Convolution,
    machine: Machine,
    dtype: str = "float32",
    gated: bool = False,
    name: str = "planes_input_gradient",
) -> tirx.PrimFunc:
    """(high, low, weight, step, [index, count], dx): dx = step times 256 times the input gradient of high,
    plus that of low."""
    how = Signature(name, {"high": "int8", "low": "int8"}, "dx", dtype, gated)
    return _gather(conv, plan(conv, True, machine, 2), how, True)


def _gather(conv: Convolution, plan: TilePlan, how: Signature, signed: bool) -> tirx.PrimFunc:
    with scaled(conv, plan.transposed, how) as (builder, given):
        gather(plan, Memory(given.sources, given.weight, given.target, given.live, given.step), signed)
    return builder.get()
