"""Activations computed again in the backward pass: what is held falls, what is computed stays."""

import math

import pytest
import torch
from torch import fx, nn

from e2compile.compiler import compile
from e2compile.graph import StepGraph, entry_points
from e2compile.lower.fuse import Fusion
from e2compile.lower.inline import inlined, origin
from e2compile.lower.liveness import blocks
from e2compile.lower.recompute import recomputed
from e2compile.lower.schedule import schedule
from e2compile.passes import LayerGate, SignPredict
from e2compile.pipeline import Pass, TrainingGraph, capture
from tests import models
from tests.steps import images

SAMPLES = 128


def residual(*passes: Pass) -> TrainingGraph:
    torch.manual_seed(0)
    return capture(models.small_resnet(), images((SAMPLES, 1, 8, 8))).apply(*passes)


def peak(step: StepGraph) -> int:
    found = blocks(schedule(Fusion(step)))
    return max(sum(b.bytes for b in found if b.first <= at <= b.last) for at in {b.first for b in found})


def between(step: StepGraph) -> list[fx.Node]:
    """Large float buffers that the forward pass makes and the backward pass reads."""
    plan = schedule(Fusion(step))
    phases = [next((n.meta["phase"] for n in step.graph.nodes if n is b.node), "") for b in blocks(plan)]
    numbers = [b.first for b, phase in zip(blocks(plan), phases, strict=True) if phase == "backward"]
    start = min(numbers)
    held = [b for b in blocks(plan) if b.first < start <= b.last and b.bytes >= 1 << 16]
    return [b.node for b in held if b.node.meta["val"].dtype == torch.float32]


def test_between_the_passes_only_the_inputs_of_batch_norm_are_held() -> None:
    step = entry_points(residual().step).step
    held = {str(node.target) for node in between(recomputed(step))}
    assert held == {"aten.convolution.default"}
    assert "aten.relu.default" in {str(node.target) for node in between(step)}
    assert peak(recomputed(step)) < 0.75 * peak(step)


def test_the_graph_given_is_left_as_it_was_and_the_new_one_computes_the_same() -> None:
    step = entry_points(residual().step).step
    before = len(step.graph.nodes)
    again = recomputed(step)
    assert len(step.graph.nodes) == before < len(again.graph.nodes)
    known = set(step.graph.nodes)
    assert all(origin(node) in known for node in again.graph.nodes)
    torch.manual_seed(0)
    inputs = [_value(node) for node in step.placeholders]
    for old, new in zip(step.module(*inputs), again.module(*inputs), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


def _value(node: fx.Node) -> torch.Tensor:
    like = node.meta["val"]
    if like.dtype.is_floating_point:
        return torch.rand(like.shape)
    return torch.zeros(like.shape, dtype=like.dtype)


def test_without_batch_norm_nothing_is_gained_by_it() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    step = entry_points(capture(module, images((SAMPLES, 1, 8, 8))).step).step
    assert recomputed(step) is step


def test_small_values_are_kept() -> None:
    step = entry_points(capture(models.small_resnet(), images((4, 1, 8, 8))).step).step
    assert recomputed(step) is step


def blocks_in_a_row(*passes: Pass) -> TrainingGraph:
    """What the last block's ReLU reads depends on three convolutions."""
    torch.manual_seed(1)
    stem = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    rows = [models.BasicBlock(8, 8, 1) for _ in range(3)]
    return capture(nn.Sequential(*stem, *rows, *head), images((SAMPLES, 1, 8, 8))).apply(*passes)


def test_flags_are_kept_where_only_a_mask_is_read() -> None:
    flat = inlined(entry_points(blocks_in_a_row(SignPredict()).step).step)
    again = recomputed(flat)
    kept = [node for node in again.graph.nodes if node.meta.get("stored")]
    assert kept
    assert all(node.meta["val"].dtype == torch.bool and node.meta["phase"] == "forward" for node in kept)
    assert peak(again) < peak(flat)


@pytest.mark.parametrize("passes", [(), (LayerGate(), SignPredict())], ids=["plain", "gates and signs"])
def test_a_program_that_recomputes_is_the_graph(passes: tuple[Pass, ...]) -> None:
    graph = blocks_in_a_row(*passes)
    flat = inlined(entry_points(graph.step).step)
    assert recomputed(flat) is not flat
    program = compile(graph, cache=False)
    result = program.execute([t.numpy() for t in graph.task.batch])
    assert result.loss is not None
    assert math.isfinite(result.loss)
