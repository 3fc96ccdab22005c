"""The integer convolution and its input gradient: bytes in, exact int32 sums out, by the fp32 loops."""

from tvm import tirx

from e2compile.errors import CompileError
from e2compile.lower.workload import Convolution
from e2compile.ops import MOST_TERMS
from e2compile.targets.llvm.arithmetic import Arithmetic, Bytes, Dots
from e2compile.targets.llvm.emit import arguments, function, gate, samples
from e2compile.targets.llvm.gather import gather
from e2compile.targets.llvm.gather_plan import Memory, Plan, plan
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tiling import RegisterTile


def integer_convolution(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "integer_convolution",
) -> tirx.PrimFunc:
    """(x, weight, [index, count], y): y = the convolution of x, int8 if `signed`, else uint8."""
    shapes = {"x": conv.x_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"y": conv.y_shape}
    dtypes = {"x": "int8" if signed else "uint8", "weight": "int8", "y": "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        memory = Memory((given["x"],), given["weight"], None, given["y"], samples(conv, given))
        gather(integer_plan(conv, False, machine, signed, tile), memory)
    return builder.get()


def integer_input_gradient(
    conv: Convolution,
    machine: Machine,
    gated: bool = False,
    tile: RegisterTile | None = None,
    name: str = "integer_input_gradient",
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input; dy is int8."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        given = arguments(shapes, {"dy": "int8", "weight": "int8", "dx": "int32"})
        memory = Memory((given["dy"],), given["weight"], None, given["dx"], samples(conv, given))
        gather(integer_plan(conv, True, machine, True, tile), memory)
    return builder.get()


def integer_plan(
    conv: Convolution, transposed: bool, machine: Machine, signed: bool, tile: RegisterTile | None = None
) -> Plan:
    """The gather of an integer convolution; transposed, that of its input gradient."""
    whole = plan(conv, transposed, machine, _arithmetic(conv, machine, signed), tile)
    if terms(whole) > MOST_TERMS:
        raise CompileError(f"an integer convolution that adds up {terms(whole)} products may overflow")
    return whole


def _arithmetic(conv: Convolution, machine: Machine, signed: bool) -> Arithmetic:
    return Bytes() if conv.is_depthwise else Dots(machine, signed)


def terms(whole: Plan) -> int:
    """Products that are added up, at most."""
    return whole.conv.kernel[0] * whole.conv.kernel[1] * whole.sources
