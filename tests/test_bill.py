"""What a program's step costs: expected and executed shares, tables, and both verbs of the command line."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

import e2compile
from e2compile.bill import bill
from e2compile.energy.prices import Tag
from e2compile.errors import UsageError
from e2compile.estimate import estimate
from e2compile.passes import BatchDrop, SignPredict
from e2compile.targets import FPGA
from e2compile.targets.vta.report import layers
from tests.commands import run
from tests.small import BATCH, small
from tests.sources import ROOT

LOG = ROOT / "e2compile" / "energy" / "logs" / "x86_server.csv"


def finished(
    folder: Path, scheduled: int, executed: int, fallback: Mapping[str, float] = MappingProxyType({})
) -> None:
    """A run's results without its training."""
    results = {"steps_scheduled": scheduled, "steps_executed": executed, "seconds": 2.0}
    (folder / "runs" / "done").mkdir(parents=True, exist_ok=True)
    (folder / "runs" / "done" / "results.json").write_text(
        json.dumps(results | {"executed": {}, "fallback": dict(fallback)})
    )


def test_dropping_half_the_steps_halves_the_joules(program_folder: Path) -> None:
    found = bill(program_folder)
    assert found.table == "server"
    assert found.after.joules == pytest.approx(found.before.joules / 2, rel=1e-3)
    assert found.after.seconds == pytest.approx(found.before.seconds / 2, rel=1e-3)
    assert [name for name, _ in found.stages] == ["captured", "smd"]
    assert [joules for _, joules in found.stages] == [found.before.joules, found.after.joules]
    assert found.shares["step"].value == 0.5
    assert 0 < found.evaluation < found.before.joules


def test_every_breakdown_adds_up(program_folder: Path) -> None:
    for side in (bill(program_folder).before, bill(program_folder, "reference").after):
        for parts in (side.phases, side.layers, side.places):
            assert sum(parts.values()) == pytest.approx(side.joules)
        assert sum(line.total for line in side.lines) == pytest.approx(side.joules)
        assert {"forward", "backward", "update"} <= set(side.phases)
        assert any(place.startswith("digits.py:") for place in side.places)


def test_executed_is_expected_where_the_shares_are(program_copy: Path) -> None:
    expected = bill(program_copy)
    finished(program_copy, 40, 20)
    executed = bill(program_copy, run="done")
    assert executed.after == expected.after
    assert executed.shares["step"].tag is Tag.MEASURED
    assert executed.run is not None
    assert (executed.run.scheduled, executed.run.executed) == (40, 20)


def test_a_run_that_drops_more_costs_less(program_copy: Path) -> None:
    finished(program_copy, 40, 10)
    assert bill(program_copy, run="done").after.joules < 0.6 * bill(program_copy).after.joules


def test_the_reference_prices_no_seconds(program_folder: Path) -> None:
    found = bill(program_folder, "reference")
    assert found.after.seconds == 0
    assert {line.figure.tag for line in found.after.lines} == {Tag.ASSUMED}


def test_what_cannot_be_priced_is_an_error(program_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no price table 'gold': .* desktop"):
        bill(program_folder, "gold")
    with pytest.raises(UsageError, match="no finished run 'absent'"):
        bill(program_folder, run="absent")
    (tmp_path / "empty.toml").write_text('name = "empty"\n')
    with pytest.raises(UsageError, match=r"empty has no price for .*mac\.float32"):
        bill(program_folder, str(tmp_path / "empty.toml"))


def test_energy_prints_and_writes(
    program_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("energy", program_folder, "--json", tmp_path / "energy.json") == 0
    shown = capsys.readouterr().out
    for text in ("a step after", "by layer", "mac.float32", "modelled [", "assumed [", "1 - smd.p"):
        assert text in shown
    content = json.loads((tmp_path / "energy.json").read_text())
    line = content["after"]["lines"][0]
    assert {"value", "unit", "tag", "source", "date"} <= set(line["figure"])
    assert content["before"]["joules"] > content["after"]["joules"]


def test_a_calibrated_table_prices_a_program(
    program_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    assert run("calibrate", "--log", LOG, "--output", path, "--inherits", "x86", "--name", "mine") == 0
    assert "held out" in capsys.readouterr().out
    assert bill(program_folder, str(path)).after.joules == pytest.approx(bill(program_folder).after.joules)


def test_calibrate_refuses_what_it_cannot_inherit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    assert run("calibrate", "--log", LOG, "--output", path, "--inherits", "gold") == 2
    assert "inherits from 'gold'" in capsys.readouterr().err
    assert not path.exists()


def test_an_arrays_seconds_are_those_that_the_simulator_counts(tmp_path: Path) -> None:
    """On a step in which every layer falls back, and on one in which none does."""
    folder = tmp_path / "fpga"
    graph = small().apply(BatchDrop(p=0.5), SignPredict(fallback="layer", unsure_limit=1.0))
    program = e2compile.compile(graph, "fpga", folder, verify=False, cache=False)
    found = e2compile.load(folder, "simulator")
    batch = [tensor.numpy() for tensor in BATCH]
    assert program.manifest.target == "fpga"
    counters = found.execute(batch).counters
    assert {float(v) for name, v in counters.items() if name.endswith(".fallback")} == {0.0}
    fallback = {name.removesuffix(".fallback"): 0.0 for name in counters if name.endswith(".fallback")}
    finished(folder, 1, 1, fallback)
    rarely, expected = bill(folder, run="done"), bill(folder)
    clock = FPGA.config.board.clock_hz
    assert round(rarely.after.device_seconds * clock, 3) == found.driver.cycles
    finished(folder, 1, 1, dict.fromkeys(fallback, 1.0))
    always = bill(folder, run="done")
    assert always.after.device_seconds > rarely.after.device_seconds
    assert rarely.after.seconds > rarely.after.device_seconds
    assert rarely.before.device_seconds == 0
    assert (rarely.table, rarely.target) == ("pynq", "fpga")
    moved = {line.quantity: line.amount for line in always.after.lines}
    cost = layers.read(folder).totals["step"].cost
    assert moved["read.sram"] == pytest.approx(cost.sram_read_bytes)
    assert moved["write.sram"] == pytest.approx(cost.sram_written_bytes)
    assert moved["read.dram"] > cost.loaded_bytes
    foreseen = estimate(graph, FPGA)
    assert (foreseen.before, foreseen.after) == (expected.before, expected.after)
    assert foreseen.device == expected.device
    watts = {line.quantity: line.figure for line in rarely.after.lines}["time"]
    assert (watts.tag, watts.unit) == (Tag.MEASURED, "W")
