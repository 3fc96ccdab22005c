"""The CPU as a target. TVM is loaded when something is built."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from e2compile.errors import MissingError, UsageError
from e2compile.targets.llvm.machine import Machine, host

if TYPE_CHECKING:
    from tvm import IRModule

    from e2compile.graph import StepGraph
    from e2compile.pipeline import TrainingGraph
    from e2compile.targets.llvm.kernels import LlvmKernels


@dataclass(frozen=True)
class LlvmTarget:
    """The CPU this process runs on."""

    name: str = "cpu"
    machine: Machine = field(default_factory=host)

    @property
    def kernels(self) -> "LlvmKernels":
        from e2compile.targets.llvm.kernels import LlvmKernels

        return LlvmKernels(self.machine)

    @property
    def prices(self) -> Path:
        return Path(__file__).parent / "prices" / "server.toml"

    def configured(self, configuration: str) -> "LlvmTarget":
        raise UsageError(f"target {self.name} has no configurations: leave out :{configuration}")

    def missing(self) -> str | None:
        if any(shutil.which(tool) for tool in ("cc", "gcc", "clang")):
            return None
        return "a C compiler to link with (cc, gcc or clang): apt-get install gcc"

    def prepare(self, graph: "TrainingGraph") -> "TrainingGraph":
        return graph

    def array(self, step: "StepGraph") -> None:  # noqa: ARG002 - the protocol's
        return None

    def build(self, module: "IRModule", path: Path) -> None:
        """Compile and link `module` to a shared library. Raises MissingError without a linker."""
        from e2compile.targets.llvm.build import executable

        missing = self.missing()
        if missing is not None:
            raise MissingError(f"target {self.name} needs {missing}")
        executable(module).export_library(str(path))


CPU = LlvmTarget()

__all__ = ["CPU", "LlvmTarget"]
