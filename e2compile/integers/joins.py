"""Joins: where branches of a network meet, and their gradients."""

from collections.abc import Collection, Iterator

import torch
from torch import fx

aten = torch.ops.aten


def joins(graph: fx.Graph, shapes: Collection[torch.Size]) -> Iterator[fx.Node]:
    """The float32 values of these shapes that are sums of two values of their shape, or chosen from two.

    So a block's output with what passes beside it, the gradients that come back by both ways, and what either
    is for samples that skip the block.
    """
    for node in list(graph.nodes):
        if node.target not in (aten.add.Tensor, aten.where.self) or node.meta["phase"] == "update":
            continue
        value = node.meta["val"]
        parts = node.args[-2:]
        if value.dtype is torch.float32 and value.shape in shapes and all(_is_like(node, p) for p in parts):
            yield node


def _is_like(node: fx.Node, part: object) -> bool:
    return isinstance(part, fx.Node) and part.meta["val"].shape == node.meta["val"].shape
