"""Learning rates: tabulated as torch steps them, followed by the program, held at the end."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import e2compile
from e2compile.errors import UsageError
from e2compile.pipeline import capture
from e2compile.runtime.datasets import load
from e2compile.schedule import tabulate
from e2compile.task import make_task
from tests.small import BATCH, LOSS, Net
from tests.steps import sgd


def stepped(make: Callable[[Any], Any], ticks: int) -> list[list[float]]:
    """The rates that torch's own loop uses."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}], lr=0.1)
    schedule = make(optimizer)
    rates = []
    for _ in range(ticks):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=9),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], gamma=0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda e: 1 / (1 + e), lambda e: 0.5**e]),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 6)], [3]
    ),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=[0.1, 0.2], total_steps=9),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_tabulated_as_torch_steps_it(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.02}], lr=0.1
    )
    schedule = SCHEDULES[name](optimizer)
    before = [dict(group) for group in optimizer.param_groups]
    task = make_task(model, (torch.zeros(2, 2), torch.zeros(2).long()), None, optimizer, schedule, epochs=9)
    np.testing.assert_array_equal(tabulate(task), np.array(stepped(SCHEDULES[name], 9), np.float32))
    assert task.schedule_unit == ("step" if name == "onecycle" else "epoch")
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in before]


def test_a_program_follows_its_schedule_and_holds_the_last_rate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model.parameters())
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    graph = capture(model, BATCH, LOSS, optimizer, schedule, epochs=3)
    program = e2compile.compile(graph, output=tmp_path / "out")
    program.steps_per_epoch = 2
    expected = [0.05, 0.05, *([0.05 * (1 + math.cos(math.pi / 4)) / 2] * 2), *([0.025] * 5)]
    assert [program.rate(step)[0] for step in range(9)] == pytest.approx(expected, rel=1e-6)


def test_a_schedule_by_step_needs_to_know_its_length() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = lr_scheduler.CyclicLR(optimizer, 0.01, 0.1)
    task = make_task(model, (torch.zeros(2, 2), torch.zeros(2).long()), None, optimizer, schedule)
    with pytest.raises(UsageError, match="declare `data`"):
        tabulate(task)
    task = make_task(
        model,
        (torch.zeros(64, 2), torch.zeros(64).long()),
        None,
        optimizer,
        schedule,
        data="digits",
        epochs=2,
    )
    assert len(tabulate(task)) == 2 * (len(load("digits").train) // 64)
