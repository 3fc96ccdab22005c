"""Averaged weights and their batch-norm statistics are those of torch.optim.swa_utils; they resume."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

import e2compile
from e2compile.artefact import statistics
from e2compile.errors import UsageError
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Pass, capture
from e2compile.runtime import checkpoint, fit
from e2compile.runtime.averaging import estimate_statistics
from e2compile.runtime.export import choose_state
from e2compile.runtime.fit import Event, Options, Run
from e2compile.runtime.loader import evaluation
from e2compile.runtime.program import Program
from tests.commands import run as command

EPOCHS, START = 4, 0.5
BATCH = 64
EPS = 2.0**-23


class Net(nn.Module):
    """Two batch norms with momenta of their own, and a block that a gate can leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=0.3)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.stem(x)))
        logits: Tensor = self.head((x + self.second(self.conv(x))).mean((2, 3)))
        return logits


def compiled(folder: Path, *passes: Pass) -> Program:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    batch = (torch.zeros(BATCH, 1, 8, 8), torch.zeros(BATCH).long())
    graph = capture(model, batch, None, optimizer, data="digits", epochs=EPOCHS).apply(*passes)
    return e2compile.compile(graph, output=folder, verify=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("plain") / "out").folder


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("dropping") / "out", BatchDrop(p=0.3), SignPredict()).folder


@pytest.fixture
def folder(dropping: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dropping, tmp_path / "out"))


def train(folder: Path, watch: Any = None, **options: Any) -> Run:
    run = Run(Program(folder), None, Options(**({"swa_start": START} | options)))
    run.go(watch)
    return run


def loaded(program: Program) -> Net:
    model = Net()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in program.state_dict().items()})
    return model


def distance(found: Any, expected: Tensor) -> float:
    """Of two tensors, as a share of the expected one's largest value."""
    return float((torch.as_tensor(found) - expected).abs().max() / expected.abs().max())


# Against torch.optim.swa_utils


def test_weights_statistics_and_scores_are_those_of_pytorch(plain: Path, tmp_path: Path) -> None:
    """The snapshots are the program's own; average, batch-norm pass and scores are PyTorch's."""
    run = Run(Program(shutil.copytree(plain, tmp_path / "out")), None, Options(swa_start=START))
    averaged = AveragedModel(Net())
    per_epoch = run.loader.steps_per_epoch

    def watch(event: Event) -> None:
        if event.position % per_epoch == 0 and event.position > START * event.total:
            averaged.update_parameters(loaded(run.program))

    results = run.go(watch)
    assert results.averaged_epochs == int(averaged.n_averaged) == EPOCHS // 2
    batches = [run.loader.batch(EPOCHS * per_epoch + step) for step in range(per_epoch)]
    update_bn([torch.from_numpy(x) for x, _ in batches], averaged)
    again = Program(run.program.folder)
    assert choose_state(again, which="averaged") == "the averaged state of run 'default'"
    found, expected = loaded(again).state_dict(), averaged.module.state_dict()
    for name, _ in averaged.module.named_parameters():
        # PyTorch rounds once a snapshot, here it is once in all
        assert distance(found[name], expected[name]) <= 2 * EPS, name
    # sums over 64 images of 36 pixels, in float32 in different orders: a rounding or two of each in the mean
    moments = [name for name in expected if "running" in name]
    assert len(moments) == 4
    for name in moments:
        assert distance(found[name], expected[name]) <= 8 * EPS, name
    averaged.eval()
    correct, losses, samples = 0, 0.0, 0
    for x, y, valid in evaluation(run.dataset.test, BATCH, run.augment):
        with torch.no_grad():
            output, target = averaged(torch.from_numpy(x[:valid])), torch.from_numpy(y[:valid])
        losses += float(nn.functional.cross_entropy(output, target, reduction="sum"))
        correct, samples = correct + int((output.argmax(1) == target).sum()), samples + valid
    assert results.averaged_accuracy == correct / samples
    assert results.averaged_test_loss == pytest.approx(losses / samples, rel=1e-5)
    assert results.averaged_accuracy != results.accuracy


def test_statistics_of_a_run_are_not_those_of_its_average(plain: Path, tmp_path: Path) -> None:
    """What the test above would not see if it compared a thing with itself."""
    run = train(Path(shutil.copytree(plain, tmp_path / "out")))
    again = Program(run.program.folder)
    choose_state(again, which="averaged")
    last, averaged = run.program.weights(), again.weights()
    assert last.keys() == averaged.keys()
    for name in last:
        if name.endswith(("weight", "running_mean", "running_var")):
            assert distance(averaged[name], torch.from_numpy(last[name])) > 1e-3, name


