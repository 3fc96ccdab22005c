"""What training will cost before anything is built: joules and seconds, from the graphs alone.

Work is counted as a build counts it, and an accelerator's seconds are those of the streams that it would
run: an estimate is what `bill` says of the built program.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from e2compile.counting import shares_of
from e2compile.energy import prices
from e2compile.energy.cashier import Cashier, Share, Side
from e2compile.energy.count import count, count_evaluation, count_stages, total
from e2compile.energy.prices import Table
from e2compile.energy.work import STEP, Work
from e2compile.errors import UsageError
from e2compile.graph import StepGraph, verify
from e2compile.guards.outline import has_guards, outline
from e2compile.pipeline import Level, TrainingGraph, settings_text
from e2compile.runtime.datasets import load
from e2compile.runtime.fit import Options
from e2compile.targets import Target
from e2compile.task import Task


@dataclass(frozen=True)
class Range:
    """Joules with every gated block and fallback closed, as expected, and all of them open."""

    best: float
    expected: float
    worst: float

    def __mul__(self, times: float) -> "Range":
        return Range(*(times * joules for joules in vars(self).values()))

    def __add__(self, other: "Range") -> "Range":
        return Range(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Costs:
    """Joules of a step that is executed, of one that is dropped (None where none is), of one that is
    scheduled, and of one batch's evaluation."""

    executed: Range
    dropped: float | None
    scheduled: Range
    evaluated: Range


@dataclass(frozen=True)
class Rung:
    """The step with one pass more: joules and seconds of a scheduled step, and joules that the pass saves."""

    name: str
    joules: float
    seconds: float
    saved: float


@dataclass(frozen=True)
class Length:
    """How long training is declared to be: steps are scheduled ones, batches those that are evaluated.

    `averaged_epochs` are those whose weights the rewritten run averages.
    """

    images: int
    steps: int
    validation_batches: int
    test_batches: int
    epochs: int
    averaged_epochs: int = 0


@dataclass(frozen=True)
class Totals:
    """Joules of an epoch with its evaluation, and of all epochs with the test.

    With averaged weights the schedule has an epoch more, for their statistics, and its test.
    """

    epoch: Range
    schedule: Range


@dataclass(frozen=True)
class Estimate:
    """`before` is the user's step, `after` the rewritten one, both as scheduled and expected.

    `totals` are those before and after; None, with the reason in `unknown`, where no length is declared.
    """

    target: str
    table: str
    about: str
    shares: dict[str, Share]
    before: Side
    after: Side
    costs: tuple[Costs, Costs]
    passes: tuple[Rung, ...]
    length: Length | None
    totals: tuple[Totals, Totals] | None
    device: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class Quote:
    """A step's work on a target, its seconds known: what it costs at any shares."""

    work: Work
    cashier: Cashier
    device: str = ""

    def joules(self, shares: dict[str, float]) -> float:
        return self.cashier.joules(self.work.at(shares))


def quote(step: StepGraph, target: Target, table: Table) -> Quote:
    """Count a step, and ask the target what its accelerator takes for it."""
    return _quote(step, count(step, planned=True, scales=target.scales), target, table)


def _quote(step: StepGraph, work: Work, target: Target, table: Table) -> Quote:
    array = target.array(step)
    if array is None:
        return Quote(work, Cashier(table))
    return Quote(work, Cashier(table, array.each(work)), array.source)


def estimate(
    graph: TrainingGraph,
    target: Target,
    table: str | None = None,
    images: int | None = None,
    swa_start: float | None = None,
) -> Estimate:
    """What a task costs on a target before its passes and after them.

    `table` names a price table, by default the target's; `images` are those of an epoch, by default those of
    the task's data without the part held out. After `swa_start`, a share of the run, the rewritten one
    averages weights.
    Raises UsageError for a table that lacks a price and for a run that has nothing to average, CompileError
    for work that is not known.
    """
    graph = target.prepare(graph)
    found = prices.find(table, target.prices)
    named = list(stages(graph))
    works = map(total, count_stages([step for _, step in named], planned=True, scales=target.scales))
    rungs = [(n, _quote(step, work, target, found)) for (n, step), work in zip(named, works, strict=True)]
    plain, last = rungs[0][1], rungs[-1][1]
    evaluations = [
        replace(quoted, work=count_evaluation(g.evaluation_step, planned=True, scales=target.scales))
        for quoted, g in ((plain, _bare(graph)), (last, graph))
    ]
    symbols = frozenset().union(*(q.work.symbols for _, q in rungs), evaluations[1].work.symbols)
    shares = shares_of(graph, symbols)
    expected = {name: share.value for name, share in shares.items()}
    sides = [q.cashier.side(q.work.at(expected)) for _, q in rungs]
    ladder = [
        Rung(name, now.joules, now.seconds, before.joules - now.joules)
        for (name, _), before, now in zip(rungs[1:], sides, sides[1:], strict=False)
    ]
    costs = (
        _costs(plain, evaluations[0], expected),
        _costs(last, evaluations[1], expected),
    )
    length, unknown = _length(graph.task, images)
    if length is not None and swa_start is not None:
        length = replace(length, averaged_epochs=_averaged(swa_start, length))
    totals = None
    if length is not None:
        totals = _totals(costs[0], replace(length, averaged_epochs=0)), _totals(costs[1], length)
    return Estimate(
        target.name,
        found.name,
        found.about,
        shares,
        sides[0],
        sides[-1],
        costs,
        tuple(ladder),
        length,
        totals,
        last.device,
        unknown,
    )


