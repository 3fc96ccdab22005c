"""The FPGA as a target: integer products on the array, everything else on its host's CPU."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from e2compile.errors import UsageError
from e2compile.runtime import manifest as manifests
from e2compile.runtime.host import Host
from e2compile.targets.base import Accelerated, Lines
from e2compile.targets.llvm.target import CPU, LlvmTarget
from e2compile.targets.vta.analysis.check import LARGEST_TRANSFER
from e2compile.targets.vta.host.choice import PRICES
from e2compile.targets.vta.isa.config import Config, named, read

if TYPE_CHECKING:
    from tvm import IRModule

    from e2compile.energy.cashier import Array
    from e2compile.graph import StepGraph
    from e2compile.lower.workload import Contraction
    from e2compile.pipeline import TrainingGraph
    from e2compile.targets.base import TuningProgress
    from e2compile.targets.vta.host.kernels import VtaKernels


@dataclass(frozen=True)
class VtaTarget:
    """A VTA of one configuration, with a host. Its library holds a simulator of the array, too."""

    config: Config = field(default_factory=lambda: named("pynq"))
    cpu: LlvmTarget = CPU
    largest_transfer: int = LARGEST_TRANSFER  # bytes of a stream's instructions, and of its micro-ops
    name: str = "fpga"
    scales: ClassVar[bool] = False

    @property
    def kernels(self) -> "VtaKernels":
        from e2compile.targets.vta.host.kernels import VtaKernels

        return VtaKernels(self.cpu.machine)

    @property
    def prices(self) -> Path:
        return PRICES / f"{self.config.target}.toml"

    def prices_on(self, host: Host) -> Path:  # noqa: ARG002 - a board's table has its host in it
        return self.prices

    def configured(self, configuration: str) -> "VtaTarget":
        """With a shipped configuration, or one from a JSON file with the published keys."""
        is_file = configuration.endswith(".json")
        return replace(self, config=read(Path(configuration)) if is_file else named(configuration))

    @property
    def host(self) -> Host:
        return self.cpu.host

    def hosted(self, host: str) -> "VtaTarget":
        return replace(self, cpu=self.cpu.hosted(host))

    def stand_in(self) -> "VtaTarget":
        return replace(self, cpu=self.cpu.stand_in())

    def missing(self) -> str | None:
        return self.cpu.missing()

    def prepare(self, graph: "TrainingGraph") -> "TrainingGraph":
        """What no pass before has put into integers is quantised."""
        from e2compile.passes import Quantise

        if any(isinstance(item, Quantise) for item in graph.passes):
            return graph
        return graph.apply(Quantise())

    def tuned(
        self,
        calls: "Mapping[Contraction, int]",  # noqa: ARG002 - the protocol's
        seconds: float,  # noqa: ARG002
        path: Path | None,  # noqa: ARG002
        watch: "Callable[[TuningProgress], None]",  # noqa: ARG002
    ) -> "VtaTarget":
        raise UsageError(self.untunable())

    def untunable(self) -> str:
        return "the array's schedules are chosen by its cycle model, its host's kernels by estimates"

    def array(self, step: "StepGraph") -> "Array":
        from e2compile.targets.vta.report import foresee, layers

        return layers.array(foresee.foresee(step, self.config, self.largest_transfer))

    def accelerated(self, folder: Path) -> Accelerated:
        from e2compile.targets.vta.report import layers, sheets
        from e2compile.targets.vta.report.left import left

        manifests.check(manifests.read(folder), folder, [layers.REPORT])
        made = layers.read(folder)
        shown, streams = partial(sheets.shown, made), partial(_listing, folder)
        return Accelerated(layers.array(made), left(made), asdict(made), shown, streams)

    def build(self, module: "IRModule", path: Path) -> None:
        """Compile `module` to a library; streams and a report beside it. MissingError without a linker."""
        from tvm import IRModule

        from e2compile.targets.vta.host.partition import partition
        from e2compile.targets.vta.program import table
        from e2compile.targets.vta.report import census, layers
        from e2compile.targets.vta.simulator.interpreter import interpreter
        from e2compile.targets.vta.simulator.simulator import INTERPRETER

        folder = path.parent.parent
        parts = partition(module, self.config, self.largest_transfer)
        simulator = interpreter(self.config).with_attr("global_symbol", INTERPRETER)
        parts.module.update(IRModule({INTERPRETER: simulator}))
        self.cpu.build(parts.module, path)
        table.write(parts.table, folder)
        left = census.left(module, parts.left)
        layers.write(layers.report(parts.table, census.calls(module), left), folder)


def _listing(folder: Path, kernel: str, lines: Lines) -> str:
    from e2compile.targets.vta.program import table
    from e2compile.targets.vta.report.listing import listing

    manifests.check(manifests.read(folder), folder, [table.TABLE, table.STREAMS])
    return listing(table.read(folder), kernel, lines)


FPGA = VtaTarget()
