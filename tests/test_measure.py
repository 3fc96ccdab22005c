"""Measuring a program under a simulated meter: rows that calibrate takes, and their units."""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import e2compile
from e2compile.energy import log as logs
from e2compile.energy.calibrate import calibrate
from e2compile.energy.reading import Reading
from e2compile.errors import UsageError
from e2compile.measure import Part, append, measure
from tests.commands import run


@dataclass
class Steady:
    """A machine that takes two watts whatever it does."""

    about: str = "simulated"

    def measure(self, work: Callable[[], object]) -> Reading:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        return Reading(2 * seconds, seconds, 0.0)


def test_a_program_is_measured_whole_and_in_parts(program_folder: Path, tmp_path: Path) -> None:
    program, path = e2compile.load(program_folder), tmp_path / "mine.csv"
    parts = measure(program, Steady(), seconds=0.05, repeats=2)
    assert [part.name for part in parts] == ["idle", "copy", "step", "evaluate"] * 2
    assert all(part.watts == pytest.approx(2) for part in parts)
    assert all(part.joules_above_idle == pytest.approx(0, abs=1e-9) for part in parts)
    step, evaluation = parts[2], parts[3]
    products = {part.name: part.work["mac.float32"] / part.calls for part in parts[2:4]}
    assert 2.5 < products["step"] / products["evaluate"] < 3
    assert step.calls > 0
    assert evaluation.calls > 0
    append(path, parts, program, Steady())
    append(path, parts[:1], program, Steady())
    found = logs.read(_without_repeats(path))
    assert set(found.groups) == {"idle", "copy", "digits step", "digits evaluate"}
    assert found.joules == pytest.approx(2 * found.columns["time"])
    assert found.about["meter"] == "simulated"
    assert found.about["sampling"] == "a counter, at both ends of a part"
    assert found.about["idle"].startswith("2 W; joules are gross")
    with pytest.raises(UsageError, match="was not measured by another"):
        append(path, parts, program, Steady("another"))


def test_one_programs_log_tells_all_its_prices(program_folder: Path, tmp_path: Path) -> None:
    """Idle rows pin watts, copies bytes, steps products; the evaluations are held out."""
    program, path = e2compile.load(program_folder), tmp_path / "mine.csv"
    parts = measure(program, Steady(), seconds=0.05, repeats=3)

    def priced(part: Part) -> Part:
        moved = sum(amount for quantity, amount in part.work.items() if quantity.endswith("dram"))
        joules = 40e-12 * part.work.get("mac.float32", 0) + 90e-12 * moved + 3 * part.reading.seconds
        return replace(part, reading=replace(part.reading, joules=joules))

    append(path, tuple(map(priced, parts)), program, Steady())
    found = calibrate(path, without=("mac.int8",))
    assert found.joules.held_groups == ("digits evaluate",)
    assert found.joules.held_out is not None
    assert found.joules.held_out.median < 1e-3
    for quantity, value in {"mac.float32": 40, "dram": 90, "time": 3}.items():
        assert found.table.prices[quantity].value == pytest.approx(value, rel=1e-3)


def _without_repeats(path: Path) -> Path:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    return path


def test_a_log_with_other_columns_is_left_alone(program_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("group,joules [J]\n")
    with pytest.raises(UsageError, match="other columns"):
        append(path, (), e2compile.load(program_folder), Steady())
    assert list(csv.reader(path.read_text().splitlines())) == [["group", "joules [J]"]]


def test_a_missing_meter_has_its_exit_code(program_folder: Path, tmp_path: Path) -> None:
    options = ("--meter", "csv", "--meter-file", tmp_path / "absent.csv", "--output", tmp_path / "log.csv")
    assert run("measure", program_folder, *options) == 4
    assert run("measure", program_folder, "--meter", "csv") == 2
    (tmp_path / "watts.csv").write_text("seconds,watts\n")
    assert run("measure", program_folder, *options[:3], tmp_path / "watts.csv", "--output", tmp_path) == 2
    assert not (tmp_path / "log.csv").exists()
