"""What a target is: kernels for what a graph computes, a build, and what this machine lacks for it."""

from pathlib import Path
from typing import Protocol

from tvm import IRModule
from tvm.tirx import PrimFunc

from e2compile.lower.loop import Loop
from e2compile.lower.workload import Convolution, Pool


class Kernels(Protocol):
    """Scheduled kernels. Arguments are inputs then outputs; activations are NHWC, weights HWIO."""

    def loop(self, loop: Loop) -> PrimFunc: ...

    def convolution(self, conv: Convolution, bias: bool) -> PrimFunc: ...

    def input_gradient(self, conv: Convolution) -> PrimFunc: ...

    def weight_gradient(self, conv: Convolution) -> PrimFunc: ...

    def pool(self, pool: Pool) -> PrimFunc: ...

    def pool_gradient(self, pool: Pool) -> PrimFunc: ...


class Target(Protocol):
    """A place to run a program. A target holds no state; two equal targets build the same code."""

    @property
    def name(self) -> str: ...

    @property
    def kernels(self) -> Kernels: ...

    def missing(self) -> str | None:
        """What this machine lacks to build for the target; None if nothing."""

    def build(self, module: IRModule, path: Path) -> None:
        """Compile `module` to a library at `path`. Raises MissingError where a tool is missing."""
