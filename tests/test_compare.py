"""Plain against rewritten training, and a plain run of equal joules."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import e2compile
from e2compile.bill import Spent
from e2compile.compare import Comparison, Row, Training, compress, plot
from e2compile.runtime.fit import Results
from tests.commands import run


def test_a_shortened_run_takes_the_whole_schedule(program_folder: Path) -> None:
    program = e2compile.load(program_folder)
    whole = program.rates = np.arange(10, dtype=np.float32).reshape(10, 1)
    compress(program, 50, 100)
    assert program.rates[:, 0].tolist() == [0, 2, 4, 6, 8]
    program.rates = whole
    compress(program, 100, 100)
    assert (program.rates == whole).all()


def test_compare_trains_all_three_from_each_seed(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "compare.json", tmp_path / "out"
    length = ("--seeds", "2", "--epochs", "1")
    options = ("--passes", "smd", *length, "--no-verify", "-o", folder, "--json", path)
    assert run("compare", model_file, *options) == 0
    shown = capsys.readouterr().out
    assert "plain, shortened" in shown
    assert "plot in" in shown
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(path.read_text())
    plain, rewritten, shortened = content["rows"]
    assert shortened["joules"] <= rewritten["joules"] < plain["joules"]
    assert plain["steps"] == 20 > rewritten["steps"] >= shortened["steps"]
    runs = content["runs"]
    assert {each["energy"]["tag"] for each in runs} == {"modelled"}
    assert [each["seed"] for each in runs] == [0, 0, 0, 1, 1, 1]
    first = [each["results"]["loss"][0] for each in runs]
    assert first[0] == first[2] != first[3] == first[5]
    for row in content["rows"]:
        mine = [each for each in runs if each["variant"] == row["variant"]]
        assert row["accuracies"] == [each["results"]["accuracy"] for each in mine]
        assert row["accuracy"] == pytest.approx(sum(row["accuracies"]) / 2)
        assert row["joules"] == pytest.approx(sum(each["energy"]["joules"] for each in mine) / 2)


def trained(variant: str, seed: int, joules: float, accuracies: list[float]) -> Training:
    history = [{"step": 10 * (i + 1), "accuracy": accuracy} for i, accuracy in enumerate(accuracies)]
    steps = 10 * len(accuracies)
    results = Results(steps, steps, [], accuracies[-1], 1.0, None, 1.0, 1.0, history=history)
    return Training(variant, seed, results, Spent(joules + 1, joules, 1, "server"))


def test_the_plot_has_a_line_for_each_run_and_a_name_for_each_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tuple(
        trained(variant, seed, joules, [0.5, 0.75])
        for seed in (0, 1)
        for variant, joules in (("plain", 40.0), ("rewritten", 10.0))
    )
    rows = tuple(Row(name, 0.75, (0.75, 0.75), 1.0, 1.0, 1.0, 20) for name in ("plain", "rewritten"))
    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self.axes[0]))
    assert plot(Comparison("cpu", "server", ("smd",), 2, rows, runs), tmp_path / "compare.png")
    (axes,) = drawn
    assert [list(line.get_xdata()) for line in axes.lines] == [[20, 40], [5, 10]] * 2
    assert {tuple(line.get_ydata()) for line in axes.lines} == {(0.5, 0.75)}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "rewritten"]
    assert "modelled (server)" in axes.get_xlabel()


def test_there_is_no_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not plot(Comparison("cpu", "server", (), 1, (), ()), tmp_path / "compare.png")
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_passes_to_compare(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", model_file, "--passes", "none") == 2
    assert "nothing to compare" in capsys.readouterr().err
