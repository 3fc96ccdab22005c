"""What passes cost and save on one task: plain and rewritten training from the same weights and seeds."""

import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from e2compile.bill import Meter, Spent
from e2compile.compiler import Watch, compile
from e2compile.errors import UsageError
from e2compile.pipeline import TrainingGraph
from e2compile.runtime.fit import Event, Options, Results, Run
from e2compile.runtime.program import Program

PLAIN, REWRITTEN, SHORTENED = "plain", "rewritten", "plain, shortened"


@dataclass(frozen=True)
class Training:
    """One run: what it gave, and joules of what it executed."""

    variant: str
    seed: int
    results: Results
    energy: Spent


@dataclass(frozen=True)
class Row:
    """A variant over all seeds: means. Seconds are measured on this machine, with data and evaluation."""

    variant: str
    accuracy: float | None
    accuracies: tuple[float | None, ...]
    test_loss: float
    joules: float
    seconds: float
    steps: float


@dataclass(frozen=True)
class Comparison:
    """`target` and `table` say what joules are of; `epochs` are scheduled ones of the first two variants."""

    target: str
    table: str
    passes: tuple[str, ...]
    epochs: int
    rows: tuple[Row, ...]
    runs: tuple[Training, ...]


def compare(
    graph: TrainingGraph,
    target: str,
    output: Path,
    epochs: int | None = None,
    seeds: Sequence[int] = (0,),
    shortened: bool = True,
    verify: bool = True,
    watch: Watch | None = None,
    progress: Callable[[str, Program, Run], Callable[[Event], None]] | None = None,
) -> Comparison:
    """Train a task plain and with its passes, and plain again for no more joules than the passes took.

    That shortened run passes through the whole schedule of learning rates in fewer steps. Programs go to
    `output/plain` and `output/rewritten`. `progress` is told of each run and gives what watches its steps.
    Raises what `compile` and a run raise, and UsageError for a graph without passes.
    """
    if not graph.passes:
        raise UsageError("there is nothing to compare: choose passes")
    graphs = {PLAIN: replace(graph, passes=()), REWRITTEN: graph}
    found: list[Training] = []

    def train(variant: str, program: Program, options: Options) -> Training:
        meter = Meter(program.folder)
        run = Run(program, graph.task.data, options, lambda executed: asdict(meter.spent(executed)))
        results = run.go(None if progress is None else progress(variant, program, run))
        found.append(Training(variant, program.seed, results, meter.spent(run.executed(tested=True))))
        return found[-1]

    length = epochs or graph.task.epochs
    for seed in seeds:
        options = Options(epochs=length, run=f"seed{seed}")
        programs = {
            name: compile(each, target, output / name, seed, verify, watch=watch)
            for name, each in graphs.items()
        }
        plain, rewritten = (train(name, program, options) for name, program in programs.items())
        if shortened and rewritten.energy.training < plain.energy.training:
            share = rewritten.energy.training / plain.energy.training
            steps = max(1, int(share * plain.results.steps_scheduled))
            program = Program(output / PLAIN)
            compress(program, steps, plain.results.steps_scheduled)
            train(SHORTENED, program, Options(steps=steps, run=f"shortened{seed}"))
        for program in programs.values():
            program.close()
    names = list(dict.fromkeys(each.variant for each in found))
    rows = tuple(_row(name, [each for each in found if each.variant == name]) for name in names)
    passes = programs[REWRITTEN].manifest.passes
    return Comparison(target, found[0].energy.table, passes, length, rows, tuple(found))


def compress(program: Program, steps: int, whole: int) -> None:
    """Let a program take all its learning rates in so many of the whole run's steps."""
    rates = program.rates
    count = math.ceil(len(rates) * steps / whole)
    program.rates = rates[[min(int(i * whole / steps), len(rates) - 1) for i in range(count)]]


def _row(variant: str, found: Sequence[Training]) -> Row:
    accuracies = tuple(each.results.accuracy for each in found)
    known = [value for value in accuracies if value is not None]
    return Row(
        variant,
        statistics.mean(known) if known else None,
        accuracies,
        statistics.mean(each.results.test_loss for each in found),
        statistics.mean(each.energy.joules for each in found),
        statistics.mean(each.results.seconds for each in found),
        statistics.mean(each.results.steps_executed for each in found),
    )


def plot(found: Comparison, path: Path) -> bool:
    """Draw validation accuracy against joules so far, a line a run. False without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    names = [row.variant for row in found.rows]
    for each in found.runs:
        scheduled, history = each.results.steps_scheduled, each.results.history
        spent = [each.energy.training * row["step"] / scheduled for row in history]
        accuracy = [row["accuracy"] for row in history]
        colour = f"C{names.index(each.variant)}"
        label = each.variant if each.seed == found.runs[0].seed else None
        axes.plot(spent, accuracy, color=colour, label=label, marker=".")
    axes.set_xlabel(f"joules of training so far, modelled ({found.table})")
    axes.set_ylabel("validation accuracy")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    return True
