"""Meters: joules of a stretch of time, by RAPL, by a board's power rails, or from an external meter's file.

A meter that is missing, may not be read or did not cover the time is an error, never an estimate.
"""

import csv
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from e2compile.errors import MissingError, UsageError

POWERCAP, HWMON = Path("/sys/class/powercap"), Path("/sys/class/hwmon")
METERS = ("rapl", "hwmon", "csv")

# No package takes more: between two readings a counter must not have wrapped twice.
_MOST_WATTS = 1000.0
_HWMON_HZ = 20.0
_FEWEST_SAMPLES = 5


@dataclass(frozen=True)
class Reading:
    """A stretch's joules; `hz` is how often the meter was read in it, 0 for a counter read at both ends."""

    joules: float
    seconds: float
    hz: float


class Meter(Protocol):
    @property
    def about(self) -> str:
        """What is measured, by what."""

    def measure(self, work: Callable[[], object]) -> Reading:
        """The joules that a call of `work` takes."""


class Rapl:
    """Intel's and AMD's energy counters: packages, and DRAM where there is a domain of it."""

    def __init__(self, root: Path = POWERCAP) -> None:
        names = {path.parent: _text(path) for path in sorted(root.glob("*-rapl:*/name"))}
        self._domains = {
            folder: name for folder, name in names.items() if name.startswith(("package", "dram"))
        }
        if not self._domains:
            raise MissingError(f"no RAPL domain under {root}: not this processor, or not in this container")
        self._ranges = {folder: int(_text(folder / "max_energy_range_uj")) for folder in self._domains}
        self._counters()

    @property
    def about(self) -> str:
        return f"RAPL: {', '.join(self._domains.values())}"

    def measure(self, work: Callable[[], object]) -> Reading:
        before, began = self._counters(), time.perf_counter()
        work()
        after, seconds = self._counters(), time.perf_counter() - began
        shortest = min(self._ranges.values()) * 1e-6 / _MOST_WATTS
        if seconds > shortest:
            raise UsageError(
                f"the counters may wrap twice in {seconds:.0f} s: measure {shortest:.0f} s at most"
            )
        passed = (
            end - start if end >= start else end - start + size
            for start, end, size in zip(before, after, self._ranges.values(), strict=True)
        )
        return Reading(sum(passed) * 1e-6, seconds, 0.0)

    def _counters(self) -> list[int]:
        return [int(_text(folder / "energy_uj")) for folder in self._domains]


class Hwmon:
    """Power rails of a board (INA226 and their like): all that are there, or those that `rails` names."""

    def __init__(self, rails: Sequence[str] = (), root: Path = HWMON) -> None:
        found = {_rail(path): path for path in sorted(root.glob("hwmon*/power*_input"))}
        if not found:
            raise MissingError(f"no power rail under {root}: no INA226 or its like, or no driver for it")
        unknown = [rail for rail in rails if rail not in found]
        if unknown:
            raise MissingError(f"no power rail {', '.join(unknown)}; there is {', '.join(found)}")
        self._rails = {rail: path for rail, path in found.items() if not rails or rail in rails}
        self._watts()

    @property
    def about(self) -> str:
        return f"hwmon: {', '.join(self._rails)}"

    def measure(self, work: Callable[[], object]) -> Reading:
        samples: list[tuple[float, float]] = []
        failed: list[Exception] = []
        done = threading.Event()

        def sample() -> None:
            try:
                while True:
                    samples.append((time.perf_counter(), self._watts()))
                    if done.wait(1 / _HWMON_HZ):
                        break
                samples.append((time.perf_counter(), self._watts()))
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=sample)
        began = time.perf_counter()
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()
        if failed:
            raise failed[0]
        return _integrated(samples, began, time.perf_counter())

    def _watts(self) -> float:
        return sum(int(_text(path)) for path in self._rails.values()) * 1e-6


class CsvMeter:
    """A file that an external meter's software writes: columns seconds, since 1970, and watts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise MissingError(f"the meter's file {path} is not there")

    @property
    def about(self) -> str:
        return f"external meter: {self._path.name}"

    def measure(self, work: Callable[[], object]) -> Reading:
        began = time.time()
        work()
        return _integrated(self._samples(), began, time.time())

    def _samples(self) -> list[tuple[float, float]]:
        try:
            rows = list(csv.DictReader(self._path.read_text().splitlines()))
            return [(float(row["seconds"]), float(row["watts"])) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self._path} needs the columns seconds and watts, all numbers") from error


def meter(kind: str, file: Path | None = None, rails: Sequence[str] = ()) -> Meter:
    """The meter of a kind. Raises MissingError where it is not there or may not be read."""
    if kind == "rapl":
        return Rapl()
    if kind == "hwmon":
        return Hwmon(rails)
    if kind != "csv":
        raise UsageError(f"no meter {kind!r}; there is {', '.join(METERS)}")
    if file is None:
        raise UsageError("a csv meter needs its file: --meter-file FILE")
    return CsvMeter(file)


def _rail(path: Path) -> str:
    """A rail by its label, or by its chip and channel."""
    label = path.with_name(path.name.replace("_input", "_label"))
    return (
        _text(label)
        if label.is_file()
        else f"{_text(path.parent / 'name')}.{path.name.removesuffix('_input')}"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        raise MissingError(f"{path} may not be read: allow it with chmod a+r, or run as root") from error
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}") from error


def _integrated(samples: Sequence[tuple[float, float]], began: float, ended: float) -> Reading:
    """Watts over a stretch, straight between samples."""
    inside = [s for s in samples if began <= s[0] <= ended]
    if len(inside) < _FEWEST_SAMPLES or min(watts for _, watts in inside) < 0:
        raise UsageError(f"{len(inside)} readings in {ended - began:.1f} s are too few, or some are negative")
    times, watts = (np.array(column) for column in zip(*inside, strict=True))
    if (np.diff(times) <= 0).any():
        raise UsageError("the meter's seconds do not rise")
    hz = (len(times) - 1) / (times[-1] - times[0])
    gaps = max(times[0] - began, ended - times[-1], float(np.diff(times).max()))
    if gaps > 5 / hz + 0.5:
        raise UsageError(f"the meter says nothing of {gaps:.1f} s")
    edges = np.concatenate([[began], times, [ended]])
    levels = np.concatenate([watts[:1], watts, watts[-1:]])
    return Reading(float(np.trapezoid(levels, edges)), ended - began, float(hz))
