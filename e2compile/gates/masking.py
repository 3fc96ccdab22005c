"""Batch norm of a residual block over the samples that the block runs for."""

import operator
from typing import Any

import torch
from torch import fx

from e2compile.gates.blocks import Block
from e2compile.gates.samples import argument
from e2compile.graph import insert
from e2compile.ops import BATCH_NORM

aten = torch.ops.aten

_STATISTICS = ("running_mean", "running_var")


def mask_norms(graph: fx.Graph, block: Block, mask: fx.Node, count: fx.Node) -> None:
    """batch_norm(x)  ->  e2.batch_norm(x, mask), for each norm of a block that uses the batch's statistics.

    `mask` [samples] says which samples the block runs for, `count` (int64, shape ()) how many these are.
    Running statistics follow those samples' values; where there are fewer than two values a channel they
    stay, and so does `num_batches_tracked`.
    """
    for norm in block.norms:
        with graph.inserting_before(norm):
            _mask(graph, norm, mask, count)


def _mask(graph: fx.Graph, norm: fx.Node, mask: fx.Node, count: fx.Node) -> None:
    def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return insert(graph, target, *args, blame=norm, **kwargs)

    x, weight, bias, eps = (argument(norm, name) for name in ("input", "weight", "bias", "eps"))
    result = call(BATCH_NORM, x, mask, weight, bias, eps)
    y, variance, mean = (call(operator.getitem, result, i) for i in range(3))
    if argument(norm, "running_mean") is not None:
        positions = x.meta["val"][0, 0].numel()
        values = call(aten.mul.Scalar, count, positions)
        enough = call(aten.ge.Scalar, values, 2)
        n = call(aten._to_copy.default, values, dtype=x.meta["val"].dtype)
        others = call(aten.clamp_min.default, call(aten.sub.Scalar, n, 1), 1)
        # A statistic that kept its gradient would give the buffer a tangent.
        mean, variance = (call(aten.detach.default, node) for node in (mean, variance))
        variance = call(aten.mul.Tensor, variance, call(aten.div.Tensor, n, others))
        momentum = argument(norm, "momentum")
        for name, value in zip(_STATISTICS, (mean, variance), strict=True):
            running = argument(norm, name)
            old = call(aten.mul.Scalar, running, 1 - momentum)
            new = call(aten.add.Tensor, old, call(aten.mul.Scalar, value, momentum))
            call(aten.copy_.default, running, call(aten.where.self, enough, new, running))
        _count_batches(graph, norm, enough)
    norm.replace_all_uses_with(y)
    graph.erase_node(norm)


def _count_batches(graph: fx.Graph, norm: fx.Node, enough: fx.Node) -> None:
    """num_batches_tracked += 1  ->  += enough, where the norm's module counts."""
    name = str(argument(norm, "running_mean").target).rpartition(".")[0] + ".num_batches_tracked"
    for node in graph.find_nodes(op="get_attr", target=name):
        for add in [user for user in node.users if user.target is aten.add_.Tensor]:
            one = insert(graph, aten._to_copy.default, enough, dtype=torch.int64, blame=norm)
            insert(graph, aten.add_.Tensor, node, one, blame=add)
            graph.erase_node(add)
