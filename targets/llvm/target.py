"""The CPU as a target."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import tvm
from tvm import IRModule, relax
from tvm.tirx import PrimFunc

from e2compile.errors import MissingError
from e2compile.lower.loop import Loop
from e2compile.lower.workload import Convolution, Pool
from e2compile.pipeline import TrainingGraph
from e2compile.targets.llvm import gather, gating, integer_gather, integer_gradient, pools, weight_gradient
from e2compile.targets.llvm.loops import elementwise
from e2compile.targets.llvm.machine import Machine, host, tvm_target
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
        return gather.forward(conv, self.machine, bias, gated)

    def input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        return gather.input_gradient(conv, self.machine, gated)

    def weight_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc:
        return weight_gradient.weight_gradient(conv, self.machine, gated)

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


@dataclass(frozen=True)
class LlvmTarget:
    """The CPU this process runs on."""

    name: str = "cpu"
    machine: Machine = field(default_factory=host)

    @property
    def kernels(self) -> LlvmKernels:
        return LlvmKernels(self.machine)

    def missing(self) -> str | None:
        if any(shutil.which(tool) for tool in ("cc", "gcc", "clang")):
            return None
        return "a C compiler to link with (cc, gcc or clang): apt-get install gcc"

    def prepare(self, graph: TrainingGraph) -> TrainingGraph:
        return graph

    def build(self, module: IRModule, path: Path) -> None:
        """Compile and link `module` to a shared library. Raises MissingError without a linker."""
        missing = self.missing()
        if missing is not None:
            raise MissingError(f"target {self.name} needs {missing}")
        self.executable(module).export_library(str(path))

    def executable(self, module: IRModule) -> relax.VMExecutable:
        """`module` compiled in memory."""
        # CSE would bind vectors of booleans, which TVM's bound analysis cannot take; LLVM has its own
        with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True}):
            return tvm.compile(module, target=tvm_target(), relax_pipeline=relax_pipeline())


def relax_pipeline() -> tvm.transform.Pass:
    """Relax's build without fusion or legalisation: every call is a scheduled kernel already."""
    from tvm.relax import transform

    return tvm.transform.Sequential(
        [
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


CPU = LlvmTarget()

__all__ = ["CPU", "LlvmKernels", "LlvmTarget", "relax_pipeline"]
