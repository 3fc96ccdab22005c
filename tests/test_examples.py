"""Each example runs, with fewer images and steps."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import e2compile
from e2compile.passes import BatchDrop
from e2compile.pipeline import capture_task
from e2compile.runtime.datasets import Dataset, arrays
from e2compile.runtime.fit import Options, Run
from e2compile.task import Task, load_task, make_task
from tests.sources import ROOT

EXAMPLES = ROOT / "examples"


def reduced(task: Task, batch: int = 4) -> Task:
    """The task on a small batch of noise."""
    x, y = task.batch
    return make_task(
        task.model,
        (torch.randn(batch, *x.shape[1:]), y[:batch]),
        task.loss,
        task.optimizer,
        task.schedule,
        None,
        1,
    )


def start_of(task: Task, layers: int) -> Task:
    """The first layers alone, with a classifier of their own."""
    body = nn.Sequential(*list(task.model.children())[:layers])
    channels = body(task.batch[0]).shape[1]
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return make_task(model, task.batch, task.loss)


@pytest.mark.parametrize("name", ["digits.py", "resnet_cifar.py", "mobilenetv2_cifar.py"])
def test_a_model_file_compiles_and_trains(name: str, tmp_path: Path) -> None:
    task = start_of(reduced(load_task(str(EXAMPLES / name))), 4)
    graph = capture_task(task).apply(BatchDrop(p=0.5))
    program = e2compile.compile(graph, output=tmp_path / "out", verify=False)
    noise = arrays(torch.randn(40, *task.batch[0].shape[1:]).numpy(), (torch.arange(40) % 10).numpy())
    results = Run(program, Dataset("noise", 10, noise, noise), Options(steps=6)).go()
    assert results.steps_scheduled == 6
    assert len(results.loss) == results.steps_executed


@pytest.mark.parametrize("depth", [20, 38, 74, 110])
def test_the_depth_of_the_residual_network_is_an_argument(depth: int) -> None:
    task = load_task(f"{EXAMPLES / 'resnet_cifar.py'}:resnet{depth}")
    assert (
        sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in task.model.modules())
        == depth - 1
    )
    assert task.data == "cifar10"


def test_every_example_is_tested() -> None:
    tested = {"digits.py", "resnet_cifar.py", "mobilenetv2_cifar.py", "from_python.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_the_road_from_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path(str(EXAMPLES / "from_python.py"))["main"](epochs=2) > 0.2
    assert e2compile.load(tmp_path / "out" / "from_python").manifest.data == "digits"