def test_signs_estimate_what_their_integer_convolutions_compute(dropping: Path) -> None:
    """8-bit codes move a batch's moments by about a hundredth of their size."""
    program = Program(dropping)
    run = Run(program, None, Options())
    model = loaded(program)
    batches = [(step, run.loader.batch(step)) for step in range(5)]
    update_bn([torch.from_numpy(x) for _, (x, _) in batches], model)
    found = estimate_statistics(program, program.parameters(), batches)
    assert len(found) == 4
    for name, value in found.items():
        assert 0 < distance(value, model.state_dict()[name]) < 0.03, name


def test_a_block_that_no_sample_runs_keeps_its_statistics(tmp_path: Path) -> None:
    program = compiled(tmp_path / "out", LayerGate(first=True, floor=0.0))
    run = Run(program, None, Options())
    closed = program.parameters()
    closed["slu.head.bias"] = np.full_like(closed["slu.head.bias"], -1e3)
    found = estimate_statistics(program, closed, [(step, run.loader.batch(step)) for step in range(2)])
    assert set(found) == {"first.running_mean", "first.running_var"}


# What a program says of its statistics


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fixed = nn.BatchNorm2d(1, momentum=0.5), nn.BatchNorm2d(1).eval()
        self.still = nn.BatchNorm2d(1, track_running_stats=False)

    def train(self, mode: bool = True) -> "Twice":
        super().train(mode)
        self.fixed.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.still(self.fixed(self.norm(self.norm(x)))).flatten(1)
        return logits


def test_shares_are_momenta_by_the_names_of_the_module() -> None:
    batch = (torch.randn(4, 1, 8, 8), torch.zeros(4).long())
    found = statistics(capture(Net(), batch).training)
    wanted = {"first": 0.1, "second": 0.3}
    assert found == pytest.approx({f"{n}.running_{m}": v for n, v in wanted.items() for m in ("mean", "var")})


def test_a_norm_called_twice_has_the_share_of_two_steps() -> None:
    batch = (torch.randn(4, 1, 2, 2), torch.zeros(4).long())
    found = statistics(capture(nn.Sequential(Twice(), nn.Linear(4, 2)), batch).training)
    assert found == {"0.norm.running_mean": 0.75, "0.norm.running_var": 0.75}


# A run


def checkpointed(folder: Path, run: str = "default") -> dict[str, bytes]:
    found = checkpoint.newest(folder / "runs" / run / "checkpoints", Program(folder).manifest.fingerprint)
    assert found is not None
    return {name: value.tobytes() for name, value in found[1].items()}


def results(folder: Path, run: str = "default") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "runs" / run / "results.json").read_text())
    return {name: value for name, value in content.items() if name not in ("seconds", "images_per_second")}


def test_averaging_does_not_change_the_run(folder: Path) -> None:
    with_average = train(folder, run="with").program
    without = train(folder, run="without", swa_start=None).program
    assert with_average.position == without.position
    for name, value in without.arrays().items():
        assert np.array_equal(with_average.arrays()[name], value), name
    kept = checkpointed(folder, "with")
    average = {name for name in kept if name.startswith("run.average.")}
    assert average
    assert {n: v for n, v in kept.items() if n not in average} == checkpointed(folder, "without")
    changed = {
        name for name, value in results(folder, "with").items() if results(folder, "without")[name] != value
    }
    assert changed == {"averaged_epochs", "averaged_accuracy", "averaged_test_loss"}
    assert not (folder / "runs" / "without" / "averaged.safetensors").exists()


def test_what_the_average_takes_is_counted_as_executed(folder: Path) -> None:
    """Against the program's own calls: an epoch of steps for the statistics, and the test once more."""
    calls = Counter[str]()
    run = Run(Program(folder), None, Options(swa_start=START))
    for name in ("execute", "predict"):
        method = getattr(run.program, name)

        def counting(batch: Any, name: str = name, method: Any = method) -> Any:
            calls[name] += 1
            return method(batch)

        setattr(run.program, name, counting)
    run.go()
    found = run.executed(tested=True)
    assert (found.steps, found.evaluated) == (calls["execute"], calls["predict"])
    assert found.scheduled - found.steps == run.progress.position - run.progress.executed


