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
from e2compile.targets import find

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


@dataclass(frozen=True)
class Pricing:
    """A Program's counted work, as `report/work.json` holds it, the shares of it that are expected to be
    executed, and who prices it; `device_source` says where seconds of an accelerator are from."""

    target: str
    work: dict[str, Any]
    shares: dict[str, Share]
    cashier: Cashier
    device_source: str


def pricing(folder: Path, table: str | None = None) -> Pricing:
    """Read a Program's work and the prices of `table`: its target's own, another of that name, a TOML file.

    Raises UsageError for a table that is not there and for a folder that is no Program of this version.
    """
    manifest = manifests.read(folder)
    manifests.check(manifest, folder, [WORK])
    work = json.loads((folder / WORK).read_text())
    target = find(manifest.target)
    accelerated = target.accelerated(folder)
    array = None if accelerated is None else accelerated.array
    own = target.prices_on(manifest.host)
    if array is not None:
        own = own.with_stem(array.board)
    shares = {name: Share(v, Tag(tag), source) for name, (v, tag, source) in work["shares"].items()}
    device = {} if array is None else array.each(from_rows(work["after"]))
    cashier = Cashier(prices.find(table, own), device)
    return Pricing(manifest.target, work, shares, cashier, "" if array is None else array.source)


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
    given = pricing(folder, table)
    done, counted = (None, {}) if run is None else executed(folder, run)
    shares = given.shares | counted
    known = {name: share.value for name, share in shares.items()}

    def taken(rows: Any) -> Work:
        return from_rows(rows).at(known)

    work, cashier = given.work, given.cashier
    return Bill(
        given.target,
        cashier.table.name,
        cashier.table.about,
        shares,
        cashier.side(taken(work["before"])),
        cashier.side(taken(work["after"])),
        tuple((name, cashier.joules(taken(rows))) for name, rows in work["stages"]),
        cashier.joules(taken(work["evaluation"])),
        given.device_source,
        done,
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
        given = pricing(folder, table)
        self.table = given.cashier.table.name
        self._shares = {name: share.value for name, share in given.shares.items()}
        self._step = given.cashier.terms(from_rows(given.work["after"]))
        self._evaluation = given.cashier.terms(from_rows(given.work["evaluation"]))

    def spent(self, work: Executed) -> Spent:
        """The joules of what a run has executed."""
        shares = self._shares | work.shares | {STEP: work.steps / max(work.scheduled, 1)}
        training = work.scheduled * self._step.at(shares)
        evaluation = work.evaluated * self._evaluation.at(shares)
        return Spent(training + evaluation, training, evaluation, self.table)


def _results(folder: Path, run: str) -> dict[str, Any]:
    path = folder / "runs" / run / "results.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} has no finished run {run!r}: {path} cannot be read") from error
    return content
