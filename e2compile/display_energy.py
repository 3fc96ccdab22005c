"""How energy looks on the command line: fits with their errors, bills with their prices."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from e2compile import display
from e2compile.display import joules
from e2compile.energy.log import IDLE

if TYPE_CHECKING:
    from e2compile.bill import Bill
    from e2compile.budget import Way
    from e2compile.call_bill import PricedCall
    from e2compile.compare import Comparison
    from e2compile.energy.calibrate import Calibration
    from e2compile.energy.cashier import Share, Side
    from e2compile.energy.fit import Errors, Fit
    from e2compile.energy.prices import Figure
    from e2compile.estimate import Estimate, Range
    from e2compile.measure import Part
    from e2compile.runtime.fit import Event, Run
    from e2compile.runtime.program import Program

_WIDTH = 140  # at least: a line that a terminal breaks can still be read, one that is cut cannot
_LAYERS = 12
_CALLS = 20


def calibrated(found: "Calibration") -> None:
    """A fit: coefficients with their bounds, and errors."""
    table, fits = found.table, [("joules", found.joules, found.table.prices)]
    if found.seconds is not None:
        fits.append(("seconds", found.seconds, table.seconds))
    for what, how, figures in fits:
        display.out.print(f"{table.name}: {what}", markup=False, style="bold")
        _fitted(how, figures)


def _fitted(how: "Fit", figures: "Mapping[str, Figure]") -> None:
    rows = [
        (
            f"  {q}",
            f"{f.value:.4g} {f.unit}, 95 % within {f.low:.3g} to {f.high:.3g}{f.note and '; ' + f.note}",
        )
        for q, f in figures.items()
    ]
    rows.append(("  condition number", f"{how.condition:.3g}"))
    rows.append((f"  error of {how.rows} rows fitted", _errors(how.residual)))
    if how.held_out is not None:
        rows.append((f"  error of {', '.join(how.held_groups)}, held out", _errors(how.held_out)))
    left_out = sorted((error.median, group) for group, error in how.left_out.items())
    rows.append(("  median error of each group by a fit to the others", _left_out(left_out)))
    display.table(rows)


def _left_out(found: Iterable[tuple[float, str]]) -> str:
    return ", ".join(f"{group} {error:.1%}" for error, group in found) or "there is one group alone"


def _errors(found: "Errors") -> str:
    return f"median {found.median:.1%}, 90th percentile {found.p90:.1%}, of the sum {found.total:.1%}"


def billed(found: "Bill") -> None:
    """A step's joules, by stage, phase, layer and quantity; every price with its tag and source."""
    before, after = found.before, found.after
    display.table(
        [
            ("prices", f"{found.table}: {found.about}"),
            ("counts", "planned: bytes as kernels are fused, operations of the graph; seconds modelled"),
            *(("accelerator", source) for source in (found.device,) if source),
            ("a step before", _side(before)),
            ("a step after", f"{_side(after)}, {_ratio(after.joules, before.joules)}"),
            ("its prices", _known(after)),
            ("an evaluated batch", joules(found.evaluation)),
            *_run(found),
        ]
    )
    _section("by stage", ((name, joules(value)) for name, value in found.stages))
    _section("by phase", _compared(before.phases, after.phases, len(before.phases) + len(after.phases)))
    _section("by layer, the dearest", _compared(before.layers, after.layers, _LAYERS))
    sources = list(dict.fromkeys(f"{line.figure.source} ({line.figure.date})" for line in after.lines))
    _section("after, by quantity: modelled amounts times prices", _priced(after, sources))
    _section("sources of prices", ((f"[{i}]", source) for i, source in enumerate(sources, 1)))
    _section("shares", _shares(found.shares))


def stage(name: str, calls: "Sequence[PricedCall]") -> None:
    """A stage's joules by layer, and its dearest calls."""
    whole = sum(call.joules for call in calls)
    display.table([(f"stage {name}", f"{joules(whole)} a scheduled step, modelled")])
    layers: dict[str, float] = {}
    for call in calls:
        layer = call.module or "the step"
        layers[layer] = layers.get(layer, 0.0) + call.joules
    dearest = sorted(layers.items(), key=lambda pair: -pair[1])
    rows = ((layer, f"{joules(value):>9} {value / whole:6.1%}") for layer, value in dearest)
    _section("by layer", rows)
    _section("the dearest calls", map(_call, sorted(calls, key=lambda call: -call.joules)[:_CALLS]))


