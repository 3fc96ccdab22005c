"""What a Program's step costs, before its passes and after them: its counted work, priced by a table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2compile.energy import prices
from e2compile.energy.cashier import Cashier, Share, Side
from e2compile.energy.prices import Tag
from e2compile.energy.work import STEP, Work, from_rows
from e2compile.errors import UsageError
from e2compile.runtime import manifest as manifests
from e2compile.runtime.fit import Executed
from e2compile.targets import FPGA, find
from e2compile.targets.vta import report

WORK = "report/work.json"


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


def bill(folder: Path, table: str | None = None, run: str | None = None) -> Bill:
    """Price a Program's work by its target's own table, by another of that name, or by a TOML file.

    Shares that are executed are those of a run, or what is expected. Raises UsageError for a table that lacks
    a price, for a run that is not there, and for a folder that is no Program of this version.
    """
    counted = _Counted.of(folder, table)
    shares, cashier = counted.shares, counted.cashier
    done = None if run is None else _results(folder, run)
    if done is not None:
        shares = shares | _executed(done, run or "")
    known = {name: share.value for name, share in shares.items()}

    def executed(rows: Any) -> Work:
        return from_rows(rows).at(known)

    content = counted.content
    return Bill(
        counted.target,
        cashier.table.name,
        cashier.table.about,
        shares,
        cashier.side(executed(content["before"])),
        cashier.side(counted.after.at(known)),
        tuple((name, cashier.joules(executed(rows))) for name, rows in content["stages"]),
        cashier.joules(executed(content["evaluation"])),
        counted.device,
        None
        if done is None
        else Run(run or "", done["steps_scheduled"], done["steps_executed"], done["seconds"]),
    )


@dataclass(frozen=True)
class Spent:
    """Joules of a run so far: its executed work, as the program counts it, priced by a table."""

    joules: float
    training: float
    evaluation: float
    table: str
    tag: Tag = Tag.MODELLED
    counts: str = "planned"


class Meter:
    """Prices a Program's runs while they go on; reading it takes microseconds.

    Raises UsageError as `bill` does.
    """

    def __init__(self, folder: Path, table: str | None = None) -> None:
        counted = _Counted.of(folder, table)
        self.table = counted.cashier.table.name
        self._shares = {name: share.value for name, share in counted.shares.items()}
        self._step = counted.cashier.terms(counted.after)
        self._evaluation = counted.cashier.terms(from_rows(counted.content["evaluation"]))

    def spent(self, work: Executed) -> Spent:
        """The joules of what a run has executed."""
        shares = self._shares | work.shares | {STEP: work.steps / max(work.scheduled, 1)}
        training = work.scheduled * self._step.at(shares)
        evaluation = work.evaluated * self._evaluation.at(shares)
        return Spent(training + evaluation, training, evaluation, self.table)


@dataclass(frozen=True)
class _Counted:
    """A Program's counted work, what of it is expected to be executed, and who prices it."""

    target: str
    content: dict[str, Any]
    shares: dict[str, Share]
    after: Work
    cashier: Cashier
    device: str

    @staticmethod
    def of(folder: Path, table: str | None) -> "_Counted":
        manifest = manifests.read(folder)
        is_fpga = manifest.target == FPGA.name
        manifests.check(manifest, folder, (WORK, *[report.REPORT] * is_fpga))
        content = json.loads((folder / WORK).read_text())
        array = report.array(report.read(folder)) if is_fpga else None
        target = find(manifest.target)
        own = target.prices if array is None else target.prices.with_stem(array.board)
        shares = {name: Share(v, Tag(tag), source) for name, (v, tag, source) in content["shares"].items()}
        after = from_rows(content["after"])
        cashier = Cashier(prices.find(table, own), {} if array is None else array.seconds(after))
        return _Counted(
            manifest.target, content, shares, after, cashier, "" if array is None else array.source
        )


def _results(folder: Path, run: str) -> dict[str, Any]:
    path = folder / "runs" / run / "results.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} has no finished run {run!r}: {path} cannot be read") from error
    return content


def _executed(results: dict[str, Any], run: str) -> dict[str, Share]:
    """Shares as a run has counted them."""
    found = {**results["executed"], **results["fallback"]}
    found[STEP] = results["steps_executed"] / max(results["steps_scheduled"], 1)
    return {name: Share(value, Tag.MEASURED, f"counted in run {run}") for name, value in found.items()}
