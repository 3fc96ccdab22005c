"""The CPU target's kernels, each shaped for one machine."""

from dataclasses import dataclass
from typing import Any

from tvm.tirx import PrimFunc

from e2compile.lower.loop import Loop
from e2compile.lower.workload import Contraction, Convolution, Pool
from e2compile.targets.llvm import (
    gather,
    gating,
    integer_gather,
    integer_gradient,
    pools,
    product_gather,
    product_gradient,
    scaled_gather,
    tile_gather,
    tile_gradient,
    tile_scaled,
    weight_gradient,
    winograd_gather,
    winograd_gradient,
)
from e2compile.targets.llvm.choices import PRODUCT, TILES, WINOGRAD, Choices, default
from e2compile.targets.llvm.loops import elementwise
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.reductions import reduction


@dataclass(frozen=True)
class LlvmKernels:
    """Kernels shaped for one machine, contractions as they were chosen, the others by estimates."""

    machine: Machine
    choices: Choices = ()

    def loop(self, loop: Loop) -> PrimFunc:
        return (reduction if loop.reduces else elementwise)(loop, self.machine)

    def live_samples(self, samples: int, source: str) -> PrimFunc:
        return gating.live_samples(samples, source)

    def convolution(self, conv: Convolution, bias: bool, gated: bool = False) -> PrimFunc:
        choice = self._choice("convolution", conv)
        if choice == WINOGRAD:
            return winograd_gather.forward(conv, self.machine, bias, gated)
        if choice == PRODUCT:
            return product_gather.forward(conv, self.machine, bias, gated)
        return gather.forward(conv, self.machine, bias, gated, choice)

    def input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        choice = self._choice("input_gradient", conv)
        if choice == WINOGRAD:
            return winograd_gather.input_gradient(conv, self.machine, gated)
        if choice == PRODUCT:
            return product_gather.input_gradient(conv, self.machine, gated)
        return gather.input_gradient(conv, self.machine, gated, choice)

    def weight_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        choice = self._choice("weight_gradient", conv)
        if choice == WINOGRAD:
            return winograd_gradient.weight_gradient(conv, self.machine, gated)
        if choice == PRODUCT:
            return product_gradient.weight_gradient(conv, self.machine, gated)
        return weight_gradient.weight_gradient(conv, self.machine, gated, choice)

    def integer_convolution(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc:
        choice = self._choice("integer_convolution", conv, signed)
        if choice == TILES:
            return tile_gather.integer_convolution(conv, self.machine, signed, gated)
        return integer_gather.integer_convolution(conv, self.machine, signed, gated, choice)

    def integer_input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        choice = self._choice("integer_input_gradient", conv)
        if choice == TILES:
            return tile_gather.integer_input_gradient(conv, self.machine, gated)
        return integer_gather.integer_input_gradient(conv, self.machine, gated, choice)

    def integer_weight_gradient(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc:
        choice = self._choice("integer_weight_gradient", conv, signed)
        if choice == TILES:
            return tile_gradient.integer_weight_gradient(conv, self.machine, signed, gated)
        return integer_gradient.integer_weight_gradient(conv, self.machine, signed, gated, choice)

    def scaled_convolution(
        self, conv: Convolution, signed: bool, dtype: str, gated: bool = False
    ) -> PrimFunc:
        choice = self._choice("scaled_convolution", conv, signed)
        if choice == TILES:
            return tile_scaled.scaled_convolution(conv, self.machine, signed, dtype, gated)
        return scaled_gather.scaled_convolution(conv, self.machine, signed, dtype, gated, choice)

    def scaled_input_gradient(self, conv: Convolution, dtype: str, gated: bool = False) -> PrimFunc:
        choice = self._choice("scaled_input_gradient", conv)
        if choice == TILES:
            return tile_scaled.scaled_input_gradient(conv, self.machine, dtype, gated)
        return scaled_gather.scaled_input_gradient(conv, self.machine, dtype, gated, choice)

    def planes_input_gradient(self, conv: Convolution, dtype: str, gated: bool = False) -> PrimFunc:
        choice = self._choice("planes_input_gradient", conv)
        if choice == TILES:
            return tile_scaled.planes_input_gradient(conv, self.machine, dtype, gated)
        return scaled_gather.planes_input_gradient(conv, self.machine, dtype, gated, choice)

    def pool(self, pool: Pool, gated: bool = False) -> PrimFunc:
        return pools.pool(pool, self.machine, gated)

    def pool_gradient(self, pool: Pool, gated: bool = False) -> PrimFunc:
        return pools.pool_gradient(pool, self.machine, gated)

    def _choice(self, method: str, conv: Convolution, signed: bool = True) -> Any:
        """A register tile, a kernel's name, or None for the tile that the estimate says is best."""
        contraction = Contraction(method, conv, signed)
        return dict(self.choices).get(contraction, default(contraction, self.machine))
