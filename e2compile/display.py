"""How the command line looks: tables, progress, graphs; plain lines where nobody watches a terminal."""

import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

if TYPE_CHECKING:
    from e2compile.bill import Spent
    from e2compile.doctor import Finding
    from e2compile.options import Description
    from e2compile.presets import Preset
    from e2compile.runtime.fit import Event, Results
    from e2compile.runtime.program import Evaluation, Program
    from e2compile.runtime.stages import SavedStage
    from e2compile.runtime.summary import Summary
    from e2compile.targets import TuningProgress

# A run prints this many lines where there is no terminal, and more where it is slow.
_LINES = 20
_QUIET_SECONDS = 60.0
_RECENT = 50
# The text beside a terminal's bar is made anew after so long.
_BAR_SECONDS = 0.5
_BAR_WIDTH = 40
_PREFIXES = ((1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))

THEME = Theme({"ir.name": "cyan", "ir.type": "green", "ir.line": "dim", "ir.op": "bold"})

out = Console(theme=THEME, highlight=False)
err = Console(theme=THEME, highlight=False, stderr=True)


class _Graph(RegexHighlighter):
    base_style = "ir."
    highlights = (
        r"(?P<name>%\w+)",
        r": (?P<type>[a-z]+\d*\[[\d, ]*\])",
        r" = (?P<op>[\w.]+)\(",
        r"(?P<line>  # .*)$",
    )


def say(text: str) -> None:
    """A plain line, never wrapped, with nothing in it taken for markup."""
    out.print(text, markup=False, soft_wrap=True)


