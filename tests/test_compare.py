"""Plain against rewritten training, and a plain run of equal joules."""

import json
from pathlib import Path

import numpy as np
import pytest

import e2compile
from e2compile.compare import compress
from tests.commands import run


def test_a_shortened_run_takes_the_whole_schedule(program_folder: Path) -> None:
    program = e2compile.load(program_folder)
    whole = program.rates = np.arange(10, dtype=np.float32).reshape(10, 1)
    compress(program, 50, 100)
    assert program.rates[:, 0].tolist() == [0, 2, 4, 6, 8]
    program.rates = whole
    compress(program, 100, 100)
    assert (program.rates == whole).all()


def test_compare_trains_all_three(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compare.json"
    command = (
        "compare",
        model_file,
        "--passes",
        "smd",
        "--no-verify",
        "-o",
        tmp_path / "out",
        "--json",
        path,
    )
    assert run(*command) == 0
    assert "plain, shortened" in capsys.readouterr().out
    content = json.loads(path.read_text())
    plain, rewritten, shortened = content["rows"]
    assert shortened["joules"] <= rewritten["joules"] < plain["joules"]
    assert plain["steps"] == 40 > rewritten["steps"] >= shortened["steps"]
    assert {each["energy"]["tag"] for each in content["runs"]} == {"modelled"}
    first = [each["results"]["loss"][0] for each in content["runs"]]
    assert first[0] == first[2]


def test_there_must_be_passes_to_compare(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", model_file, "--passes", "none") == 2
    assert "nothing to compare" in capsys.readouterr().err
