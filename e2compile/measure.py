"""Measuring: a Program's step, its evaluation and the idle machine under a meter, as rows of a log."""

import csv
import datetime
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2compile.bill import WORK
from e2compile.energy.meters import Meter, Reading
from e2compile.energy.work import STEP, Amounts, Work, from_rows
from e2compile.errors import UsageError
from e2compile.runtime.program import Program

COLUMNS = ("group", "mac.float32 [1]", "mac.int8 [1]", "dram [B]", "time [s]", "joules [J]")
_WARM_UP = 3


@dataclass(frozen=True)
class Part:
    """What was run in one go: `calls` of it, their work, and what the meter read."""

    name: str
    calls: int
    work: Amounts
    reading: Reading

    @property
    def watts(self) -> float:
        return self.reading.joules / self.reading.seconds


def measure(
    program: Program,
    meter: Meter,
    seconds: float = 10.0,
    repeats: int = 5,
    watch: Callable[[Part], None] | None = None,
) -> tuple[Part, ...]:
    """The idle machine, executed steps and evaluations, in turn, each for so many seconds, so many times.

    What a step has executed is counted by the program. An evaluation whose gates nobody counts is left out.
    Raises UsageError for a program of another version, and what the meter raises.
    """
    content = json.loads((program.folder / WORK).read_text())
    after, evaluation = from_rows(content["after"]), from_rows(content["evaluation"])
    batch = [np.zeros(tensor.shape, tensor.dtype) for tensor in program.manifest.batch]
    parts: list[Part] = []

    def run(name: str, once: Callable[[], object], work: Callable[[int], Amounts]) -> None:
        calls = 0

        def several() -> None:
            nonlocal calls
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                once()
                calls += 1

        reading = meter.measure(several)
        parts.append(Part(name, calls, work(calls), reading))
        if watch is not None:
            watch(parts[-1])

    for _ in range(_WARM_UP):
        program.execute(batch)
        program.predict(batch)
    for _ in range(repeats):
        counters: dict[str, float] = {}

        def step(counters: dict[str, float] = counters) -> None:
            for name, value in program.execute(batch).counters.items():
                counters[name] = counters.get(name, 0.0) + float(value)

        def executed(calls: int, counters: dict[str, float] = counters) -> Amounts:
            return _times(after.at(_shares(after, counters, calls, program.batch_size)), calls)

        run("idle", lambda: time.sleep(min(0.1, seconds)), lambda _: {})
        run("step", step, executed)
        if not evaluation.symbols:
            run("evaluate", lambda: program.predict(batch), lambda calls: _times(evaluation, calls))
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


def _times(work: Work, calls: int) -> Amounts:
    return {quantity: calls * amount for quantity, amount in work.totals().items()}


def append(path: Path, parts: tuple[Part, ...], program: Program, meter: Meter) -> None:
    """Add rows to a log, which is begun where there is none. UsageError for a file with other columns."""
    is_new = not path.exists()
    if not is_new and ",".join(COLUMNS) not in path.read_text().splitlines():
        raise UsageError(f"{path} is a log with other columns: choose another file")
    with path.open("a", newline="") as file:
        if is_new:
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            lowest = min((part.watts for part in parts if part.name == "idle"), default=0.0)
            file.write(f"# source: e2compile measure on {platform.node()}, {platform.machine()}\n")
            file.write(f"# licence: the owner's\n# date: {today}\n# meter: {meter.about}\n")
            file.write(f"# idle: {lowest:.4g} W, not subtracted: rows of the idle machine tell the fit\n")
        rows = csv.writer(file, lineterminator="\n")
        if is_new:
            rows.writerow(COLUMNS)
        for part in parts:
            group = part.name if part.name == "idle" else f"{program.folder.resolve().name} {part.name}"
            moved = part.work.get("read.dram", 0) + part.work.get("write.dram", 0)
            counted = (part.work.get("mac.float32", 0), part.work.get("mac.int8", 0), moved)
            measured = (part.reading.seconds, part.reading.joules)
            rows.writerow([group, *(f"{value:.9g}" for value in (*counted, *measured))])
