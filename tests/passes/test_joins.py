"""Joins: what branches of a network and of its gradients join to is kept as results are."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from e2compile.graph import verify
from e2compile.integers.joins import joins
from e2compile.passes import SignPredict
from e2compile.pipeline import capture
from tests.steps import images

aten = torch.ops.aten


@pytest.mark.parametrize("results", ["bfloat16", "float32"])
def test_what_branches_join_to_is_kept_as_results_are(results: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).relu()
            return self.second(y) + y

    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Flatten(), nn.Linear(108, 3))
    sgd = torch.optim.SGD(model.parameters(), lr=0.03)
    graph = capture(model, images((4, 3, 6, 6), classes=3), optimizer=sgd)
    step = SignPredict(results=results)(graph.step).graph
    verify(step)
    shape = torch.Size((4, 3, 6, 6))
    sums = [
        node
        for node in step.graph.find_nodes(op="call_function", target=aten.add.Tensor)
        if all(isinstance(n, fx.Node) and n.meta["val"].shape == shape for n in node.args)
        and not any(n.target is aten.mul.Scalar for n in node.all_input_nodes)  # two planes of a gradient
    ]
    assert [node.meta["phase"] for node in sums] == ["forward", "backward"]
    for node in sums:
        kept = [user.meta["val"].dtype for user in node.users]
        assert (kept == [torch.bfloat16]) is (results == "bfloat16")


def test_joins_are_sums_and_choices_of_whole_activations() -> None:
    first, second = torch.randn(2, 4, 3, 6, 6)
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    for node, value in ((x, first), (y, second)):
        node.meta |= {"val": value, "phase": "forward"}
    total = graph.call_function(aten.add.Tensor, (x, y))
    chosen = graph.call_function(aten.where.self, (x, total, y))
    update = graph.call_function(aten.add.Tensor, (total, y))
    other = graph.call_function(aten.add.Tensor, (total, 1.0))
    for node, phase in ((total, "forward"), (chosen, "backward"), (update, "update"), (other, "forward")):
        node.meta |= {"val": first, "phase": phase}
    assert list(joins(graph, {first.shape})) == [total, chosen]
    assert not list(joins(graph, {torch.Size((1,))}))
