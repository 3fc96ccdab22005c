"""Outlining: what a block's region is, and that the graph computes what it did, whoever runs the block."""

import math

import pytest
import torch
from torch import Tensor, fx, nn

from e2compile.graph import StepGraph, text
from e2compile.guards.outline import outline
from e2compile.guards.regions import find_regions
from e2compile.passes import BatchDrop
from e2compile.pipeline import TrainingGraph, capture
from tests.guarded import MASKS, Masks, batch, guarded
from tests.steps import graph_steps, images, sgd

aten = torch.ops.aten


@pytest.fixture(scope="module", params=[False, True], ids=["own weights", "tied weights"])
def graph(request: pytest.FixtureRequest) -> TrainingGraph:
    return guarded(request.param)


def dense(graph: TrainingGraph) -> StepGraph:
    stage = next(s.graph for s in graph.stages if s.name == "differentiated")
    assert isinstance(stage, StepGraph)
    return stage


def poisoned(graph: TrainingGraph) -> StepGraph:
    """Outlined, with NaN for all that a block gives which does not run, but for state that it keeps."""
    step = outline(dense(graph)).graph
    for name, child in step.module.named_children():
        if name.endswith("_skip"):
            assert isinstance(child, fx.GraphModule)
            for fill in child.graph.find_nodes(op="call_function", target=aten.full.default):
                if fill.kwargs["dtype"] is torch.float32:
                    fill.args = (fill.args[0], math.nan)
            child.recompile()
    return step


def results(step: StepGraph, graph: TrainingGraph, masks: Masks) -> dict[str, Tensor]:
    (found,) = graph_steps(step, graph.task, [batch(masks)])
    return found


@pytest.mark.parametrize("masks", MASKS)
def test_the_outlined_graph_is_the_dense_one_bit_for_bit(graph: TrainingGraph, masks: str) -> None:
    """But for weights and momentum of a block that no sample ran: they are frozen."""
    found = results(poisoned(graph), graph, MASKS[masks])
    expected = results(dense(graph), graph, MASKS[masks])
    old = {n: p.detach().double() for n, p in graph.task.model.named_parameters()}
    unused = [i for i, mask in enumerate(MASKS[masks]) if not any(mask)]
    idle = [f"{part}.{i}" for i in unused for part in ("first", "last")]
    idle = [name for name in idle if f"parameter {name}.weight" in found]
    for name, value in expected.items():
        owner = name.split(" ")[1].removesuffix(".weight")
        if name.startswith("parameter") and owner in idle:
            assert torch.equal(found[name], old[f"{owner}.weight"])
        elif not any(name.split(" ")[-1].startswith(i) for i in (*idle, "norm", "scale")):
            assert torch.equal(found[name], value), name


def test_a_region_is_forward_backward_and_update_of_its_block(graph: TrainingGraph) -> None:
    for region in find_regions(dense(graph)).regions:
        phases = {node.meta["phase"] for node in region.nodes}
        assert {"forward", "backward"} <= phases
        calls = [n for n in region.nodes if n.target is aten.convolution_backward.default]
        # two convolutions, each with two gradients
        assert len(calls) == 4


def test_weights_of_a_block_alone_are_updated_in_its_region() -> None:
    step = guarded().step
    branches = dict(step.module.named_children())
    backward = branches["block_0_1_execute"]
    assert isinstance(backward, fx.GraphModule)
    kept = [n.target for n in backward.graph.find_nodes(op="placeholder")]
    assert "param_first_0_weight" in kept
    assert "param_stem_weight" not in kept


def test_every_guard_makes_two_conditionals() -> None:
    (stage,) = (s for s in guarded().stages if s.name == "outlined")
    assert (stage.changed, stage.notes) == (4, ())


def test_outlining_again_changes_nothing(graph: TrainingGraph) -> None:
    again = outline(dense(graph))
    assert text(again.graph) == text(graph.step)


def test_a_dropped_batch_wraps_the_outlined_step() -> None:
    step = guarded().apply(BatchDrop()).step
    assert {n for n, _ in step.module.named_children()} == {"execute", "skip"}
    names = {n for n, _ in step.module.execute.named_children()}  # type: ignore[union-attr, operator]
    assert "block_0_0_execute" in names


class AcrossSamples(nn.Module):
    """A block that looks at all samples together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        runs = torch.ops.e2.guard(x[:, 0, 0, 0] > 0, "all", True)
        inner = self.conv(x).softmax(0)
        x = x + torch.where(runs.view(-1, 1, 1, 1), inner, 0.0)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def test_a_block_that_mixes_samples_runs_for_all_and_says_why() -> None:
    model = AcrossSamples()
    graph = capture(model, images((4, 3, 8, 8)), optimizer=sgd(model.parameters()))
    stage = next(s for s in graph.stages if s.name == "outlined")
    assert stage.changed == 0
    (note,) = stage.notes
    assert "all runs for all samples" in note
    assert "softmax(0)" in note
