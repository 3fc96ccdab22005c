"""Scaled: contractions of integers that scale their sums themselves, as they leave the registers.

Their int32 sums are read by nothing but what scales them, and where that rounds to bfloat16 they are twice as
many bytes as the result. The two byte planes of a gradient become one call: both read the same weights.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from e2compile.graph import StepGraph, insert
from e2compile.lower.inline import live_of, origin
from e2compile.lower.recompute import copied
from e2compile.ops import (
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    PLANES_INPUT_GRADIENT,
    SCALED_CONVOLUTION,
    SCALED_INPUT_GRADIENT,
)

aten = torch.ops.aten

# What one of a high byte plane is of a low one's.
_PLANE = 256


@dataclass(frozen=True)
class _Scaled:
    """The contractions of one operand or of its byte planes, and the node of their scaled sum.

    `step` is what it is scaled by, and by `factor`.
    """

    contractions: tuple[fx.Node, ...]
    result: fx.Node
    step: fx.Node
    factor: int


def scaled(step: StepGraph) -> StepGraph:
    """The graph with e2.scaled_* and e2.planes_* in the place of the calls that they stand for."""
    if not _found(step.graph):
        return step
    step = copied(step)
    for each in _found(step.graph):
        with step.graph.inserting_before(each.result):
            call = _call(step.graph, each)
        call.meta |= {"origin": origin(each.result), "live": live_of(each.result)}
        each.result.replace_all_uses_with(call)
    step.graph.eliminate_dead_code()
    step.module.recompile()
    return step


def _call(graph: fx.Graph, each: _Scaled) -> fx.Node:
    factor, (first, *_) = each.step, each.contractions
    if each.factor != 1:
        factor = insert(graph, aten.mul.Scalar, factor, float(each.factor), blame=each.result)
        factor.meta |= {"origin": origin(each.result), "live": live_of(each.result)}
    operands = [n.args[0] for n in each.contractions]
    if first.target is INTEGER_CONVOLUTION:
        target = SCALED_CONVOLUTION
    else:
        target = PLANES_INPUT_GRADIENT if len(operands) > 1 else SCALED_INPUT_GRADIENT
    weight, *geometry = first.args[1:]
    dtype = each.result.meta["val"].dtype
    return insert(graph, target, *operands, weight, factor, *geometry, dtype, blame=each.result)


def _found(graph: fx.Graph) -> list[_Scaled]:
    nodes = [n for t in (INTEGER_CONVOLUTION, INTEGER_INPUT_GRADIENT) for n in _calls(graph, t)]
    return [each for node in nodes if (each := _match(node)) is not None]


def _calls(graph: fx.Graph, target: Any) -> list[fx.Node]:
    return list(graph.find_nodes(op="call_function", target=target))


def _match(node: fx.Node) -> _Scaled | None:
    """float32(sums) * step, or (256 * float32(high) + float32(low)) * step, and where that is all that is
    read of it, rounded."""
    contractions: tuple[fx.Node, ...] = (node,)
    factor = 1
    value = _only_user(node, aten._to_copy.default)
    planes = _only_user(value, aten.mul.Scalar)
    if planes is not None and planes.args[1] == _PLANE:
        value, factor = planes, _PLANE
        total = _only_user(planes, aten.add.Tensor)
        low = None if total is None else _other_plane(total, node)
        if low is not None:
            contractions, value, factor = (node, low), total, 1
    result = _only_user(value, aten.mul.Tensor)
    if value is None or result is None or result.args[0] is not value:
        return None
    step = result.args[1]
    if not isinstance(step, fx.Node) or step.meta["val"].dim():
        return None
    if value.meta["val"].dtype is not torch.float32:
        return None
    rounded = _only_user(result, aten._to_copy.default)
    if rounded is not None and rounded.meta["val"].dtype is torch.bfloat16:
        result = rounded
    return _Scaled(contractions, result, step, factor)


def _other_plane(total: fx.Node, high: fx.Node) -> fx.Node | None:
    """The contraction of the low plane in a sum with the high one, if it is one of the same weights."""
    cast = total.args[1]
    low = cast.args[0] if isinstance(cast, fx.Node) and cast.target is aten._to_copy.default else None
    if not isinstance(low, fx.Node) or low.target is not high.target or low.args[1:] != high.args[1:]:
        return None
    return low if _only_user(_only_user(low, aten._to_copy.default), aten.add.Tensor) is total else None


def _only_user(node: fx.Node | None, target: object) -> fx.Node | None:
    """What reads a node, if that is one call, of `target`."""
    if node is None or len(node.users) != 1:
        return None
    (user,) = node.users
    return user if user.target is target else None
