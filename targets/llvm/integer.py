"""The integer contractions: bytes in, exact int32 sums out, by the loops of the floating-point ones."""

from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.arithmetic import Arithmetic, Bytes, Dots
from e2compile.targets.llvm.emit import arguments, function, gate, samples
from e2compile.targets.llvm.gather import gather
from e2compile.targets.llvm.gather_plan import Memory, plan
from e2compile.targets.llvm.machine import Machine


def integer_forward(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    gated: bool = False,
    name: str = "integer_forward",
) -> tirx.PrimFunc:
    """(x, weight, [index, count], y): y = the convolution of x, int8 if `signed`, else uint8."""
    shapes = {"x": conv.x_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"y": conv.y_shape}
    dtypes = {"x": "int8" if signed else "uint8", "weight": "int8", "y": "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        memory = Memory(given["x"], given["weight"], None, given["y"], samples(conv, given))
        gather(plan(conv, False, machine, _arithmetic(conv, machine, signed)), memory)
    return builder.get()


def integer_input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "integer_input_gradient"
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input; dy is int8."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        given = arguments(shapes, {"dy": "int8", "weight": "int8", "dx": "int32"})
        memory = Memory(given["dy"], given["weight"], None, given["dx"], samples(conv, given))
        gather(plan(conv, True, machine, _arithmetic(conv, machine, True)), memory)
    return builder.get()


def _arithmetic(conv: Convolution, machine: Machine, signed: bool) -> Arithmetic:
    return Bytes() if conv.is_depthwise else Dots(machine, signed)