@pytest.mark.parametrize("stop", [37, 61, 80])
def test_a_resumed_run_has_the_same_average(folder: Path, stop: int) -> None:
    """Stopped before the average begins, in the midst of it, and after the last step."""

    def interrupt(event: Event) -> None:
        if event.position == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, interrupt)
    train(folder, resume=True)
    train(folder, run="whole")
    assert checkpointed(folder) == checkpointed(folder, "whole")
    assert results(folder) == results(folder, "whole")
    files = [(folder / "runs" / run / "averaged.safetensors").read_bytes() for run in ("default", "whole")]
    assert files[0] == files[1]


def test_an_interrupt_while_statistics_are_taken_leaves_the_run_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(program: Program, *rest: Any) -> Any:
        estimate_statistics(program, *rest)
        raise KeyboardInterrupt

    run = Run(Program(folder), None, Options(swa_start=START))
    with monkeypatch.context() as patch:
        patch.setattr(fit, "estimate_statistics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.go()
    kept = checkpointed(folder)
    assert run.program.position == run.total
    assert {name: kept[name] for name in run.program.arrays()} == {
        name: value.tobytes() for name, value in run.program.arrays().items()
    }
    train(folder, resume=True)
    train(folder, run="whole")
    assert results(folder) == results(folder, "whole")


@pytest.mark.parametrize(
    "first",
    [{"swa_start": None}, {"swa_start": 0.25}, {"steps": 60, "swa_start": 0.5}],
    ids=["none", "earlier", "shorter"],
)
def test_a_run_does_not_go_on_with_another_average(folder: Path, first: dict[str, Any]) -> None:
    train(folder, **({"steps": 60} | first))
    before = checkpointed(folder)
    with pytest.raises(UsageError, match="same --swa-start and length"):
        train(folder, resume=True)
    assert checkpointed(folder) == before


def test_a_run_may_begin_to_average_later(folder: Path) -> None:
    train(folder, steps=30, swa_start=None)
    train(folder, resume=True)
    train(folder, run="whole")
    assert checkpointed(folder) == checkpointed(folder, "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"swa_start": 1.0}, "a share of the run, at least 0 and below 1, not 1.0"),
        ({"swa_start": -0.1}, "a share of the run"),
        ({"swa_start": float("nan")}, "a share of the run"),
        ({"swa_start": 0.0, "steps": 19}, "no epoch ends after step 0 of 19, .* an epoch has 20 steps"),
        ({"swa_start": 0.9, "steps": 39}, "no epoch ends after step 35 of 39"),
    ],
)
def test_refuses_what_leaves_nothing_to_average(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(folder, **options)
    assert not (folder / "runs").exists()


def test_the_command_line_trains_evaluates_and_exports_the_average(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", folder, "--swa-start", "0.5", "--json", tmp_path / "r.json") == 0
    assert "(weights after 2 epochs)" in capsys.readouterr().out
    trained = json.loads((tmp_path / "r.json").read_text())
    assert command("evaluate", folder, "--averaged", "--json", tmp_path / "e.json") == 0
    assert "the averaged state of run 'default'" in capsys.readouterr().out
    scored = json.loads((tmp_path / "e.json").read_text())
    assert (scored["accuracy"], scored["loss"]) == (
        trained["averaged_accuracy"],
        trained["averaged_test_loss"],
    )
    assert command("export", folder, "--averaged", "-o", tmp_path / "w.safetensors") == 0
    from safetensors.torch import load_file

    Net().load_state_dict(load_file(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--swa-start", "1"), "--swa-start"),
        (("train", "--swa-start", "soon"), "--swa-start"),
        (("train", "--swa-start", "0.5", "--steps", "3"), "no epoch ends after step 2 of 3"),
        (("evaluate", "--averaged"), "has no run 'default'"),
        (("evaluate", "--averaged", "--best"), "--best and --averaged exclude each other"),
        (("export", "--averaged", "--initial"), "--averaged and --initial exclude each other"),
    ],
)
def test_the_command_line_refuses(
    folder: Path, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = arguments
    assert command(verb, folder, *rest) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_an_average_says_how_to_have_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", folder, "--steps", "3") == 0
    capsys.readouterr()
    assert command("evaluate", folder, "--averaged") == 2
    assert "run 'default' has no averaged state: it is made at the end of a run with --swa-start" in (
        capsys.readouterr().err
    )
