"""A Program whose streams may not be long: several a run, from the table to the export."""

from pathlib import Path

import numpy as np
import pytest

import e2compile
from e2compile.runtime.program import Program
from e2compile.targets import TARGETS
from e2compile.targets.vta.isa.config import named
from e2compile.targets.vta.report import layers
from e2compile.targets.vta.report.export import export
from e2compile.targets.vta.target import VtaTarget
from tests.targets.vta.report.step import Step
from tests.targets.vta.tiny import batch, tiny
from tests.targets.vta.works import small

# 32 accumulators: what is small for others is many tiles for this array.
SMALL = small(named("pynq"), acc=11)
LARGEST = 512


@pytest.fixture(scope="module")
def programs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:  # noqa: ARG001
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, target in {
            "whole": VtaTarget(SMALL),
            "split": VtaTarget(SMALL, largest_transfer=LARGEST),
        }.items():
            patch.setitem(TARGETS, "fpga", target)
            folder = tmp_path_factory.mktemp("splitting") / name
            found[name] = e2compile.compile(tiny(), "fpga", folder, verify=name == "split")
    return found


def test_some_runs_take_several_streams(programs: dict[str, Program]) -> None:
    counts = {
        name: [len(run.streams) for o in program.driver.table.operators for run in o.runs]
        for name, program in programs.items()
    }
    assert set(counts["whole"]) == {1}
    assert len(counts["split"]) == len(counts["whole"])
    assert max(counts["split"]) > 2
    for stream in programs["split"].driver.table.streams:
        assert max(stream.instructions.nbytes, stream.uops.nbytes) <= LARGEST


@pytest.mark.parametrize("device", ["simulator", "simulator:strict"])
def test_steps_give_the_same_bits(programs: dict[str, Program], device: str) -> None:
    split = e2compile.load(programs["split"].folder, device)
    whole = e2compile.load(programs["whole"].folder)
    for seed in range(2):
        assert split.step(batch(seed)).loss == whole.step(batch(seed)).loss
    for name, value in whole.arrays().items():
        np.testing.assert_array_equal(split.arrays()[name], value, name)
    assert split.driver.cycles > whole.driver.cycles  # each stream begins with empty scratchpads


def test_the_report_counts_each_start(programs: dict[str, Program]) -> None:
    table = programs["split"].driver.table
    found = layers.read(programs["split"].folder)
    for operator, row in zip(table.operators, found.rows, strict=True):
        streams = [table.streams[number] for run in operator.runs for number in run.streams]
        assert row.runs == len(streams) * operator.groups
        assert row.each.cost.cycles == sum(stream.cost.cycles for stream in streams) * operator.groups


def test_another_vta_gives_the_same(programs: dict[str, Program], tmp_path: Path) -> None:
    export(programs["split"], batch(), tmp_path / "step")
    step = Step(tmp_path / "step")
    assert max(len(run["streams"]) for run in step.content["runs"]) > 2
    assert step.differing() == []