def _call(call: "PricedCall") -> tuple[str, str]:
    region = f"  in {call.branch}" if call.branch else ""
    what = f"{call.operator} {call.type}  # {call.phase} {call.where}"
    return call.name, f"{joules(call.joules):>9}  {what}{region}"


def estimated(found: "Estimate") -> None:
    """What training will cost: a step, an epoch and the schedule, and what each pass saves."""
    before, after = found.before, found.after
    display.table(
        [
            ("prices", f"{found.table}: {found.about}"),
            ("counts", "as a build counts them; nothing was built. Seconds modelled"),
            *(("accelerator", source) for source in (found.device,) if source),
            ("a step before", _side(before)),
            ("a step after", f"{_side(after)}, {_ratio(after.joules, before.joules)}"),
            ("its prices", _known(after)),
        ]
    )
    grid = _grid("", "before", "after: best", "expected", "worst", "expected of before")
    plain, costs = found.costs
    _range(grid, "an executed step", plain.executed, costs.executed)
    if costs.dropped is not None:
        grid.add_row("a dropped step", "", "", joules(costs.dropped), "", "")
    _range(grid, "a scheduled step", plain.scheduled, costs.scheduled)
    _range(grid, "an evaluated batch", plain.evaluated, costs.evaluated)
    if found.totals is not None and found.length is not None:
        length, (whole, left) = found.length, found.totals
        _range(grid, f"an epoch: {length.steps:,} steps, its evaluation", whole.epoch, left.epoch)
        average = f", with the average of {length.averaged_epochs:,}" if length.averaged_epochs else ""
        _range(grid, f"all {length.epochs:,} epochs and the test{average}", whole.schedule, left.schedule)
    _show(grid, "joules, modelled; best and worst: no or every gated block and fallback runs")
    if found.unknown:
        display.say(f"an epoch is not known: {found.unknown}; --images N says how many images it has")
    ladder = _grid("pass", "joules", "seconds", "saves", "of before", "left of before")
    for rung in found.passes:
        seconds = f"{rung.seconds:.3g}" if rung.seconds else "no price"
        saved, left_of = rung.saved / before.joules, rung.joules / before.joules
        ladder.add_row(
            rung.name, joules(rung.joules), seconds, joules(rung.saved), f"{saved:.1%}", f"{left_of:.1%}"
        )
    if found.passes:
        _show(ladder, "a scheduled step with one pass after the other, expected")
    _section("shares", _shares(found.shares))


def ways(found: "Sequence[Way]", budget: float) -> None:
    """The ways to keep to a budget, and how to read them."""
    grid = _grid("settings", "energy", "steps", "work of a step", "products in")
    for way in found:
        grid.add_row(way.settings, f"{way.share:.1%}", f"{way.steps:.0%}", f"{way.work:.1%}", way.arithmetic)
    _show(grid, f"ways to spend {budget:.0%} of the plain step's joules, modelled")
    display.say("steps: scheduled ones that are executed. work of a step: of the plain step's")
    display.say(
        "multiply-accumulates, in whatever width. No way is worse than another in all columns; which one"
    )
    display.say(
        "learns best, no cost model knows: train them (e2compile compare), and fewer epochs beside them."
    )


def running(variant: str, program: "Program", run: "Run") -> "Callable[[Event], None]":
    """Lines for the runs of a comparison: one an epoch."""
    display.say(f"{variant}, seed {program.seed}: {len(run.train):,} training images, {run.total:,} steps")

    def watch(event: "Event") -> None:
        if event.position % run.loader.steps_per_epoch == 0 or event.position == event.total:
            scored = "" if event.accuracy is None else f"  validation accuracy {event.accuracy:.2%}"
            display.say(f"  step {event.position:,} of {event.total:,}{scored}  {event.seconds:.0f} s")

    return watch


