"""Compiling with --tune: the program, its place in the cache, what is shown, what is refused."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import e2compile
from e2compile import display
from e2compile.errors import UsageError
from e2compile.lower.workload import Contraction
from e2compile.pipeline import TrainingGraph
from e2compile.targets import TuningProgress
from e2compile.targets.llvm import tuning
from e2compile.targets.llvm.choices import candidates
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tuning_table import Measured
from tests.commands import run
from tests.small import contents, tiny

TABLE = "tuning.json"
# A linear layer's, whose weight lies as PyTorch has it, in a step that wants no gradient of its input.
METHODS = ["input_gradient", "weight_gradient"]
MODEL = """
import torch

model = torch.nn.Linear(4, 3)
batch = (torch.randn(8, 4), torch.randint(0, 3, (8,)))
"""


@pytest.fixture(scope="module")
def graph() -> TrainingGraph:
    return tiny()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("E2COMPILE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_a_tuned_program_is_verified_and_has_a_place_of_its_own_in_the_cache(
    graph: TrainingGraph, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Contraction] = []

    def second(contraction: Contraction, machine: Machine) -> Measured:
        seen.append(contraction)
        return Measured(candidates(contraction, machine)[1], 0.5)

    monkeypatch.setattr(tuning, "measured", second)
    reports: list[TuningProgress] = []
    plain = e2compile.compile(graph, output=tmp_path / "plain", verify=False)
    tuned = e2compile.compile(graph, output=tmp_path / "tuned", tune=1000, progress=reports.append)
    assert sorted(contraction.method for contraction in seen) == METHODS
    assert [(report.done, report.total, report.faster) for report in reports] == [
        *((0, 2, 0), (1, 2, 1), (2, 2, 2)),
    ]
    assert json.loads((tuned.folder / "verify" / "verify.json").read_text())["passed"] is True
    assert (plain.folder / "program").is_dir()
    assert contents(plain.folder / "program") != contents(tuned.folder / "program")

    phases: list[str] = []
    options = {"tune": 1000, "watch": lambda phase, _: phases.append(phase)}
    again = e2compile.compile(graph, output=tmp_path / "again", progress=reports.append, **options)
    assert len(seen) == 2
    assert (reports[-1].done, reports[-1].faster) == (2, 2)
    assert "from the cache" in phases
    assert contents(again.folder / "program") == contents(tuned.folder / "program")
    kept = (own_cache / TABLE).read_bytes()
    e2compile.compile(graph, output=tmp_path / "anew", verify=False, cache=False, tune=1000)
    assert len(seen) == 4
    assert (own_cache / TABLE).read_bytes() == kept


def test_the_command_line_measures_and_shows_it(
    model: Path, own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--passes", "none", "--tune", "1", "-o", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "tuning: 1 of 2 contractions, " in shown
    assert "verification    passed" in shown
    (entries,) = json.loads((own_cache / TABLE).read_text()).values()
    assert {entry["method"] for entry in entries} <= set(METHODS)


def test_a_terminal_shows_a_bar_while_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(display, "out", Console(file=shown, force_terminal=True, width=120))
    with display.working("compiling it") as status:
        tuning_shown = display.Tuning(status)
        tuning_shown(TuningProgress(1, 4, 1, 2.0, 30.0))
        display.out.print(status.status)
        assert "1 of 4 contractions, 1 faster, 2 of 30 s" in shown.getvalue()
        tuning_shown(TuningProgress(4, 4, 1, 9.0, 30.0))
        assert str(status.status) == "compiling it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tune", "0"), "Must be >= 1"),
        (("--tune", "-3"), "Must be >= 1"),
        (("--tune", "soon"), "unable to convert"),
        (("--tune", "2", "--target", "fpga"), "target fpga cannot be tuned"),
        (("--tune", "2", "--host", "aarch64-linux-gnu:cortex-a53"), "are not measured on this machine"),
    ],
    ids=["zero", "negative", "no number", "fpga", "another machine"],
)
def test_what_cannot_be_tuned_is_refused(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--passes", "none", *arguments, "-o", tmp_path / "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_no_number_of_seconds(graph: TrainingGraph, seconds: float) -> None:
    with pytest.raises(UsageError, match=f"a number of seconds above 0, not {seconds}"):
        e2compile.compile(graph, tune=seconds)


def test_a_damaged_table_stops_a_tuned_compilation_alone(
    graph: TrainingGraph, own_cache: Path, tmp_path: Path
) -> None:
    own_cache.mkdir()
    (own_cache / TABLE).write_text("{")
    with pytest.raises(UsageError, match=f"{TABLE} is damaged"):
        e2compile.compile(graph, output=tmp_path / "out", tune=1)
    assert not (tmp_path / "out").exists()
    e2compile.compile(graph, output=tmp_path / "out", verify=False)
