"""Meters by name. One that is missing, may not be read or did not cover the time is an error, never an
estimate."""

from collections.abc import Callable, Sequence
from pathlib import Path

from e2compile.energy.counters import Nvml, Rapl
from e2compile.energy.reading import Meter
from e2compile.energy.watts import CsvMeter, hwmon, pmbus
from e2compile.errors import UsageError

METERS: dict[str, Callable[[Sequence[str]], Meter]] = {
    "rapl": Rapl,
    "nvml": Nvml,
    "hwmon": hwmon,
    "pmbus": pmbus,
}


def meter(kind: str, file: Path | None = None, rails: Sequence[str] = ()) -> Meter:
    """The meter of a kind. Raises MissingError where it is not there or may not be read."""
    if kind in METERS:
        return METERS[kind](rails)
    if kind != "csv":
        raise UsageError(f"no meter {kind!r}; there is {', '.join([*METERS, 'csv'])}")
    if file is None:
        raise UsageError("a csv meter needs its file: --meter-file FILE")
    return CsvMeter(file)
