"""Calibration: a price table fitted to a measurement log."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2compile.energy import log as logs
from e2compile.energy.fit import Coefficient, Errors, Fit, fit
from e2compile.energy.log import Log
from e2compile.energy.prices import TIME, Figure, Table, Tag, unit_of

_UNITS = {"pJ": 1e12, "pJ/B": 1e12, "W": 1.0, "ns": 1e9, "ns/B": 1e9}


@dataclass(frozen=True)
class Calibration:
    """A table and the fits to the meter's joules and to the clock's seconds, if there are any."""

    table: Table
    joules: Fit
    seconds: Fit | None


def calibrate(
    path: Path, without: tuple[str, ...] = (), name: str | None = None, times: bool = True
) -> Calibration:
    """The prices that explain a log's joules, and the times that explain its seconds of `time`.

    Without `times` the table says nothing of seconds: they are another machine's, or known better.

    Raises UsageError for a log that is damaged or whose columns cannot be told apart: see `fit`.
    """
    log = logs.read(path).without(without)
    joules = fit(log.columns, log.joules, log.groups, logs.PINS)
    seconds = _seconds(log) if times else None
    table = Table(
        name or path.stem,
        _claim(joules, seconds),
        _figures(joules, "price", log),
        {} if seconds is None else _figures(seconds, "seconds", log),
    )
    return Calibration(table, joules, seconds)


def _seconds(log: Log) -> Fit | None:
    """The fit to seconds of the rows in which anything was done, of a log that has both."""
    counted = {q: values for q, values in log.columns.items() if not q.startswith("time")}
    if TIME not in log.columns or not counted:
        return None
    did = np.any(list(counted.values()), axis=0)
    groups = [group for group, active in zip(log.groups, did, strict=True) if active]
    active = {q: values[did] for q, values in counted.items()}
    return fit(active, log.columns[TIME][did], groups, logs.PINS)


def _claim(joules: Fit, seconds: Fit | None) -> str:
    """What a table may claim."""
    given = ", given the seconds," if TIME in joules.coefficients else ""
    claims = [f"joules{given} {_errors(joules)}"]
    if seconds is not None:
        claims.append(f"seconds {_errors(seconds)}")
    return f"Fitted by non-negative least squares of relative errors. {'; '.join(claims)}."


def _errors(found: Fit) -> str:
    if found.held_out is None:
        return f"off by {_words(found.residual)} of the rows fitted, which are of one group"
    held = f"{_words(found.held_out)} of held-out groups ({', '.join(found.held_groups)})"
    worst = (
        f"{found.left_out[found.worst].median:.1%} of {found.worst}, the group that the others predict worst"
    )
    return f"off by {held}, {worst}"


def _words(error: Errors) -> str:
    return f"{error.median:.1%} (median), {error.p90:.1%} (90th percentile)"


def _figures(found: Fit, section: str, log: Log) -> dict[str, Figure]:
    return {q: _figure(q, c, section, log, found) for q, c in found.coefficients.items()}


def _figure(quantity: str, found: Coefficient, section: str, log: Log, how: Fit) -> Figure:
    unit = unit_of(quantity, section)
    value, low, high = (_UNITS[unit] * v for v in (found.value, found.low, found.high))
    note = "" if value else "at its bound: the log does not show it"
    source = f"fitted to {how.rows} rows: {log.about['source']}"
    return Figure(value, unit, Tag.MODELLED, source, log.about["date"], low, high, note)
