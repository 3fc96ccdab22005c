"""A run that is killed and resumed ends as one that was left alone, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import e2compile
from e2compile.errors import UsageError
from e2compile.passes import BatchDrop
from e2compile.pipeline import capture
from e2compile.runtime import checkpoint
from e2compile.runtime.fit import Event, Options, Run
from e2compile.runtime.program import Program

STEPS = 240
EVERY = 7

# Trains in a process of its own; a line a step, so that the test knows when to kill it.
CHILD = f"""
import sys
from pathlib import Path
from e2compile.runtime.fit import Options, Run
from e2compile.runtime.program import Program

def slowly(event):
    print(event.position, flush=True)

options = Options(steps={STEPS}, run="killed", resume=True, checkpoint_every={EVERY})
Run(Program(Path(sys.argv[1])), "digits", options).go(slowly)
assert "torch" not in sys.modules
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))
        return logits


def compiled(folder: Path, seed: int, lr: float = 0.1) -> Program:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    batch = (torch.zeros(16, 1, 8, 8), torch.zeros(16).long())
    graph = capture(model, batch, None, optimizer, schedule, data="digits", epochs=3)
    return e2compile.compile(graph.apply(BatchDrop(p=0.3)), output=folder, seed=seed)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return compiled(tmp_path_factory.mktemp("resume") / "out", seed=1)


@pytest.fixture
def folder(program: Program, tmp_path: Path) -> Path:
    """A copy of the program without runs."""
    copy = tmp_path / "out"
    shutil.copytree(program.folder, copy, ignore=shutil.ignore_patterns("runs"))
    return copy


def train(folder: Path, watch: Any = None, **options: Any) -> tuple[Run, Any]:
    run = Run(Program(folder), None, Options(**({"steps": 40, "checkpoint_every": 10} | options)))
    return run, run.go(watch)


def final(folder: Path, run: str = "default") -> tuple[dict[str, bytes], int]:
    found = checkpoint.newest(folder / "runs" / run / "checkpoints", Program(folder).manifest.fingerprint)
    assert found is not None
    return {name: array.tobytes() for name, array in found[1].items()}, found[0].position


def results(folder: Path, run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "runs" / run / "results.json").read_text())
    for clock in ("seconds", "images_per_second"):
        del content[clock]
    return content


def killed_at(folder: Path, step: int) -> int:
    """Train in another process until it reports a step, and kill it a moment later; gives its last report."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    last = 0
    for line in child.stdout:
        last = int(line)
        if last >= step:
            time.sleep(0.0007 * (step % 5))
            child.send_signal(signal.SIGKILL)
            break
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    return last


def test_three_kills_change_no_bit(folder: Path) -> None:
    for step in (23, 101, 174):
        assert killed_at(folder, step) >= step
    subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, stdout=subprocess.DEVNULL)
    train(folder, run="whole", steps=STEPS, checkpoint_every=EVERY)
    assert final(folder, "killed") == final(folder, "whole")
    assert results(folder, "killed") == results(folder, "whole")
    assert results(folder, "whole")["steps_scheduled"] == STEPS


def test_checkpoints_do_not_change_the_run(folder: Path) -> None:
    train(folder, run="often", checkpoint_every=1)
    train(folder, run="never", checkpoint_every=10_000)
    assert final(folder, "often") == final(folder, "never")


def test_a_run_can_be_prolonged(folder: Path) -> None:
    train(folder, run="long", steps=60)
    train(folder, run="short", steps=25)
    train(folder, run="short", steps=60, resume=True)
    assert final(folder, "short") == final(folder, "long")


def test_losses_are_those_of_executed_steps(folder: Path) -> None:
    _, found = train(folder)
    assert len(found.loss) == found.steps_executed < found.steps_scheduled == 40


def test_an_interrupt_writes_a_checkpoint(folder: Path) -> None:
    def interrupt(event: Event) -> None:
        if event.position == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, interrupt, checkpoint_every=1000)
    assert final(folder)[1] == 17
    train(folder, resume=True)
    train(folder, run="whole")
    assert final(folder) == final(folder, "whole")


def generations(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "default" / "checkpoints").glob("step-*"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "state flipped": lambda p: flip(p / "state.safetensors"),
    "state cut": lambda p: truncate(p / "state.safetensors"),
    "state gone": lambda p: (p / "state.safetensors").unlink(),
    "progress cut": lambda p: truncate(p / "progress.json"),
    "progress gone": lambda p: (p / "progress.json").unlink(),
    "progress empty": lambda p: (p / "progress.json").write_text("{}"),
    "progress no object": lambda p: (p / "progress.json").write_text("[]"),
    "progress edited": lambda p: (p / "progress.json").write_text(
        (p / "progress.json").read_text().replace('"position": 40', '"position": 39')
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder: Path, name: str) -> None:
    train(folder)
    older, newer = generations(folder)
    assert (older.name, newer.name) == ("step-0000000030", "step-0000000040")
    before = final(folder)
    DAMAGE[name](newer)
    assert final(folder)[1] == 30
    train(folder, resume=True)
    assert final(folder) == before


def test_two_damaged_checkpoints_are_an_error(folder: Path) -> None:
    train(folder)
    for path in generations(folder):
        flip(path / "state.safetensors")
    with pytest.raises(UsageError, match="no checkpoint is intact"):
        train(folder, resume=True)


def test_a_half_written_checkpoint_is_not_seen(folder: Path) -> None:
    train(folder)
    shutil.copytree(generations(folder)[1], generations(folder)[1].with_name(".writing-1"))
    assert final(folder)[1] == 40


def test_two_generations_are_kept(folder: Path) -> None:
    train(folder, steps=55)
    assert [p.name for p in generations(folder)] == ["step-0000000050", "step-0000000055"]


def test_a_checkpoint_of_another_program_is_refused(folder: Path) -> None:
    train(folder)
    path = folder / "runs" / "default" / "checkpoints"
    with pytest.raises(UsageError, match="belongs to another program"):
        checkpoint.newest(path, "another fingerprint")


def test_a_resume_under_another_seed_is_refused(folder: Path, tmp_path: Path) -> None:
    """The seed decides what is dropped and drawn: going on under another would be another run."""
    other = compiled(tmp_path / "other", seed=2)
    train(folder)
    shutil.copytree(folder / "runs", other.folder / "runs")
    with pytest.raises(UsageError, match="seed"):
        train(other.folder, resume=True)


def test_a_resume_on_other_data_is_refused(folder: Path) -> None:
    train(folder)
    x, y = np.zeros((200, 1, 8, 8), np.float32), np.arange(200) % 10
    with pytest.raises(UsageError, match="the run was on digits"):
        Run(Program(folder), (x, y), Options(steps=50, resume=True)).go()


def test_a_run_without_resume_starts_anew(folder: Path) -> None:
    train(folder, steps=30)
    train(folder, steps=20)
    assert final(folder)[1] == 20
    assert results(folder, "default")["steps_scheduled"] == 20


def test_resuming_what_was_never_started_starts_it(folder: Path) -> None:
    train(folder, resume=True)
    train(folder, run="whole")
    assert final(folder) == final(folder, "whole")


def test_a_checkpoint_is_whole_or_absent_when_writing_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = train(folder)

    def fails(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(run.folder / "checkpoints", replace(run.progress, position=41), run.program.arrays())
    assert final(folder)[1] == 40