def compared(found: "Comparison") -> None:
    """The variants beside each other."""
    grid = _grid(
        "", "test accuracy", "each seed", "test loss", "joules", "of plain", "seconds", "steps executed"
    )
    plain = found.rows[0]
    for row in found.rows:
        each = " ".join("none" if a is None else f"{a:.2%}" for a in row.accuracies)
        grid.add_row(
            row.variant,
            "none" if row.accuracy is None else f"{row.accuracy:.2%}",
            each,
            f"{row.test_loss:.4f}",
            joules(row.joules),
            f"{row.joules / plain.joules:.1%}",
            f"{row.seconds:.1f}",
            f"{row.steps:,.0f}",
        )
    _show(grid, f"{', '.join(found.passes)} on {found.target}, {found.epochs} epochs: means over seeds")
    display.say(
        f"joules: executed work, modelled ({found.table}); seconds: measured here, with data and evaluation"
    )


def _shares(found: "Mapping[str, Share]") -> Iterator[tuple[str, str]]:
    """Conditions of one share in one line."""
    names: dict[Share, list[str]] = {}
    for name, share in found.items():
        names.setdefault(share, []).append(name)
    for share, alike in names.items():
        label = alike[0] if len(alike) == 1 else f"{alike[0]} and {len(alike) - 1} more"
        yield label, f"{share.value:.1%}, {share.tag}: {share.source}"


def _range(grid: Table, name: str, before: "Range", after: "Range") -> None:
    values = (before.expected, after.best, after.expected, after.worst)
    grid.add_row(name, *map(joules, values), f"{after.expected / before.expected:.1%}")


def _grid(first: str, *columns: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, title_justify="left")
    grid.add_column(first, overflow="fold")
    for column in columns:
        grid.add_column(column, justify="right", no_wrap=True)
    return grid


def _show(grid: Table, title: str) -> None:
    grid.title = title
    Console(file=display.out.file, width=max(display.out.width, _WIDTH), highlight=False).print(
        grid, markup=False
    )


def _side(side: "Side") -> str:
    device = f", {side.device_seconds:.3g} s of them on the array" if side.device_seconds else ""
    seconds = f" in {side.seconds:.3g} s{device}" if side.seconds else ""
    return f"{joules(side.joules)}{seconds}, {side.tag}"


def _ratio(after: float, before: float) -> str:
    return f"{after / before:.1%} of that before"


def _run(found: "Bill") -> Iterator[tuple[str, str]]:
    run = found.run
    if run is None:
        return
    whole = f"{joules(found.after.joules * run.scheduled)}, {found.after.tag}"
    yield f"run {run.name}", f"{whole}, for {run.scheduled:,} scheduled steps"
    yield "", f"{run.executed:,} of them executed; {run.seconds:.1f} s measured, with data and evaluation"


def _section(title: str, rows: "Iterable[tuple[str, str]]") -> None:
    pairs = [(f"  {name}", value) for name, value in rows]
    if pairs:
        display.out.print(title, markup=False, style="bold")
        display.table(pairs)


def _compared(
    before: "Mapping[str, float]", after: "Mapping[str, float]", most: int
) -> "Iterator[tuple[str, str]]":
    labels = sorted({*before, *after}, key=lambda n: -max(before.get(n, 0), after.get(n, 0)))
    for label in labels[:most]:
        yield label, f"{joules(before.get(label, 0.0)):>9} to {joules(after.get(label, 0.0)):>9}"


def _known(side: "Side") -> str:
    """How well the prices are known that make up the joules; the amounts themselves are modelled."""
    sums: dict[str, float] = {}
    for line in side.lines:
        sums[line.figure.tag] = sums.get(line.figure.tag, 0.0) + line.total
    return ", ".join(f"{tag} {value / side.joules:.1%}" for tag, value in sums.items())


def _priced(side: "Side", sources: list[str]) -> "Iterator[tuple[str, str]]":
    for line in side.lines:
        figure = line.figure
        price = f"{line.amount:.4g} x {figure.value:.4g} {figure.unit}"
        number = sources.index(f"{figure.source} ({figure.date})") + 1
        yield line.quantity, f"{joules(line.total):>9} = {price}, {figure.tag} [{number}]"


def measured(part: "Part") -> None:
    """A part as it has been measured."""
    reading = part.reading
    rate = f", read {reading.hz:.0f} times a second" if reading.hz else ""
    what = f"{part.name:<9} {part.watts:8.3f} W measured for {reading.seconds:.1f} s{rate}"
    if part.name != IDLE:
        each = (reading.joules / part.calls, part.joules_above_idle / part.calls)
        what += f"; {part.calls} calls of {joules(each[0])}, {joules(each[1])} above idle"
    display.say(what)
