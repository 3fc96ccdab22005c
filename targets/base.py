"""What a target is: kernels for what a graph computes, a build, and what this machine lacks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # to name a target, or to look for what it lacks, takes neither torch nor TVM
    from tvm import IRModule
    from tvm.tirx import PrimFunc

    from e2compile.energy.cashier import Array
    from e2compile.graph import StepGraph
    from e2compile.lower.loop import Loop
    from e2compile.lower.workload import Contraction, Convolution, Pool
    from e2compile.pipeline import TrainingGraph
    from e2compile.runtime.host import Host

# The model's lines of each kernel.
Lines = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sheet:
    """A table of a report, as text: rows of a cell a column. Columns of numbers have a total."""

    title: str
    columns: tuple[str, ...]
    totals: dict[str, str]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Accelerated:
    """What a Program says of the accelerator that it calls.

    `array` is what a step takes of it, `left` says in a line what of a step's work for it the host does, None
    where that is nothing; `figures` are all that the Program's folder has, as JSON holds them. `shown` is
    what `report` prints of them, lines and tables; `listing` the code of the kernel of that name, which
    raises UsageError, with the names there are, for another.
    """

    array: Array
    left: str | None
    figures: dict[str, Any]
    shown: Callable[[Lines], Iterable[str | Sheet]]
    listing: Callable[[str, Lines], str]


class Kernels(Protocol):
    """Scheduled kernels. Arguments are inputs then outputs; activations are NHWC, weights HWIO.

    A gated kernel takes two arguments more after its other inputs, index int32 [samples] and count int32 [1].
    It works on the samples index[0..count) alone, reads and writes no others, and does nothing at all where
    count is 0; a weight gradient sums over them.

    The integer kernels take int8, or uint8 for an x that is not `signed`, and give int32.
    """

    def loop(self, loop: Loop) -> PrimFunc: ...

    def convolution(self, conv: Convolution, bias: bool, gated: bool = False) -> PrimFunc: ...

    def input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc: ...

    def weight_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc: ...

    def integer_convolution(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc: ...

    def integer_input_gradient(self, conv: Convolution, gated: bool = False) -> PrimFunc: ...

    def integer_weight_gradient(self, conv: Convolution, signed: bool, gated: bool = False) -> PrimFunc: ...

    def scaled_convolution(
        self, conv: Convolution, signed: bool, dtype: str, gated: bool = False
    ) -> PrimFunc:
        """(x, weight, step, y) of e2.scaled_convolution; `dtype` is y's, as in those that follow:
        float32, or uint16 for the bits of bfloat16."""

    def scaled_input_gradient(self, conv: Convolution, dtype: str, gated: bool = False) -> PrimFunc:
        """(dy, weight, step, dx) of e2.scaled_input_gradient."""

    def planes_input_gradient(self, conv: Convolution, dtype: str, gated: bool = False) -> PrimFunc:
        """(high, low, weight, step, dx) of e2.planes_input_gradient."""

    def pool(self, pool: Pool, gated: bool = False) -> PrimFunc: ...

    def pool_gradient(self, pool: Pool, gated: bool = False) -> PrimFunc: ...


@dataclass(frozen=True)
class TuningProgress:
    """How far tuning is: contractions done, how many of them it made faster, seconds of those it may take."""

    done: int
    total: int
    faster: int
    seconds: float
    most_seconds: float


class Target(Protocol):
    """A place to run a program. A target holds no state; two equal targets build the same code."""

    @property
    def name(self) -> str: ...

    @property
    def kernels(self) -> Kernels: ...

    @property
    def scales(self) -> bool:
        """Whether integer contractions scale their sums themselves: kernels named scaled_* and planes_*."""

    @property
    def prices(self) -> Path:
        """The price table of what the program runs on, by default; others lie beside it."""

    def prices_on(self, host: Host) -> Path:
        """The same for a program whose library was compiled for `host`."""

    @property
    def host(self) -> Host:
        """The machine that a program's library runs on."""

    def hosted(self, host: str) -> Target:
        """The target for another such machine, TRIPLE or TRIPLE:CPU.

        Raises UsageError for one that is not known.
        """

    def stand_in(self) -> Target:
        """A target that builds for this machine what is as like as can be, to compare with PyTorch: itself,
        where this machine runs what it builds."""

    def configured(self, configuration: str) -> Target:
        """The target in another configuration. Raises UsageError where there is none of that name."""

    def missing(self) -> str | None:
        """What this machine lacks to build for the target; None if nothing."""

    def prepare(self, graph: TrainingGraph) -> TrainingGraph:
        """The graph with what the target needs done to it and no pass has done yet."""

    def tuned(
        self,
        calls: Mapping[Contraction, int],
        seconds: float,
        path: Path | None,
        watch: Callable[[TuningProgress], None],
    ) -> Target:
        """The target with the kernels for contractions, each called so often in a step, that are measured to
        be the fastest, in about so many seconds. `path` is a folder for what is measured, to be taken again.

        Raises UsageError where `untunable` says why, or for a file in `path` that is damaged.
        """

    def untunable(self) -> str | None:
        """Why nothing can be measured for the target; None if it can be."""

    def array(self, step: StepGraph) -> Array | None:
        """What a step will take of the target's accelerator, without building it; None without one."""

    def accelerated(self, folder: Path) -> Accelerated | None:
        """What a Program that was built for the target says of its accelerator; None without one.

        Raises UsageError for a folder that is no Program of this version.
        """

    def build(self, module: IRModule, path: Path) -> None:
        """Compile `module` to a library at `path`, what it needs to run beside it.

        Its attribute e2compile.lower.module.LINES has the model's lines of each kernel. Raises MissingError
        where a tool is missing, CompileError for a layer that the target cannot run.
        """