def stages(graph: TrainingGraph) -> Iterator[tuple[str, StepGraph]]:
    """The captured step, then the step after each pass in the order in which they are applied."""
    yield "captured", graph.captured
    forward, joint, last = ([item for item in graph.passes if item.level is level] for level in Level)
    for n in range(1, len(forward)):
        yield settings_text(forward[n - 1]), replace(graph, passes=tuple(forward[:n])).step
    steps = [stage.graph for stage in graph.stages if isinstance(stage.graph, StepGraph)]
    # conditionals come after the last joint pass, and the earlier steps are to be seen with theirs
    bare, whole = steps[: len(joint) + 1], steps[len(joint) + 1 :]
    before_last = [*map(outlined, bare[:-1]), whole.pop(0) if len(whole) > len(last) else bare[-1]]
    rewritten = [*before_last, *whole]
    names = [settings_text(item) for item in (*forward[-1:], *joint, *last)]
    yield from zip(names, rewritten[len(rewritten) - len(names) :], strict=True)


def differentiated(graph: TrainingGraph) -> StepGraph:
    """The step after the forward passes alone."""
    found = next(stage.graph for stage in graph.stages if stage.name == "differentiated")
    assert isinstance(found, StepGraph)
    return found


def _bare(graph: TrainingGraph) -> TrainingGraph:
    """A graph that evaluates as the user's does."""
    return replace(graph, passes=()) if graph.has_forward_passes else graph


def outlined(step: StepGraph) -> StepGraph:
    """The step with conditionals for its guards, where it has any."""
    if not has_guards(step):
        return step
    found = outline(step).graph
    verify(found)
    return found


def _costs(step: Quote, evaluation: Quote, expected: dict[str, float]) -> Costs:
    executed, evaluated = _range(step, expected | {STEP: 1.0}), _range(evaluation, expected)
    if STEP not in step.work.symbols:
        return Costs(executed, None, executed, evaluated)
    kept, dropped = expected[STEP], step.joules(expected | {STEP: 0.0})
    ask = (1 - kept) * dropped
    return Costs(executed, dropped, executed * kept + Range(ask, ask, ask), evaluated)


def _range(quoted: Quote, shares: dict[str, float]) -> Range:
    kept = {name: value for name, value in shares.items() if name == STEP}
    bounds = (dict.fromkeys(shares, bound) | kept for bound in (0.0, 1.0))
    best, worst = map(quoted.joules, bounds)
    return Range(best, quoted.joules(shares), worst)


def _totals(costs: Costs, length: Length) -> Totals:
    epoch = costs.scheduled * length.steps + costs.evaluated * length.validation_batches
    test = costs.evaluated * length.test_batches
    schedule = epoch * length.epochs + test
    if length.averaged_epochs:  # its statistics are taken from an epoch of which no step is dropped
        schedule += costs.executed * length.steps + test
    return Totals(epoch, schedule)


def _averaged(start: float, length: Length) -> int:
    """How many epochs end after a share of the run."""
    first = round(start * length.epochs * length.steps)
    count = sum(epoch * length.steps > first for epoch in range(1, length.epochs + 1))
    if not count:
        raise UsageError(f"no epoch of {length.epochs} ends after {start:.0%} of the run: nothing to average")
    return count


def _length(task: Task, images: int | None) -> tuple[Length | None, str]:
    """The task's length as a run of it will have it, or why it is not known."""
    size = task.batch[0].shape[0]
    if images is not None:
        return Length(images, images // size, 0, 0, task.epochs), ""
    try:
        train, test = _sizes(task)
    except UsageError as error:
        return None, str(error).partition("\n")[0]
    held = round(train * Options().validation)
    train -= held
    return Length(train, train // size, -(-held // size), -(-test // size), task.epochs), ""


def _sizes(task: Task) -> tuple[int, int]:
    """Samples to train, with those that are held out, and to test."""
    if task.data is None:
        raise UsageError("the model file declares no data")
    if isinstance(task.data, (str, Path)):
        found = load(str(task.data))
        return len(found.train), len(found.test)
    test = round(len(task.data) * 0.1)  # of a dataset of their own a run holds out a tenth for the test
    return len(task.data) - test, test
