"""A budget of memory: what a step holds falls to it, and the numbers stay."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from e2compile.compiler import compile
from e2compile.energy.count import count_nodes, total
from e2compile.errors import CompileError
from e2compile.graph import StepGraph, entry_points
from e2compile.lower.arena import arena
from e2compile.lower.fit import fitted
from e2compile.lower.flat import fused
from e2compile.lower.fuse import Fusion
from e2compile.lower.inline import inlined
from e2compile.lower.layout import state_orders
from e2compile.lower.liveness import blocks
from e2compile.lower.recompute import recomputed
from e2compile.lower.schedule import schedule
from e2compile.passes import LayerGate, SignPredict
from e2compile.pipeline import Pass, TrainingGraph, capture
from e2compile.runtime.program import Program
from tests import models
from tests.commands import run
from tests.steps import images


def stack(*passes: Pass) -> TrainingGraph:
    """Eight convolutions of one size, each with batch norm and a ReLU."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (1, *[8] * 7):
        layers += [nn.Conv2d(inputs, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return capture(nn.Sequential(*layers, *head), images((256, 1, 8, 8))).apply(*passes)


def gated() -> TrainingGraph:
    torch.manual_seed(0)
    return capture(models.resnet_cifar(14), images((32, 3, 32, 32))).apply(LayerGate(), SignPredict())


def held(step: StepGraph) -> int:
    """State, batch and temporaries."""
    given = sum(node.meta["val"].nbytes for node in step.placeholders)
    return given + arena(blocks(schedule(Fusion(step), state_orders(step)))).bytes


def flat(graph: TrainingGraph) -> StepGraph:
    return recomputed(inlined(entry_points(graph.step).step))


@pytest.mark.parametrize(
    ("make", "share"),
    [(stack, 0.8), (lambda: stack(SignPredict()), 0.8), (gated, 0.95)],  # gates of one block hold more
    ids=["plain", "signs", "gates and signs"],
)
def test_a_step_fits_by_running_convolutions_again(make: Callable[[], TrainingGraph], share: float) -> None:
    step = flat(make())
    budget = round(share * held(step))
    within = fitted(step, budget)
    assert held(within) <= budget
    convolutions = [sum("convolution" in str(n.target) for n in s.graph.nodes) for s in (step, within)]
    assert convolutions[1] > convolutions[0]


def test_what_fits_is_left_alone() -> None:
    step = flat(stack())
    assert len(fitted(step, held(step)).graph.nodes) == len(step.graph.nodes)


def test_a_budget_out_of_reach_says_what_is_within() -> None:
    step = flat(stack())
    with pytest.raises(CompileError, match=r"at least \d+ MB") as refused:
        fitted(step, 10**6)
    least = int(str(refused.value).partition("at least ")[2].split()[0])
    assert held(fitted(step, least * 10**6)) <= least * 10**6


def stepped(program: Program, graph: TrainingGraph) -> dict[str, NDArray[np.float32]]:
    program.execute([t.numpy() for t in graph.task.batch])
    return program.arrays()


def test_a_program_within_a_budget_trains_as_the_one_without() -> None:
    graph = stack()
    plain = compile(graph, verify=False, cache=False)
    within = compile(graph, memory_budget=4, cache=False)
    found, expected = stepped(within, graph), stepped(plain, graph)
    for name, array in expected.items():
        # the same operations in other loops, where LLVM contracts others of them to fused multiply-adds
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6)
    planned = [
        json.loads((p.folder / "report" / "compile.json").read_text())["planned_bytes"]["step"]
        for p in (plain, within)
    ]
    assert planned[1] < planned[0]


def test_what_runs_again_is_counted() -> None:
    step = stack().step
    plain = total(count_nodes(step, planned=True)).totals()
    within = total(count_nodes(step, planned=True, fusions={"step": fused(step, 4 * 10**6)})).totals()
    assert within["mac.float32"] > plain["mac.float32"]


_MODEL = """
import torch
from torch import nn
body = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
model = nn.Sequential(*body, nn.Flatten(), nn.Linear(512, 10))
batch = torch.randn(512, 1, 8, 8), torch.randint(0, 10, (512,))
"""


def test_the_command_line_refuses_a_budget_out_of_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(_MODEL)
    out = tmp_path / "out"
    assert run(tmp_path / "model.py", "--memory-budget", "1", "-o", out) == CompileError.exit_code
    assert "--memory-budget" in capsys.readouterr().err
    assert not out.exists()
