"""Measuring: a Program's step, its evaluation and the idle machine under a meter, as rows of a log."""

import csv
import datetime
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2compile.bill import pricing
from e2compile.energy.log import COPY, IDLE
from e2compile.energy.prices import TIME
from e2compile.energy.reading import Meter, Reading
from e2compile.energy.work import STEP, Amounts, Work, from_rows
from e2compile.errors import UsageError
from e2compile.runtime.program import Program

COLUMNS = ("group", "mac.float32 [1]", "mac.int8 [1]", "dram [B]", "time [s]", "joules [J]")
# More than most caches hold, twice in the memory of the smallest board.
_COPIED = 64 * 2**20


@dataclass(frozen=True)
class Part:
    """What was run in one go: `calls` of it, their work, what the meter read; the idle machine's watts."""

    name: str
    calls: int
    work: Amounts
    reading: Reading
    idle_watts: float

    @property
    def watts(self) -> float:
        return self.reading.joules / self.reading.seconds

    @property
    def joules_above_idle(self) -> float:
        return self.reading.joules - self.idle_watts * self.reading.seconds


def measure(
    program: Program,
    meter: Meter,
    seconds: float = 10.0,
    repeats: int = 5,
    watch: Callable[[Part], None] | None = None,
) -> tuple[Part, ...]:
    """The idle machine, copies in memory, executed steps and evaluations, in turn, each for so many seconds,
    so many times, after steps that warm up for as long.

    Idle rows tell watts from work, copies bytes from products. What a step has executed is counted by the
    program. An evaluation whose gates nobody counts is left out.
    Raises UsageError for a program of another version, and what the meter raises.
    """
    given = pricing(program.folder)
    after, evaluation = from_rows(given.work["after"]), from_rows(given.work["evaluation"])
    batch = [np.zeros(tensor.shape, tensor.dtype) for tensor in program.manifest.batch]
    here = np.ones(_COPIED, np.int8)
    there = np.ones_like(here)
    parts: list[Part] = []

    def counted(work: Work, calls: int) -> Amounts:
        amounts = given.cashier.amounts(work)
        return {q: calls * amount for q, amount in amounts.items() if not q.startswith(TIME)}

    def several(once: Callable[[], object]) -> int:
        calls, until = 0, time.perf_counter() + seconds
        while not calls or time.perf_counter() < until:
            once()
            calls += 1
        return calls

    def run(name: str, once: Callable[[], object], work: Callable[[int], Amounts]) -> None:
        calls: list[int] = []
        reading = meter.measure(lambda: calls.append(several(once)))
        idle = next((part.watts for part in reversed(parts) if part.name == IDLE), 0.0)
        watts = reading.joules / reading.seconds if name == IDLE else idle
        parts.append(Part(name, calls[0], work(calls[0]), reading, watts))
        if watch is not None:
            watch(parts[-1])

    program.predict(batch)
    several(lambda: program.execute(batch))
    for _ in range(repeats):
        counters: dict[str, float] = {}

        def step(counters: dict[str, float] = counters) -> None:
            for name, value in program.execute(batch).counters.items():
                counters[name] = counters.get(name, 0.0) + float(value)

        def executed(calls: int, counters: dict[str, float] = counters) -> Amounts:
            return counted(after.at(_shares(after, counters, calls, program.batch_size)), calls)

        run(IDLE, lambda: time.sleep(min(0.1, seconds)), lambda _: {})
        run(COPY, lambda: np.copyto(there, here), lambda calls: {"dram": 2.0 * _COPIED * calls})
        run("step", step, executed)
        if not evaluation.symbols:
            run("evaluate", lambda: program.predict(batch), lambda calls: counted(evaluation, calls))
    return tuple(parts)


def _shares(work: Work, counters: dict[str, float], calls: int, samples: int) -> dict[str, float]:
    """Mean shares of executed steps, from the sums of their counters."""
    shares = {STEP: 1.0}
    for name in work.symbols - {STEP}:
        gate, layer = counters.get(f"{name}.executed"), counters.get(f"{name}.fallback")
        if gate is None and layer is None:
            raise UsageError(f"the program does not count what is executed of {name}")
        shares[name] = gate / (calls * samples) if gate is not None else (layer or 0.0) / calls
    return shares


def check(path: Path, meter: Meter) -> None:
    """Raises UsageError for a log with other columns, or of another meter; one that is not there is begun."""
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    if ",".join(COLUMNS) not in lines:
        raise UsageError(f"{path} is a log with other columns: choose another file")
    if f"# meter: {meter.about}" not in lines:
        raise UsageError(f"{path} was not measured by {meter.about}: choose another file")


def append(path: Path, parts: tuple[Part, ...], program: Program, meter: Meter) -> None:
    """Add rows to a log, which is begun where there is none. Raises UsageError as `check` does."""
    check(path, meter)
    if not path.exists():
        path.write_text(_head(meter, parts))
    with path.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        for part in parts:
            is_own = part.name not in (IDLE, COPY)
            group = f"{program.folder.resolve().name} {part.name}" if is_own else part.name
            moved = sum(part.work.get(quantity, 0) for quantity in ("dram", "read.dram", "write.dram"))
            counted = (part.work.get("mac.float32", 0), part.work.get("mac.int8", 0), moved)
            measured = (part.reading.seconds, part.reading.joules)
            rows.writerow([group, *(f"{value:.9g}" for value in (*counted, *measured))])


def _head(meter: Meter, parts: tuple[Part, ...]) -> str:
    """A log's comments: what was measured, when, how, and the columns."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    idle = [part.watts for part in parts if part.name == IDLE]
    rate = min((part.reading.hz for part in parts), default=0.0)
    lines = [
        f"# source: e2compile measure on {platform.node()}, {platform.machine()}",
        "# licence: the owner's",
        f"# date: {today}",
        f"# meter: {meter.about}",
        f"# sampling: {f'{rate:.3g} Hz at least' if rate else 'a counter, at both ends of a part'}",
        f"# protocol: warmed up by steps for as long as one part; {len(idle)} times each part",
        f"# idle: {min(idle, default=0.0):.4g} W; joules are gross: rows of the idle machine tell the fit",
        ",".join(COLUMNS),
    ]
    return "\n".join(lines) + "\n"
