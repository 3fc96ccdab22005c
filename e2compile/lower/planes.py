"""Planes: the input gradients of a gradient's two bytes, and their sum, as one call.

Both read the same weights, and what each would write for the sum to read is as much memory as the result.
"""

from collections.abc import Iterator

import torch
from torch import fx

from e2compile.graph import StepGraph, insert
from e2compile.lower.inline import live_of
from e2compile.lower.recompute import copied
from e2compile.ops import INTEGER_INPUT_GRADIENT, PLANES_INPUT_GRADIENT

aten = torch.ops.aten


def joined(step: StepGraph) -> StepGraph:
    """The graph with e2.planes_input_gradient where that says it all in one call; itself if nowhere."""
    if not any(_sums(step.graph)):
        return step
    step = copied(step)
    graph = step.graph
    for total, high, low in list(_sums(graph)):
        with graph.inserting_before(total):
            call = insert(
                graph, PLANES_INPUT_GRADIENT, high.args[0], low.args[0], *high.args[1:], blame=total
            )
        call.meta |= {"origin": total.meta["origin"], "live": live_of(total)}
        total.replace_all_uses_with(call)
    graph.eliminate_dead_code()
    step.module.recompile()
    return step


def _sums(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node, fx.Node]]:
    """Each sum 256 * float(high) + float(low) of two input gradients that nothing else reads, and those."""
    for high in graph.find_nodes(op="call_function", target=INTEGER_INPUT_GRADIENT):
        scaled = _only_user(_only_user(high, aten._to_copy.default), aten.mul.Scalar)
        total = _only_user(scaled, aten.add.Tensor)
        if scaled is None or total is None or scaled.args[1] != 256 or total.args[0] is not scaled:
            continue
        (low,) = total.args[1].all_input_nodes  # type: ignore[union-attr]
        if _only_user(_only_user(low, aten._to_copy.default), aten.add.Tensor) is not total:
            continue
        if low.target is INTEGER_INPUT_GRADIENT and low.args[1:] == high.args[1:]:
            yield total, high, low


def _only_user(node: fx.Node | None, target: object) -> fx.Node | None:
    """What reads a node, if that is one call, of `target`."""
    if node is None or len(node.users) != 1:
        return None
    (user,) = node.users
    return user if user.target is target else None
