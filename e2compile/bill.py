"""What a Program's step costs, before its passes and after them: its counted work, priced by a table."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2compile.energy import prices
from e2compile.energy.prices import TIME, Line, Table, Tag
from e2compile.energy.work import STEP, Amounts, Item, Work, from_rows
from e2compile.errors import UsageError
from e2compile.runtime import manifest as manifests
from e2compile.targets import FPGA, find
from e2compile.targets.vta.report.layers import REPORT

WORK = "report/work.json"
DEVICE = "time.device"
# What an accelerator does: its operators by the graph's.
_PRODUCT = "mac.int8"
_OPERATORS = {
    "e2.integer_convolution": "forward",
    "e2.integer_input_gradient": "input gradient",
    "e2.integer_weight_gradient": "weight gradient",
}


@dataclass(frozen=True)
class Share:
    """What of something is executed, how that is known and from where."""

    value: float
    tag: Tag
    source: str


@dataclass(frozen=True)
class Side:
    """A scheduled step's joules and seconds: `lines` by quantity with prices, the rest joules by label.

    All of them are modelled, whatever the tags of the prices: so are the amounts.
    """

    joules: float
    seconds: float
    device_seconds: float
    lines: tuple[Line, ...]
    phases: dict[str, float]
    layers: dict[str, float]
    places: dict[str, float]
    tag: Tag = Tag.MODELLED


@dataclass(frozen=True)
class Run:
    """What a training run has executed; `seconds` are those of the machine that ran it, with all it did."""

    name: str
    scheduled: int
    executed: int
    seconds: float
    tag: Tag = Tag.MEASURED


@dataclass(frozen=True)
class Bill:
    """`stages` are joules of a scheduled step after each stage, `evaluation` those of one batch's.

    `device` says where seconds of an accelerator are from; empty without one.
    """

    target: str
    table: str
    about: str
    shares: dict[str, Share]
    before: Side
    after: Side
    stages: tuple[tuple[str, float], ...]
    evaluation: float
    device: str = ""
    run: Run | None = None


@dataclass(frozen=True)
class Terms:
    """What a Program's work is priced by, and the counted work itself, as `report/work.json` holds it.

    `device` are an accelerator's seconds for one 8-bit product of each operator that it does, from
    `device_source`.
    """

    target: str
    table: Table
    shares: dict[str, Share]
    device: dict[str, float]
    device_source: str
    work: dict[str, Any]


def terms(folder: Path, table: str | None = None) -> Terms:
    """Read a Program's work and the prices of `table`: its target's own, another of that name, a TOML file.

    Raises UsageError for a table that is not there and for a folder that is no Program of this version.
    """
    manifest = manifests.read(folder)
    is_fpga = manifest.target == FPGA.name
    manifests.check(manifest, folder, (WORK, *[REPORT] * is_fpga))
    content = json.loads((folder / WORK).read_text())
    array = _Array.of(folder) if is_fpga else None
    target = find(manifest.target)
    own = target.prices if array is None else target.prices.with_stem(array.board)
    return Terms(
        manifest.target,
        prices.find(table, own),
        {name: Share(v, Tag(tag), source) for name, (v, tag, source) in content["shares"].items()},
        {} if array is None else array.seconds(from_rows(content["after"])),
        "" if array is None else array.source,
        content,
    )


def executed(folder: Path, run: str) -> tuple[Run, dict[str, Share]]:
    """What a finished run has executed, and its shares. Raises UsageError where there is none."""
    done = _results(folder, run)
    summary = Run(run, done["steps_scheduled"], done["steps_executed"], done["seconds"])
    found = {**done["executed"], **done["fallback"]}
    found[STEP] = done["steps_executed"] / max(done["steps_scheduled"], 1)
    return summary, {
        name: Share(value, Tag.MEASURED, f"counted in run {run}") for name, value in found.items()
    }


def bill(folder: Path, table: str | None = None, run: str | None = None) -> Bill:
    """Price a Program's work by its target's own table, by another of that name, or by a TOML file.

    Shares that are executed are those of a run, or what is expected. Raises UsageError for a table that lacks
    a price, for a run that is not there, and for a folder that is no Program of this version.
    """
    given = terms(folder, table)
    done, counted = (None, {}) if run is None else executed(folder, run)
    shares = given.shares | counted
    cashier = Cashier(given.table, {name: share.value for name, share in shares.items()}, given.device)
    return Bill(
        given.target,
        given.table.name,
        given.table.about,
        shares,
        cashier.side(from_rows(given.work["before"])),
        cashier.side(from_rows(given.work["after"])),
        tuple((name, cashier.joules(from_rows(rows))) for name, rows in given.work["stages"]),
        cashier.joules(from_rows(given.work["evaluation"])),
        given.device_source,
        done,
    )


@dataclass(frozen=True)
class Cashier:
    """Prices work: shares filled in, seconds modelled, `device` of them for an operator's product there."""

    table: Table
    shares: dict[str, float]
    device: dict[str, float]

    def amounts(self, work: Work) -> Amounts:
        """The work's quantities with its seconds. The host waits while an accelerator works."""
        executed = work.at(self.shares)
        counted = executed.totals()
        device = sum(self.device.get(i.operator, 0) * i.amounts.get(_PRODUCT, 0) for i in executed.items)
        host = sum(line.total for line in self.table.time(counted)) if TIME in self.table.prices else 0
        timed = {TIME: host + device, DEVICE: device} if TIME in self.table.prices else {}
        return counted | {quantity: seconds for quantity, seconds in timed.items() if seconds}

    def joules(self, work: Work) -> float:
        return self.table.joules(self.amounts(work))

    def side(self, work: Work) -> Side:
        amounts = self.amounts(work)

        def by(key: Callable[[Item], str]) -> dict[str, float]:
            return {label: self.joules(part) for label, part in work.by(key).items()}

        return Side(
            self.table.joules(amounts),
            amounts.get(TIME, 0.0),
            amounts.get(DEVICE, 0.0),
            self.table.bill(amounts),
            by(lambda item: item.phase),
            by(lambda item: item.module or "the step"),
            by(lambda item: item.where),
        )


