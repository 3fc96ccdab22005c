"""Measurement logs: CSV files of counted work beside the joules that a meter read.

    # source: who measured what, where it is published
    # licence: MIT
    # date: 2024-05
    group,mac.float32 [1],dram [B],time [us],joules [uJ]
    conv k3,210532800,34061636,17666.7,396645.2

Columns are quantities as they are counted, each with its unit. `group` says which rows belong together: a
network, a family of shapes. What is held out to test a fit is a group, never a row beside its neighbours.
Rows of the groups `idle` and `copy`, which pin watts and bytes, are never held out.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError

Floats = NDArray[np.float64]

PINS = IDLE, COPY = "idle", "copy"

_NEEDED = ("source", "licence", "date")
_POSITIVE = ("joules", "time")
_JOULES = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_BYTES = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20}
_COUNTS = {"1": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Log:
    """Rows of work and their joules. `about` holds the comment lines: source, licence, date."""

    about: dict[str, str]
    groups: tuple[str, ...]
    columns: dict[str, Floats]
    joules: Floats

    def without(self, names: tuple[str, ...]) -> "Log":
        """The log without some columns. Raises UsageError for those that it has not."""
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise UsageError(f"the log has no column {', '.join(unknown)}; it has {', '.join(self.columns)}")
        kept = {name: values for name, values in self.columns.items() if name not in names}
        return Log(self.about, self.groups, kept, self.joules)


def read(path: Path) -> Log:
    """A log.

    Raises UsageError for a figure that is missing, negative, no number or without unit, for joules or
    seconds that are zero, for a row that is there twice, and for a log that does not say where it is from.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"the log {path} cannot be read: {error}") from error
    comments = [line.removeprefix("#").partition(":") for line in lines if line.startswith("#")]
    about = {key.strip(): value.strip() for key, _, value in comments}
    lacking = [key for key in _NEEDED if not about.get(key)]
    if lacking:
        raise UsageError(
            f"{path} does not say its {', '.join(lacking)}: lines like '# source: ...' at its top"
        )
    header, *rows = [*csv.reader(x for x in lines if x.strip() and not x.startswith("#"))] or [[]]
    if "group" not in header or len(set(header)) != len(header):
        raise UsageError(f"{path} needs a header with the column group, and each column once")
    if not rows:
        raise UsageError(f"{path} has no rows")
    _check_rows(path, header, rows)
    columns = _columns(path, header, rows)
    if "joules" not in columns:
        raise UsageError(f"{path} has no column 'joules [J]'")
    groups = tuple(row[header.index("group")] for row in rows)
    return Log(about, groups, columns, columns.pop("joules"))


def _columns(path: Path, header: list[str], rows: list[list[str]]) -> dict[str, Floats]:
    columns: dict[str, Floats] = {}
    for i, name in enumerate(header):
        if name == "group":
            continue
        quantity, scale = _unit(path, name)
        if quantity in columns:
            raise UsageError(f"{path} has {quantity} twice, in several units")
        values = np.array([scale * _number(path, n, name, row[i]) for n, row in enumerate(rows, 1)])
        if quantity.startswith(_POSITIVE) and not values.all():
            raise UsageError(f"{path}, row {1 + int(np.argmin(values))}: {quantity} is zero")
        columns[quantity] = values
    return columns


def _check_rows(path: Path, header: list[str], rows: list[list[str]]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UsageError(f"{path}, row {number} has {len(row)} figures, the header {len(header)}")
        first = seen.setdefault(tuple(row), number)
        if first != number:
            raise UsageError(f"{path}, row {number} is row {first} again")


def _unit(path: Path, name: str) -> tuple[str, float]:
    """A column's quantity, and its unit in units of joules, seconds, bytes or one."""
    match = re.fullmatch(r"(\S+) \[(\S+)\]", name)
    quantity = match[1] if match else name
    units = _COUNTS
    if quantity == "joules":
        units = _JOULES
    elif quantity.startswith("time"):
        units = _SECONDS
    elif quantity.endswith(("dram", "sram")):
        units = _BYTES
    if match is None or match[2] not in units:
        raise UsageError(f"{path}: column {name!r} needs a unit: '{quantity} [UNIT]', of {', '.join(units)}")
    return quantity, units[match[2]]


def _number(path: Path, row: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{path}, row {row}: {name} is {text!r}, no number") from None
    if value < 0 or not math.isfinite(value):
        raise UsageError(f"{path}, row {row}: {name} is {text}, negative or not finite")
    return value
