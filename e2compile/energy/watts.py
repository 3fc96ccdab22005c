"""Power that is sampled and summed up over a stretch: rails of a board, or an external meter's file."""

import csv
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2compile.energy.reading import Reading, chosen, number, text
from e2compile.errors import MissingError, UsageError

HWMON = Path("/sys/class/hwmon")

_HZ = 20.0
_FEWEST_SAMPLES = 5


@dataclass(frozen=True)
class Rail:
    """A rail's files: one in microwatts, or one in millivolts and one in milliamperes."""

    files: tuple[Path, ...]

    @property
    def watts(self) -> float:
        return math.prod(map(number, self.files)) * 1e-6


class Rails:
    """Power rails by name: all of a board, or those that `wanted` names."""

    def __init__(self, kind: str, found: Mapping[str, Rail], wanted: Sequence[str] = ()) -> None:
        self._kind, self._rails = kind, chosen(found, wanted, "power rail")
        self._watts()

    @property
    def about(self) -> str:
        return f"{self._kind}: {', '.join(self._rails)}"

    def measure(self, work: Callable[[], object]) -> Reading:
        samples: list[tuple[float, float]] = []
        done = threading.Event()

        def sample() -> None:
            while True:
                samples.append((time.perf_counter(), self._watts()))
                if done.wait(1 / _HZ):
                    break
            samples.append((time.perf_counter(), self._watts()))

        with ThreadPoolExecutor(1) as pool:
            began = time.perf_counter()
            sampling = pool.submit(sample)
            try:
                work()
            finally:
                done.set()
        sampling.result()
        return _integrated(samples, began, time.perf_counter())

    def _watts(self) -> float:
        return sum(rail.watts for rail in self._rails.values())


def hwmon(wanted: Sequence[str] = (), root: Path = HWMON) -> Rails:
    """The rails of power monitors: INA226 and their like. Chips on the PMBus are left to `pmbus`."""
    found = _rails(root, _monitored)
    if not found:
        raise MissingError(f"no power rail under {root}: no INA226 or its like, or no driver for it")
    return Rails("hwmon", found, wanted)


def pmbus(wanted: Sequence[str] = (), root: Path = HWMON) -> Rails:
    """The outputs of the regulators on a PMBus, as Linux's pmbus drivers show them."""
    found = _rails(root, _regulated)
    if not found:
        raise MissingError(f"no regulator with readable outputs under {root}: no PMBus, or no driver for it")
    return Rails("PMBus", found, wanted)


def _rails(root: Path, of: Callable[[Path, str], Iterator[tuple[str, Rail]]]) -> dict[str, Rail]:
    """Rails by name; chips of one name are told apart by their addresses."""
    found = []
    for file in sorted(root.glob("hwmon*/name")):
        chip = file.parent
        label = chip / "label"
        address = (chip / "device").resolve().name if (chip / "device").exists() else chip.name
        named = of(chip, text(label if label.is_file() else file))
        found += [(name, f"{name}@{address}", rail) for name, rail in named]
    names = [name for name, _, _ in found]
    return {name if names.count(name) == 1 else full: rail for name, full, rail in found}


def _monitored(chip: Path, name: str) -> Iterator[tuple[str, Rail]]:
    """A monitor's rails: by the power that it reads, or by the voltage and current of a channel."""
    if _outputs(chip):
        return
    powers = sorted(chip.glob("power*_input"))
    for path in powers:
        label = path.with_name(path.name.replace("_input", "_label"))
        yield text(label) if label.is_file() else f"{name}.{path.name.removesuffix('_input')}", Rail((path,))
    for current in [] if powers else sorted(chip.glob("curr*_input")):
        channel = current.name.removeprefix("curr").removesuffix("_input")
        voltage, label = chip / f"in{channel}_input", chip / f"in{channel}_label"
        if voltage.is_file():
            rail = text(label) if label.is_file() else f"{name}.{channel}"
            yield rail, Rail((voltage, current))


def _regulated(chip: Path, name: str) -> Iterator[tuple[str, Rail]]:
    """A regulator's outputs, whose input `pin` holds them once more."""
    outputs = _outputs(chip)
    for page in sorted({label.removeprefix("vout").removeprefix("pout") for label in outputs}):
        power, voltage, current = (outputs.get(f"{kind}out{page}") for kind in "pvi")
        if power is not None:
            yield f"{name}.out{page}", Rail((power,))
        elif voltage is not None and current is not None:
            yield f"{name}.out{page}", Rail((voltage, current))


def _outputs(chip: Path) -> dict[str, Path]:
    """The files of what a regulator puts out, by the labels that pmbus drivers give: vout1, iout1, pout1."""
    labels = {text(path): path for kind in ("in", "curr", "power") for path in chip.glob(f"{kind}*_label")}
    return {
        label: path.with_name(path.name.replace("_label", "_input"))
        for label, path in labels.items()
        if label.startswith(("vout", "iout", "pout"))
    }


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
            rows = list(csv.DictReader(text(self._path).splitlines()))
            return [(float(row["seconds"]), float(row["watts"])) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self._path} needs the columns seconds and watts, all numbers") from error


def _integrated(samples: Sequence[tuple[float, float]], began: float, ended: float) -> Reading:
    """Watts over a stretch, straight between samples."""
    inside = [s for s in samples if began <= s[0] <= ended]
    if len(inside) < _FEWEST_SAMPLES:
        raise UsageError(f"{len(inside)} readings in {ended - began:.1f} s are too few")
    times, watts = (np.array(column) for column in zip(*inside, strict=True))
    if not (watts >= 0).all() or not np.isfinite(watts).all():
        raise UsageError("some of the meter's watts are negative or not finite")
    if (np.diff(times) <= 0).any():
        raise UsageError("the meter's seconds do not rise")
    hz = (len(times) - 1) / (times[-1] - times[0])
    gaps = max(times[0] - began, ended - times[-1], float(np.diff(times).max()))
    if gaps > 5 / hz + 0.5:
        raise UsageError(f"the meter says nothing of {gaps:.1f} s")
    edges = np.concatenate([[began], times, [ended]])
    levels = np.concatenate([watts[:1], watts, watts[-1:]])
    return Reading(float(np.trapezoid(levels, edges)), ended - began, float(hz))