@dataclass(frozen=True)
class _Array:
    """An FPGA program's array: cycles of its operators in a step in which everything is executed.

    `shares` are those of each operator's products that the array does; the host's others are taken to be as
    fast.
    """

    board: str
    clock_hz: float
    cycles: Counter[str]
    shares: dict[str, float]
    source: str

    @staticmethod
    def of(folder: Path) -> "_Array":
        content = json.loads((folder / REPORT).read_text())
        cycles, done, left = Counter[str](), Counter[str](), Counter[str]()
        for row in content["rows"]:
            calls = row["calls"].get("step", 0)
            cycles[row["phase"]] += calls * row["each"]["cost"]["cycles"]
            done[row["phase"]] += calls * row["each"]["macs"]
        for row in content["host"]:
            left[row["phase"]] += row["calls"].get("step", 0) * row["macs"]
        shares = {phase: macs / (macs + left[phase]) for phase, macs in done.items() if macs}
        source = f"the cycle model of the streams; a read's latency: {content['latency_source']}"
        return _Array(content["board"], content["clock_hz"], cycles, shares, source)

    def seconds(self, work: Work) -> dict[str, float]:
        """Seconds of one product of each of the graph's operators, on average over a step.

        Raises UsageError for operators of which the array does nothing: their time is not known.
        """
        parts = work.at(dict.fromkeys(work.symbols, 1.0)).by(lambda item: item.operator)
        known = {name: phase for name, phase in _OPERATORS.items() if name in parts}
        missing = [name for name, phase in known.items() if phase not in self.shares]
        if missing:
            raise UsageError(f"the host does all {', '.join(missing)}: there is no time for these products")
        return {
            name: self.cycles[phase] / self.clock_hz / (self.shares[phase] * parts[name].totals()[_PRODUCT])
            for name, phase in known.items()
        }


def _results(folder: Path, run: str) -> dict[str, Any]:
    path = folder / "runs" / run / "results.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} has no finished run {run!r}: {path} cannot be read") from error
    return content
