"""The FPGA as a target: integer products on the array, everything else on its host's CPU."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from e2compile.targets.llvm.target import CPU, LlvmTarget
from e2compile.targets.vta.config import Config, named, read

if TYPE_CHECKING:
    from tvm import IRModule

    from e2compile.energy.cashier import Array
    from e2compile.graph import StepGraph
    from e2compile.pipeline import TrainingGraph
    from e2compile.targets.vta.kernels import VtaKernels


@dataclass(frozen=True)
class VtaTarget:
    """A VTA of one configuration, with a host. Its library holds a simulator of the array, too."""

    config: Config = field(default_factory=lambda: named("pynq"))
    host: LlvmTarget = CPU
    name: str = "fpga"

    @property
    def kernels(self) -> "VtaKernels":
        from e2compile.targets.vta.kernels import VtaKernels

        return VtaKernels(self.host.machine)

    @property
    def prices(self) -> Path:
        return Path(__file__).parent / "prices" / f"{self.config.target}.toml"

    def configured(self, configuration: str) -> "VtaTarget":
        """With a shipped configuration, or one from a JSON file with the published keys."""
        is_file = configuration.endswith(".json")
        return replace(self, config=read(Path(configuration)) if is_file else named(configuration))

    def missing(self) -> str | None:
        return self.host.missing()

    def prepare(self, graph: "TrainingGraph") -> "TrainingGraph":
        """What no pass before has put into integers is quantised."""
        from e2compile.passes import Quantise

        if any(isinstance(item, Quantise) for item in graph.passes):
            return graph
        return graph.apply(Quantise())

    def array(self, step: "StepGraph") -> "Array":
        from e2compile.targets.vta import foresee, report

        return report.array(foresee.foresee(step, self.config))

    def build(self, module: "IRModule", path: Path) -> None:
        """Compile `module` to a library; streams and a report beside it. MissingError without a linker."""
        from tvm import IRModule

        from e2compile.targets.vta import census, report, table
        from e2compile.targets.vta.interpreter import interpreter
        from e2compile.targets.vta.partition import partition
        from e2compile.targets.vta.simulator import INTERPRETER

        folder = path.parent.parent
        offloaded, found = partition(module, self.config)
        simulator = interpreter(self.config).with_attr("global_symbol", INTERPRETER)
        offloaded.update(IRModule({INTERPRETER: simulator}))
        self.host.build(offloaded, path)
        table.write(found, folder)
        left = census.left(module, found)
        report.write(report.report(found, census.calls(module), left), folder)


FPGA = VtaTarget()
