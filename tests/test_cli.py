"""The command line compiling and training: every exit code, an interrupted run."""

import json
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import e2compile
from e2compile import display
from e2compile.runtime import checkpoint
from e2compile.task import load_task
from tests.commands import python, run

UNSUPPORTED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return torch.special.i1e(self.linear(x).cumsum(1))

model = Net()
batch = (torch.randn(8, 4), torch.randint(0, 3, (8,)))
"""
LINEAR = """
import torch

model = torch.nn.Linear(4, 3)
batch = (torch.randn(8, 4), torch.randint(0, 3, (8,)))
"""
OWN_DATA = """
x = torch.randn(640, 1, 8, 8)
data = torch.utils.data.TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Compiling


def test_compiles_from_the_cache_and_says_what_is_next(
    model_file: Path, program_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program_folder.is_dir()
    assert run(model_file, "--passes", "smd", "--set", "smd.p=0.5", "-o", tmp_path / "made") == 0
    shown = capsys.readouterr().out
    for expected in ("from the cache", "imported and captured", "closest to its bound", "smd"):
        assert expected in shown
    assert f"e2compile train {tmp_path / 'made'}" in shown
    assert e2compile.load(tmp_path / "made").manifest.seed == 0


def test_a_program_from_the_cache_takes_no_tvm(
    model_file: Path, program_folder: Path, tmp_path: Path
) -> None:
    assert program_folder.is_dir()
    code = "import sys; from e2compile.cli import main\nprint(main(sys.argv[1:]), 'tvm' in sys.modules)"
    found = python(code, model_file, "--passes", "smd", "--set", "smd.p=0.5", "-o", tmp_path / "made")
    assert "from the cache" in found.stdout
    assert found.stdout.splitlines()[-1] == "0 False"


def test_the_output_is_named_after_the_model_file(
    model_file: Path, program_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program_folder.is_dir()
    monkeypatch.chdir(tmp_path)
    assert run(model_file, "--seed", "7") == 0
    assert e2compile.load(tmp_path / "out" / "digits").manifest.seed == 7


def test_trains_right_away_on_the_model_files_own_dataset(
    model_file: Path, program_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program_folder.is_dir()
    own = written(tmp_path / "digits.py", model_file.read_text() + OWN_DATA)
    assert run(own, "-o", tmp_path / "made", "--train", "1") == 0
    shown = capsys.readouterr().out
    assert "own data" in shown
    assert "scheduled steps" in shown
    results = json.loads((tmp_path / "made" / "runs" / "default" / "results.json").read_text())
    assert results["steps_scheduled"] == 8  # 640 less a tenth for the test, less a tenth, in batches of 64


def test_without_passes_every_step_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = written(tmp_path / "linear.py", LINEAR)
    assert run(model, "--passes", "none", "--no-verify", "--no-cache", "-o", tmp_path / "out") == 0
    assert "not done (--no-verify)" in capsys.readouterr().out
    program = e2compile.load(tmp_path / "out")
    assert program.manifest.passes == ()
    assert all(program.keep(step) for step in range(20))


def test_starts_from_a_given_state(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model = written(tmp_path / "linear.py", LINEAR)
    start = {"weight": np.full((3, 4), 0.5, np.float32), "bias": np.zeros(3, np.float32)}
    save_file(start, tmp_path / "start.safetensors")
    arguments = ("--init", tmp_path / "start.safetensors", "--no-verify", "-o", tmp_path / "out")
    assert run(model, "--passes", "none", *arguments) == 0
    assert np.array_equal(e2compile.load(tmp_path / "out").state_dict()["weight"], start["weight"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "cuda"), 4, "target cuda is not in this version; there is cpu"),
        (("--target", "tpu"), 2, "no target 'tpu'; there is cpu"),
        (("--passes", "smdd"), 2, "no pass 'smdd'; there is smd, slu, psg, int8, or none"),
        (("--set", "smd.p"), 2, "write it as pass.option=value"),
        (("--set", "smd=0.5"), 2, "write it as pass.option=value"),
        (("--set", "smd.q=1"), 2, "pass smd has no option 'q'; it has p"),
        (("--set", "smd.p=half"), 2, "'half' is not a number"),
        (("--set", "smd.p=1.5"), 2, "0 <= p < 1, not 1.5"),
        (("--set", "smd.p=nan"), 2, "0 <= p < 1, not nan"),
        (
            ("--passes", "slu", "--set", "slu.target_skip=1"),
            2,
            "slu.target_skip must be at least 0 and below 1.0, not 1.0",
        ),
        (("--set", "slu.target_skip=0.2"), 2, "pass slu is not among those chosen (smd, psg)"),
        (("--set", "slu.granularity=row"), 2, "'row' is not one of sample, batch"),
        (("--set", "psg.preset=cheap"), 2, "'cheap' is not one of hardware, paper"),
        (("--set", "psg.scale=log"), 2, "'log' is not one of max, power"),
        (("--set", "psg.beta=half"), 2, "'half' is not a number"),
        (("--set", "psg.beta=2"), 2, "a share of the largest magnitude, 0 .. 1, not 2.0"),
        (("--set", "xyz.p=1"), 2, "no pass 'xyz'"),
        (("--passes", "none", "--set", "smd.p=0.1"), 2, "pass smd is not among those chosen (none)"),
        (("--seed", "-1"), 2, "--seed"),
        (("--seed", "one"), 2, "--seed"),
        (("--train", "0"), 2, "--train"),
        (("--frobnicate",), 2, "--frobnicate"),
        (("--init", "nowhere.safetensors"), 2, "nowhere.safetensors"),
    ],
)
def test_refuses(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    model_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(model_file, "-o", tmp_path / "out", *arguments) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert leftovers(tmp_path) == []


def test_a_missing_or_broken_model_file_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none.py") == 2
    assert "none.py is not a file" in capsys.readouterr().err
    assert run(written(tmp_path / "broken.py", "x = 1\ny = x / 0\n")) == 2
    assert "broken.py:2" in capsys.readouterr().err
    assert run(written(tmp_path / "empty.py", "x = 1\n")) == 2
    assert "does not define model and batch" in capsys.readouterr().err


def test_names_every_unsupported_operator_with_the_users_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = written(tmp_path / "odd.py", UNSUPPORTED)
    assert run(model, "-o", tmp_path / "out") == 3
    shown = capsys.readouterr().err
    line = UNSUPPORTED.splitlines().index("        return torch.special.i1e(self.linear(x).cumsum(1))") + 1
    assert "aten.cumsum" in shown
    assert "i1e" in shown
    assert f"odd.py:{line}: return torch.special.i1e" in shown
    assert leftovers(tmp_path) == ["odd.py"]


def test_a_program_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ROUNDING_FACTOR", "FLOOR", "EPSILON32"):
        monkeypatch.setattr(f"e2compile.verification.verify.{name}", 0.0)
    model = written(tmp_path / "linear.py", LINEAR)
    assert run(model, "--no-cache", "-o", tmp_path / "out") == 5
    assert "allowed is 0" in capsys.readouterr().err
    assert leftovers(tmp_path) == ["linear.py"]


def test_a_folder_that_is_no_program_is_left_alone(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "thesis.txt", "months of work")
    assert run(model_file, "-o", tmp_path) == 2
    assert "is not a Program" in capsys.readouterr().err
    assert leftovers(tmp_path) == ["thesis.txt"]


def test_a_bug_keeps_its_traceback_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("e2compile.artefact.write_state", broken)
    model = written(tmp_path / "linear.py", LINEAR)
    with pytest.raises(RuntimeError, match="a bug"):
        run(model, "--passes", "none", "--no-verify", "--no-cache", "-o", tmp_path / "out")
    assert leftovers(tmp_path) == ["linear.py"]


# Training and evaluating


def test_trains_evaluates_and_exports(
    program_copy: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", program_copy, "--epochs", "3", "--json", tmp_path / "r.json") == 0
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["steps_scheduled"] == 60
    assert 0 < results["steps_executed"] < 60
    assert len(results["loss"]) == results["steps_executed"]
    assert results["loss"][-1] < results["loss"][0]
    assert results["executed"] == results["predicted"] == {}
    assert results["seconds"] > 0
    assert f"executed steps   {results['steps_executed']}" in shown
    assert "step 60 of 60" in shown

    assert run("evaluate", program_copy, "--json", tmp_path / "e.json") == 0
    assert "run 'default' after 60 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["accuracy"] == results["accuracy"]
    assert run("evaluate", program_copy, "--best") == 0
    assert "the best state of run 'default'" in capsys.readouterr().out

    assert run("export", program_copy, "-o", tmp_path / "w.safetensors") == 0
    model = load_task(str(model_file)).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert run("export", program_copy, "--initial", "-o", tmp_path / "i.safetensors") == 0
    model.load_state_dict(load_file(tmp_path / "i.safetensors"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_untrained_program_is_evaluated_in_its_initial_state(
    program_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", program_copy) == 0
    assert "the initial state" in capsys.readouterr().out
    assert run("evaluate", program_copy, "--run", "other") == 2
    assert "has no run 'other'; it has none" in capsys.readouterr().err
    assert run("evaluate", program_copy, "--best") == 2
    assert "has no run 'default'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "1", "--steps", "5"), "not both"),
        (("--steps", "0"), "--steps"),
        (("--run", "../escape"), "a run's name"),
        (("--data", "nonsense"), "no data 'nonsense'"),
        (("--checkpoint-every", "0"), "--checkpoint-every"),
        (("--json", "no/such/folder.json"), "cannot write"),
    ],
)
def test_refuses_to_train(
    arguments: tuple[str, ...], message: str, program_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", program_copy, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (program_copy / "runs").exists()


def test_a_program_without_named_data_asks_for_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = written(tmp_path / "linear.py", LINEAR)
    assert run(model, "--passes", "none", "--no-verify", "-o", tmp_path / "out") == 0
    assert run("train", tmp_path / "out") == 2
    assert "give one with --data" in capsys.readouterr().err


def test_shows_a_bar_on_a_terminal(program_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(display, "out", Console(force_terminal=True, file=screen, width=140, highlight=False))
    assert run("train", program_copy, "--steps", "30") == 0
    for expected in ("30/30", "images/s", "executed", "loss"):
        assert expected in screen.getvalue()
    assert "step 30 of" not in screen.getvalue()


def test_interrupted_by_ctrl_c_it_resumes_to_the_same_bits(program_copy: Path) -> None:
    command = [sys.executable, "-m", "e2compile", "train", str(program_copy)]
    process = subprocess.Popen(
        [*command, "--steps", "1000000", "--checkpoint-every", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoints = program_copy / "runs" / "default" / "checkpoints"
    deadline = time.monotonic() + 600
    while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown, complaint = process.communicate(timeout=600)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert f"e2compile train {program_copy} --resume --steps 1000000" in shown

    program = e2compile.load(program_copy)
    found = checkpoint.newest(checkpoints, program.manifest.fingerprint)
    assert found is not None
    reached = found[0].position
    assert f"interrupted after step {reached:,}" in shown
    assert run("train", program_copy, "--resume", "--steps", reached + 25) == 0
    resumed = checkpoint.newest(checkpoints, program.manifest.fingerprint)
    program.fit(steps=reached + 25, run="whole")
    whole = checkpoint.newest(program_copy / "runs" / "whole" / "checkpoints", program.manifest.fingerprint)
    assert resumed is not None
    assert whole is not None
    assert resumed[0].executed == whole[0].executed
    assert resumed[1].keys() == whole[1].keys()
    assert all(np.array_equal(resumed[1][name], value) for name, value in whole[1].items())


def test_training_and_looking_never_import_torch(program_copy: Path, tmp_path: Path) -> None:
    code = """
import sys
from e2compile.cli import main
assert not {"torch", "tvm", "numpy"} & set(sys.modules), "the command line alone is light"
folder, target = sys.argv[1:]
for arguments in (
    ["train", folder, "--steps", "20"], ["evaluate", folder], ["inspect", folder],
    ["inspect", folder, "--stage", "smd"], ["export", folder, "-o", target],
):
    assert main(arguments) == 0, arguments
loaded = [name for name in sys.modules if name.partition(".")[0] == "torch"]
assert not loaded, loaded[:5]
"""
    result = python(code, program_copy, tmp_path / "w.safetensors")
    assert result.returncode == 0, result.stderr
