"""The CPU as a target. TVM is loaded when something is built."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from e2compile.errors import MissingError, UsageError
from e2compile.runtime.host import Host
from e2compile.targets.llvm.machine import Machine, host, named

if TYPE_CHECKING:
    from tvm import IRModule

    from e2compile.graph import StepGraph
    from e2compile.lower.workload import Contraction
    from e2compile.pipeline import TrainingGraph
    from e2compile.targets.base import TuningProgress
    from e2compile.targets.llvm.choices import Choices
    from e2compile.targets.llvm.kernels import LlvmKernels

_TABLE = "tuning.json"


@dataclass(frozen=True)
class LlvmTarget:
    """A CPU, by default the one that this process runs on. `choices` are of kernels, see `tuned`."""

    name: str = "cpu"
    machine: Machine = field(default_factory=host)
    choices: "Choices" = ()
    scales: ClassVar[bool] = True

    @property
    def kernels(self) -> "LlvmKernels":
        from e2compile.targets.llvm.kernels import LlvmKernels

        return LlvmKernels(self.machine, self.choices)

    @property
    def prices(self) -> Path:
        return self.prices_on(self.host)

    def prices_on(self, host: Host) -> Path:
        table = "raspberry_pi4" if host.architecture == "aarch64" else "server"
        return Path(__file__).parent / "prices" / f"{table}.toml"

    def configured(self, configuration: str) -> "LlvmTarget":
        raise UsageError(f"target {self.name} has no configurations: leave out :{configuration}")

    @property
    def host(self) -> Host:
        return self.machine.host

    def hosted(self, host: str) -> "LlvmTarget":
        return replace(self, machine=named(host))

    def stand_in(self) -> "LlvmTarget":
        return self if self.host.lacking() is None else replace(self, machine=self.machine.emulated())

    def missing(self) -> str | None:
        if self.linker is not None:
            return None
        if self.machine.is_native:
            return "a C compiler to link with (cc, gcc or clang): apt-get install gcc"
        triple = self.machine.triple
        return f"{triple}-gcc to link for {triple}: apt-get install gcc-{triple.replace('_', '-')}"

    @property
    def linker(self) -> str | None:
        """The compiler that links for the machine; None where there is none."""
        tools = ("cc", "gcc", "clang") if self.machine.is_native else (f"{self.machine.triple}-gcc",)
        return next((path for path in map(shutil.which, tools) if path), None)

    def prepare(self, graph: "TrainingGraph") -> "TrainingGraph":
        return graph

    def tuned(
        self,
        calls: "Mapping[Contraction, int]",
        seconds: float,
        path: Path | None,
        watch: "Callable[[TuningProgress], None]",
    ) -> "LlvmTarget":
        from e2compile.targets.llvm.tuning import Tuning

        table = None if path is None else path / _TABLE
        return replace(self, choices=Tuning(self.machine, seconds, table, watch).choices(calls))

    def untunable(self) -> str | None:
        return f"kernels for {self.host} are not measured on this machine" if self.machine.triple else None

    def array(self, step: "StepGraph") -> None:  # noqa: ARG002 - the protocol's
        return None

    def accelerated(self, folder: Path) -> None:  # noqa: ARG002 - likewise
        return None

    def build(self, module: "IRModule", path: Path) -> None:
        """Compile and link `module` to a shared library. Raises MissingError without a linker."""
        from e2compile.targets.llvm.build import executable

        missing = self.missing()
        if missing is not None:
            raise MissingError(f"target {self.name} needs {missing}")
        executable(module, self.machine).export_library(str(path), cc=self.linker)


CPU = LlvmTarget()

__all__ = ["CPU", "LlvmTarget"]
