"""Ranges: what a graph shows about the sign of a tensor."""

import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

# Never negative, whatever they are taken of.
_ALWAYS = (aten.relu.default, aten.sigmoid.default, aten.exp.default, aten.abs.default, aten.sqrt.default)
# Never negative where the tensors they take elements or means of are not.
_SELECTIONS = (
    operator.getitem,
    aten.max_pool2d_with_indices.default,
    aten.avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.amax.default,
    aten.mean.dim,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.expand.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dims,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.cat.default,
    aten._to_copy.default,
)
# Never negative where no operand is, numbers included.
_SUMS = (aten.add.Tensor, aten.add.Scalar, aten.mul.Tensor, aten.mul.Scalar, aten.div.Scalar)


def is_non_negative(node: fx.Node) -> bool:
    """Whether no element of a node can be negative, as far as its own and its operands' calls tell."""
    if node.op != "call_function":
        return False
    if node.target in _ALWAYS or getattr(node.meta["val"], "dtype", None) is torch.bool:
        return True
    if node.target in (aten.clamp.default, aten.clamp_min.default):
        return all(bound is None or bound >= 0 for bound in node.args[1:]) and node.args[1] is not None  # type: ignore[operator]
    if node.target is aten.full.default:
        return bool(node.args[1] >= 0)  # type: ignore[operator]
    if node.target is aten.where.self:
        return all(map(_is_non_negative, node.args[1:]))
    if node.target in _SUMS:
        return not node.kwargs and all(map(_is_non_negative, node.args))
    return node.target in _SELECTIONS and all(map(is_non_negative, node.all_input_nodes))


def _is_non_negative(value: Any) -> bool:
    return is_non_negative(value) if isinstance(value, fx.Node) else bool(value >= 0)
