"""Kernels of the FPGA target: the host's, those of integer products with a note of what they compute."""

import json
from dataclasses import asdict, dataclass

from tvm.tirx import PrimFunc

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.kernels import LlvmKernels
from e2compile.targets.vta.program.table import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, convolution

WHAT, WORKLOAD, SIGNED, GATED = "vta.what", "vta.workload", "vta.signed", "vta.gated"


@dataclass(frozen=True)
class VtaKernels(LlvmKernels):
    """An integer kernel enters a module as the host would run it: that is what it means, what runs where the
    array cannot do it, and what its stream is tested against."""

    def integer_convolution(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc:
        return _noted(super().integer_convolution(conv, signed, gated), FORWARD, conv, signed, gated)

    def integer_input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        return _noted(super().integer_input_gradient(conv, gated), INPUT_GRADIENT, conv, True, gated)

    def integer_weight_gradient(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc:
        return _noted(
            super().integer_weight_gradient(conv, signed, gated), WEIGHT_GRADIENT, conv, signed, gated
        )


def _noted(kernel: PrimFunc, what: str, conv: Convolution, signed: bool, gated: bool) -> PrimFunc:
    workload = json.dumps(asdict(conv))
    return kernel.with_attrs({WHAT: what, WORKLOAD: workload, SIGNED: int(signed), GATED: int(gated)})


def workload(kernel: PrimFunc) -> Convolution:
    """The workload that a kernel was noted with."""
    return convolution(json.loads(str(kernel.attrs[WORKLOAD])))