def complain(error: BaseException) -> None:
    """An error's message and notes on stderr."""
    notes = getattr(error, "__notes__", [])
    message = "\n".join([str(error), *notes])
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def table(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        out.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", value), soft_wrap=True)


@contextmanager
def working(what: str) -> Iterator[Status]:
    """Shows on a terminal that work goes on."""
    with out.status(Text(what)) as status:
        yield status


class Phases:
    """Prints each phase of a compilation when it is done, and on a terminal that work goes on."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def __call__(self, name: str, seconds: float) -> None:
        out.print(f"  {name:<24}{seconds:7.2f} s", markup=False)

    def mark(self, name: str) -> None:
        """A phase that ends now and began with the first or the last mark."""
        now = time.perf_counter()
        self(name, now - self.began)
        self.began = now


class Tuning:
    """A bar on a terminal, beside what shows that work goes on; lines elsewhere."""

    def __init__(self, status: Status) -> None:
        self.status, self.what = status, status.status

    def __call__(self, progress: "TuningProgress") -> None:
        share = max(progress.done / max(progress.total, 1), progress.seconds / progress.most_seconds)
        text = (
            f"{progress.done} of {progress.total} contractions, {progress.faster} faster, "
            f"{progress.seconds:.0f} of {progress.most_seconds:.0f} s"
        )
        if out.is_terminal:
            line = Table.grid(padding=(0, 1))
            line.add_row("tuning", ProgressBar(1, share, _BAR_WIDTH), text)
            self.status.update(line if share < 1 else self.what)
        else:
            say(f"  tuning: {text}")


def compiled(program: "Program", summary: "Summary", left: str | None, command: str) -> None:
    """What was made, what of it an accelerator leaves to its host, and what to type next."""
    calls = ", ".join(f"{name} {count}" for name, count in summary.calls.items())
    rows = [
        ("operators", f"{summary.operators:,} in the step before passes"),
        ("kernels", f"{summary.kernels} distinct; calls: {calls}"),
        ("passes", ", ".join(program.manifest.passes) or "none"),
        ("state", size(summary.state)),
        ("planned memory", f"{size(summary.planned)} beside the state"),
        ("verification", _verification(summary)),
        *(("not gated", note) for note in summary.dense),
        *([("on the host", left)] if left else []),
        ("program", str(program.folder)),
        ("next", command),
    ]
    table(rows)


def _verification(summary: "Summary") -> str:
    if summary.passed is None:
        return "not done (--no-verify)"
    closest = ""
    if summary.worst is not None:
        worst = summary.worst
        where = f"{worst.name} {worst.target}"
        closest = f"; closest to its bound: {worst.error:.2g} of {worst.bound:.2g} ({where})"
    return f"passed, by {summary.ran}{closest}"


def joules(value: float) -> str:
    """Joules in words."""
    scale, prefix = next((p for p in _PREFIXES if abs(value) >= p[0]), _PREFIXES[-1])
    return f"{value / scale:.3g} {prefix}J"


def size(count: int) -> str:
    """Bytes in words."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


class Training:
    """A bar on a terminal, lines elsewhere. `spent` prices the run so far, asked only where that is shown."""

    def __init__(self, batch_size: int, spent: "Callable[[], Spent]") -> None:
        self.batch_size, self.spent = batch_size, spent
        self.shown_text, self.shown_at = "", -_BAR_SECONDS
        self.losses: deque[float] = deque(maxlen=_RECENT)
        self.first: Event | None = None
        self.last: Event | None = None
        self.printed = 0.0
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=out,
        )

    @contextmanager
    def shown(self) -> Iterator["Training"]:
        if not out.is_terminal:
            yield self
            return
        with self.bar:
            self.task = self.bar.add_task("training", text="", total=None)
            yield self

    def __call__(self, event: "Event") -> None:
        self.first, self.last = self.first or event, event
        if event.result.loss is not None:
            self.losses.append(event.result.loss)
        if out.is_terminal:
            if event.seconds - self.shown_at > _BAR_SECONDS or event.position == event.total:
                self.shown_text, self.shown_at = self._text(event), event.seconds
            self.bar.update(self.task, completed=event.position, total=event.total, text=self.shown_text)
        elif self._is_due(event):
            self.printed = event.seconds
            say(f"  step {event.position:,} of {event.total:,}  {self._text(event)}  {self._left(event)}")

    def _is_due(self, event: "Event") -> bool:
        is_milestone = event.position * _LINES // event.total != (event.position - 1) * _LINES // event.total
        return is_milestone or event.seconds - self.printed > _QUIET_SECONDS

    def _text(self, event: "Event") -> str:
        parts = [f"loss {sum(self.losses) / len(self.losses):.4f}"] if self.losses else []
        if event.accuracy is not None:
            parts.append(f"validation accuracy {event.accuracy:.2%}")
        rate = event.executed * self.batch_size / max(event.seconds, 1e-9)
        share, spent = event.executed / event.position, self.spent()
        energy = f"{joules(spent.joules)} {spent.tag} ({spent.table})"
        return "  ".join([*parts, f"{rate:,.0f} images/s", f"executed {share:.0%}", energy])

    def _left(self, event: "Event") -> str:
        """Time left at this process's pace, whatever was done before a resume."""
        assert self.first is not None
        done = event.position - self.first.position
        if not done:
            return ""
        seconds = (event.seconds - self.first.seconds) / done * (event.total - event.position)
        return f"{seconds:,.0f} s left"


def trained(results: "Results", program: "Program", run: str) -> None:
    """What a run gave."""
    share = results.steps_executed / max(results.steps_scheduled, 1)
    accuracy = "none: not a classification" if results.accuracy is None else f"{results.accuracy:.2%}"
    rows = [
        ("scheduled steps", f"{results.steps_scheduled:,}"),
        ("executed steps", f"{results.steps_executed:,} ({share:.1%})"),
        *_shares("gated blocks", results.executed, "of their samples executed"),
        *_shares("signs", results.predicted, "of weights sure"),
        *_shares("fallback", results.fallback, "of full products ran"),
        ("test accuracy", accuracy),
        ("test loss", f"{results.test_loss:.4f}"),
        *_averaged(results),
        *_array(results, program),
        *_energy(results),
        ("seconds", f"{results.seconds:.1f} ({results.images_per_second:,.0f} images/s)"),
        ("run", str(program.folder / "runs" / run)),
    ]
    table(rows)


