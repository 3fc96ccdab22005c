"""The CPU target's kernels, each shaped for one machine."""

from dataclasses import dataclass

from tvm.tirx import PrimFunc

from e2compile.lower.loop import Loop
from e2compile.lower.workload import Convolution, Pool
from e2compile.targets.llvm import (
    gather,
    gating,
    integer_gather,
    integer_gradient,
    pools,
    weight_gradient,
    winograd,
    winograd_gather,
    winograd_gradient,
)
from e2compile.targets.llvm.loops import elementwise
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.reductions import reduction


@dataclass(frozen=True)
class LlvmKernels:
    """Kernels shaped for one machine."""

    machine: Machine

    def loop(self, loop: Loop) -> PrimFunc:
        return (reduction if loop.reduces else elementwise)(loop, self.machine)

    def live_samples(self, samples: int, source: str) -> PrimFunc:
        return gating.live_samples(samples, source)

    def convolution(self, conv: Convolution, bias: bool, gated: bool = False) -> PrimFunc:
        kernels = winograd_gather if winograd.serves(conv) else gather
        return kernels.forward(conv, self.machine, bias, gated)

    def input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        kernels = winograd_gather if winograd.serves(conv) else gather
        return kernels.input_gradient(conv, self.machine, gated)

    def weight_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        kernels = winograd_gradient if winograd.serves_weights(conv) else weight_gradient
        return kernels.weight_gradient(conv, self.machine, gated)

    def integer_convolution(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc:
        return integer_gather.integer_convolution(conv, self.machine, signed, gated)

    def integer_input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        return integer_gather.integer_input_gradient(conv, self.machine, gated)

    def integer_weight_gradient(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc:
        return integer_gradient.integer_weight_gradient(conv, self.machine, signed, gated)

    def pool(self, pool: Pool, gated: bool = False) -> PrimFunc:
        return pools.pool(pool, self.machine, gated)

    def pool_gradient(self, pool: Pool, gated: bool = False) -> PrimFunc:
        return pools.pool_gradient(pool, self.machine, gated)
