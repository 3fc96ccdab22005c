"""An exported step, read by its description alone and run by the second interpreter, gives what it says."""

from pathlib import Path

import numpy as np
import pytest

import e2compile
from e2compile.errors import UsageError
from e2compile.runtime.program import Program
from e2compile.targets.vta.report.export import export
from tests.commands import run
from tests.small import contents
from tests.targets.vta.report.step import Step
from tests.targets.vta.tiny import batch


@pytest.fixture(scope="module")
def program(fpga_program: Path) -> Program:
    return e2compile.load(fpga_program)


@pytest.fixture(scope="module")
def folder(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported step. Read only."""
    made = tmp_path_factory.mktemp("step")
    export(program, batch(), made)
    return made


def test_another_vta_gives_the_same(folder: Path, program: Program) -> None:
    step = Step(folder)
    assert step.content["base"] == 0x1000
    assert {item["what"] for item in step.content["runs"]} == {
        "forward",
        "input_gradient",
        "weight_gradient",
    }
    assert {item["name"] for item in step.content["runs"]} == {o.name for o in program.driver.table.operators}
    assert step.differing() == []


def test_a_flipped_bit_of_a_weight_is_noticed(folder: Path) -> None:
    step = Step(folder)
    step.content["runs"] = step.content["runs"][:2]
    weights = step.bytes(step.content["runs"][1], "wgt")
    weights[np.flatnonzero(weights)[0]] ^= 0x40
    assert step.differing() == [step.content["runs"][1]["name"]]


def test_the_image_goes_to_any_page(folder: Path, program: Program, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    export(program, batch(), moved, base=0x123000)
    step, other = Step(moved), Step(folder)
    assert step.content["base"] == 0x123000
    assert np.array_equal(step.expected, other.expected)
    assert step.differing() == []


def test_runs_can_go_in_any_order(folder: Path) -> None:
    step = Step(folder)
    step.content["runs"].reverse()
    assert step.differing() == []


def test_the_program_is_as_it_was(program: Program, tmp_path: Path) -> None:
    before, groups = program.arrays(), program.driver.groups_run.copy()
    first = export(program, batch(1), tmp_path / "first")
    assert program.position == 0
    assert program.driver.groups_run == groups
    assert program.driver.watch is None
    for name, array in program.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)
    assert export(program, batch(1), tmp_path / "second") == first
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_what_cannot_be_exported(program: Program, program_folder: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    for base, place, message in (
        (0x1000, full, "exists and is not an empty folder"),
        (0x1000, full / "file", "exists and is not an empty folder"),
        (0x1001, tmp_path / "new", "base address 0x1001 is not a page's: use a multiple of 0x1000"),
        (0xFFFFF000, tmp_path / "new", "does not fit 4 GiB"),
    ):
        with pytest.raises(UsageError, match=message):
            export(program, batch(), place, base)
    with pytest.raises(UsageError, match="target cpu has no streams"):
        export(e2compile.load(program_folder), batch(), tmp_path / "new")
    with pytest.raises(UsageError, match="batch"):
        export(program, batch()[:1], tmp_path / "new")
    assert program.driver.watch is None
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_command_line_exports_a_step(
    fpga_program: Path, program_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "step"
    command = ("export", fpga_program, "--format", "vta", "--output", place)
    assert run(*command, "--base", "0x200000") == 0
    assert "runs of a step from the initial state" in capsys.readouterr().out
    step = Step(place)
    assert step.content["base"] == 0x200000
    step.content["runs"] = step.content["runs"][:2]
    assert step.differing() == []
    assert run(*command) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert run("export", program_folder, "--format", "vta", "-o", tmp_path / "cpu") == 2
    assert "has no streams" in capsys.readouterr().err
    assert run("export", fpga_program, "--base", "0x2000", "-o", tmp_path / "weights") == 2
    assert "go with --format vta" in capsys.readouterr().err
