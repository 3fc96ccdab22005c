"""A graph as data."""

import torch
from torch import fx

from e2compile.graph_data import graph_data


def branch() -> fx.GraphModule:
    graph = fx.Graph()
    graph.output((graph.placeholder("x"),))
    return fx.GraphModule(torch.nn.Module(), graph)


def test_a_branch_is_of_the_graph_that_runs_it() -> None:
    """Where a conditional has moved into another branch, what had read its branches may still be there."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    kept, left = (graph.create_node("get_attr", name) for name in ("kept", "left"))
    for node in (kept, left):
        node.meta |= {"phase": "forward", "where": "", "module": "", "val": None}
    graph.output((x, kept))
    module = fx.GraphModule({"kept": branch(), "left": branch()}, graph)
    assert list(graph_data(module)["branches"]) == ["kept"]
