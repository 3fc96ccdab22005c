"""Pricing: counted work times a table of prices is joules, each figure with where it is from.

A table is a TOML file that belongs to a target or that `e2compile calibrate` has written:

    name = "pynq"
    about = "what the table may claim"
    inherits = "reference"              # whose figures stand in for those that are not here

    [price."mac.int8"]
    value = 0.3
    unit = "pJ"                         # of bytes pJ/B, of seconds W
    tag = "assumed"                     # or measured, modelled
    source = "..."
    date = "2014-02"

`[seconds.QUANTITY]`, in ns or ns/B, models the time that no run has measured: seconds of `time`.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from e2compile.energy.work import Amounts
from e2compile.errors import UsageError

SHARED = Path(__file__).parent / "tables"

TIME = "time"

_SCALES = {"pJ": 1e-12, "pJ/B": 1e-12, "W": 1.0, "ns": 1e-9, "ns/B": 1e-9}
_KEYS = {"name", "about", "inherits", "price", "seconds"}


class Tag(StrEnum):
    """How a figure is known, from the best to the worst."""

    MEASURED = "measured"
    MODELLED = "modelled"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class Figure:
    """A price or a time for one unit of a quantity. `low` and `high` bound it with 95 % confidence."""

    value: float
    unit: str
    tag: Tag
    source: str
    date: str
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def si(self) -> float:
        """The value in joules, watts or seconds."""
        return self.value * _SCALES[self.unit]


@dataclass(frozen=True)
class Line:
    """A quantity's part of a sum."""

    quantity: str
    amount: float
    figure: Figure

    @property
    def total(self) -> float:
        """Joules, or seconds where the figure is a time."""
        return self.amount * self.figure.si


@dataclass(frozen=True)
class Table:
    """Prices on one chip, and the seconds that its units take."""

    name: str
    about: str
    prices: dict[str, Figure]
    seconds: dict[str, Figure] = field(default_factory=dict)

    def bill(self, amounts: Amounts) -> tuple[Line, ...]:
        """What work costs, the largest part first. Raises UsageError that names what has no price."""
        missing = [q for q, amount in amounts.items() if amount and _find(self.prices, q) is None]
        if missing:
            raise UsageError(f"the price table {self.name} has no price for {', '.join(sorted(missing))}")
        lines = [Line(q, n, figure) for q, n in amounts.items() if (figure := _find(self.prices, q))]
        return tuple(sorted(lines, key=lambda line: -line.total))

    def joules(self, amounts: Amounts) -> float:
        return sum(line.total for line in self.bill(amounts))

    def time(self, amounts: Amounts) -> tuple[Line, ...]:
        """The seconds that work takes, modelled, as lines of seconds. Raises UsageError as `bill` does."""
        counted = {q: n for q, n in amounts.items() if not q.startswith("time")}
        missing = [q for q, amount in counted.items() if amount and _find(self.seconds, q) is None]
        if missing:
            raise UsageError(f"the price table {self.name} gives no time for {', '.join(sorted(missing))}")
        return tuple(Line(q, n, figure) for q, n in counted.items() if (figure := _find(self.seconds, q)))


def _find(figures: Mapping[str, Figure], quantity: str) -> Figure | None:
    """Reads and writes may have one price: `dram` for `read.dram` and `write.dram`."""
    return figures.get(quantity) or figures.get(quantity.partition(".")[2])


def unit_of(quantity: str, section: str = "price") -> str:
    """The one unit that a quantity's figures are in."""
    if section == "price" and quantity.startswith("time"):
        return "W"
    plain = "pJ" if section == "price" else "ns"
    return f"{plain}/B" if quantity.endswith(("dram", "sram")) else plain


def read(path: Path, folders: Sequence[Path] = ()) -> Table:
    """A table from a file; those that it may inherit from lie in `folders` or come with this package.

    Raises UsageError for a file that is no table: figures without unit, tag, source or date, negative ones,
    ones in another unit.
    """
    return _read(path, (*folders, SHARED), ())


def find(name: str | None, default: Path) -> Table:
    """A table by the name of one beside the default or of this package, from a TOML file, or the default."""
    if name is None or name.endswith(".toml"):
        return read(default if name is None else Path(name), [default.parent])
    files = [folder / f"{name}.toml" for folder in (default.parent, SHARED)]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        known = sorted(file.stem for folder in (default.parent, SHARED) for file in folder.glob("*.toml"))
        raise UsageError(f"no price table {name!r}: give a TOML file or one of {', '.join(known)}")
    return read(found, [default.parent])


def _read(path: Path, folders: Sequence[Path], heirs: tuple[str, ...]) -> Table:
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"the price table {path} cannot be read: {error}") from error
    unknown = set(content) - _KEYS
    if unknown or not isinstance(content.get("name"), str):
        raise UsageError(f"{path} is no price table: {', '.join(sorted(unknown)) or 'it has no name'}")
    prices, seconds = (_figures(content.get(section, {}), section, path) for section in ("price", "seconds"))
    parent = content.get("inherits")
    if parent is not None:
        files = [folder / f"{parent}.toml" for folder in folders]
        found = next((file for file in files if file.is_file()), None)
        if parent in heirs or found is None:
            raise UsageError(f"{path} inherits from {parent!r}, of which there is no table")
        base = _read(found, folders, (*heirs, parent))
        prices, seconds = base.prices | prices, base.seconds | seconds
    return Table(content["name"], content.get("about", ""), prices, seconds)


def _figures(section: Any, name: str, path: Path) -> dict[str, Figure]:
    return {quantity: _figure(entry, quantity, name, path) for quantity, entry in section.items()}


def _figure(entry: Any, quantity: str, section: str, path: Path) -> Figure:
    place = f"{path}: {section} of {quantity}"
    try:
        figure = Figure(**entry | {"tag": Tag(entry["tag"])})
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{place} needs value, unit, tag, source and date: {error}") from error
    wanted = unit_of(quantity, section)
    if figure.unit != wanted:
        raise UsageError(f"{place} is in {figure.unit!r}, not in {wanted}")
    values = [v for v in (figure.value, figure.low, figure.high) if v is not None]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise UsageError(f"{place} is no number")
    if any(v < 0 or not math.isfinite(v) for v in values):
        raise UsageError(f"{place} is negative or not finite")
    if figure.value == 0 and not figure.note:
        raise UsageError(f"{place} is zero without a note that says why")
    if not (figure.source and figure.date):
        raise UsageError(f"{place} has no source or no date")
    return figure


def write(table: Table, path: Path, inherits: str, folders: Sequence[Path] = ()) -> None:
    """Write a table that inherits from another. Raises UsageError where there is none of that name."""
    path.write_text(text(table, inherits))
    try:
        read(path, folders)
    except UsageError:
        path.unlink()
        raise


def text(table: Table, inherits: str | None = None) -> str:
    """A table as the TOML that `read` takes."""
    lines = [f"name = {_quoted(table.name)}", f"about = {_quoted(table.about)}"]
    if inherits is not None:
        lines.append(f"inherits = {_quoted(inherits)}")
    for section, figures in (("price", table.prices), ("seconds", table.seconds)):
        for quantity, figure in figures.items():
            lines += ["", f"[{section}.{_quoted(quantity)}]"]
            given = {key: value for key, value in vars(figure).items() if value not in (None, "")}
            lines += [
                f"{key} = {_quoted(value) if isinstance(value, str) else f'{value:.6g}'}"
                for key, value in given.items()
            ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
