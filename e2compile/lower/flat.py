"""A graph as its kernels are made from it: conditionals taken apart, calls run again, all in groups."""

import torch

from e2compile.graph import StepGraph, insert
from e2compile.lower.fuse import Fusion, holder
from e2compile.lower.inline import inlined, origin
from e2compile.lower.kinds import check
from e2compile.lower.recompute import recomputed
from e2compile.lower.scaled import scaled

aten = torch.ops.aten


def fused(graph: StepGraph, memory_bytes: int | None = None, scales: bool = False) -> Fusion:
    """The groups of a graph's calls, those that the backward pass runs again among them.

    `scales` is a target's: see e2compile.targets.base. With `memory_bytes` a step holds no more than
    that, its arguments included. Raises CompileError for operators without a lowering, and for a budget that
    no recomputation reaches.
    """
    flat = inlined(_moved_by_calls(graph))
    check(flat.graph)
    flat = recomputed(scaled(flat) if scales else flat)
    if memory_bytes is None:
        return Fusion(flat)
    # not above: a program from the cache does without TVM
    from e2compile.lower.fit import fitted

    return Fusion(fitted(flat, memory_bytes))


def _moved_by_calls(graph: StepGraph) -> StepGraph:
    """state := a view of a state  ->  state := _to_copy(the view), as a call's result can be kept aside.

    The graph itself where no state takes another's value or its own in another order.
    """
    inputs = dict(zip(graph.inputs, graph.placeholders, strict=True))
    states = {node for slot, node in inputs.items() if slot.kind.is_state}
    moved = [
        i
        for i, (slot, node) in enumerate(zip(graph.outputs, graph.results, strict=True))
        if slot.kind.is_state and holder(node) in states and inputs[slot] is not node
    ]
    if not moved:
        return graph
    originals = list(graph.graph.nodes)
    graph = graph.copy()
    for node, original in zip(graph.graph.nodes, originals, strict=True):
        node.meta["origin"] = original
    results = graph.results
    with graph.graph.inserting_before(graph.graph.output_node()):
        for i in moved:
            old = results[i]
            results[i] = insert(graph.graph, aten._to_copy.default, old, blame=old)
            results[i].meta["origin"] = origin(old)
    graph.graph.output_node().args = (results,)
    return graph