def _averaged(results: "Results") -> list[tuple[str, str]]:
    """A line for the average of the weights; none without one."""
    if results.averaged_test_loss is None:
        return []
    accuracy = [] if results.averaged_accuracy is None else [f"test accuracy {results.averaged_accuracy:.2%}"]
    parts = [*accuracy, f"test loss {results.averaged_test_loss:.4f}"]
    return [("averaged", f"{', '.join(parts)} (weights after {results.averaged_epochs} epochs)")]


def _array(results: "Results", program: "Program") -> list[tuple[str, str]]:
    """A line for what the device took, by its model; none without a device."""
    if results.modelled_device_seconds is None:
        return []
    each = results.modelled_device_seconds / max(results.steps_executed, 1)
    return [("array", f"{each:.3g} s a step at {program.driver.clock_hz / 1e6:.0f} MHz (modelled)")]


def _energy(results: "Results") -> list[tuple[str, str]]:
    """A line for what the run's executed work costs; none for a run that nobody priced."""
    found = results.energy
    if found is None:
        return []
    parts = f"{joules(found['training'])} training, {joules(found['evaluation'])} evaluation"
    return [("energy", f"{joules(found['joules'])} {found['tag']} ({found['table']}): {parts}")]


def _shares(name: str, shares: "Mapping[str, float]", of_what: str) -> list[tuple[str, str]]:
    """A line for the mean of several shares and their range; none without any."""
    if not shares:
        return []
    values = list(shares.values())
    mean = sum(values) / len(values)
    return [(name, f"{mean:.1%} {of_what} ({len(values)}: {min(values):.1%} to {max(values):.1%})")]


def interrupted(folder: Path, run: str, last: "Event | None", arguments: Sequence[str] | None) -> None:
    """How to go on; `arguments` say on what data and how long, None where the command line cannot."""
    if last is None:
        return
    say(f"interrupted after step {last.position:,}; the newest checkpoint is in {folder}/runs/{run}")
    named = [] if run == "default" else ["--run", run]
    if arguments is None:
        say(f"the data is the model file's own: program.fit(data, run={run!r}, resume=True) goes on")
    else:
        say(f"to go on: {shlex.join(['e2compile', 'train', str(folder), '--resume', *named, *arguments])}")


def evaluated(result: "Evaluation", state: str) -> None:
    accuracy = [] if result.accuracy is None else [("test accuracy", f"{result.accuracy:.2%}")]
    rest = [("test loss", f"{result.loss:.4f}"), ("samples", f"{result.samples:,}")]
    table([("state", state), *accuracy, *rest])


def stages(found: "Iterable[SavedStage]") -> None:
    """One line a stage, and the notes of the pass that made it."""
    for stage in found:
        say(f"{stage.number:02d}  {stage.name:<16}{stage.calls:6,} calls{stage.changed:6,} changed")
        for note in stage.notes:
            say(f"      {note}")


def graph(text: str) -> None:
    """A stage's text, coloured on a terminal."""
    highlighter = _Graph()
    for line in text.splitlines():
        out.print(highlighter(line) if out.is_terminal else Text(line), soft_wrap=True)


def difference(text: str) -> None:
    """A unified diff, coloured on a terminal."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in text.splitlines():
        out.print(Text(line, styles.get(line[:1], "")), soft_wrap=True)


def passes(found: "Iterable[Description]") -> None:
    for item in found:
        say(f"{item.name}  {item.title}")
        say(f"     {item.rewrite}")
        for option in item.options:
            say(f"     --set {item.name}.{option.name}={option.default}  ({option.kind})")


def presets(found: "Mapping[str, Preset]") -> None:
    for name, preset in found.items():
        say(f"--preset {name}  {preset.note}")
        say(f"     --passes {','.join(preset.passes)}")
        for setting in preset.settings:
            say(f"     --set {setting}")
        if preset.swa_start is not None:
            say(f"     train --swa-start {preset.swa_start}")


def findings(found: "Iterable[Finding]") -> None:
    table((f.name, f"{f.value}{f'  <- {f.problem}' if f.problem else ''}") for f in found)
