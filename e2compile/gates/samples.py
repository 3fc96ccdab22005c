"""Which ATen calls of a forward graph keep the samples of a batch apart."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

CONVOLUTIONS = (
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv_transpose2d.input,
)

# Of a call and the data it takes.
_Check = Callable[[fx.Node, fx.Node], bool]


def argument(node: fx.Node, name: str) -> Any:
    """An argument of an ATen call by its name in the schema, its default where it is not given."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    place = next(i for i, a in enumerate(schema) if a.name == name)
    if place < len(node.args):
        return node.args[place]
    return node.kwargs.get(name, schema[place].default_value)


def uses_batch_statistics(node: fx.Node) -> bool:
    return node.target is aten.batch_norm.default and bool(argument(node, "training"))


def is_per_sample(node: fx.Node, data: set[fx.Node]) -> bool:
    """Whether each sample of a call's result depends on the same sample of its operands in `data` alone.

    Batch norm counts as if it did; an operator that is not known does not.
    """
    sources = [n for n in node.all_input_nodes if n in data]
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return all(_is_aligned(node, source) for source in sources)
    check = _CHECKS.get(node.target)
    return check is not None and check(node, sources[0])


def _is_aligned(node: fx.Node, source: fx.Node) -> bool:
    """Broadcasting keeps samples apart where they are the first of as many dimensions."""
    return bool(node.meta["val"].dim() == source.meta["val"].dim()) and _keeps_first(node, source)


def _always(_: fx.Node, __: fx.Node) -> bool:
    return True


def _keeps_first(node: fx.Node, source: fx.Node) -> bool:
    """A view in row-major order keeps samples apart where the first dimension stays."""
    return bool(node.meta["val"].shape[:1] == source.meta["val"].shape[:1])


def _others(*names: str) -> _Check:
    """Whether the dimensions that these arguments name are others than the first."""

    def check(node: fx.Node, source: fx.Node) -> bool:
        value = source.meta["val"]
        dims = [d for n in names for d in _listed(argument(node, n))]
        return bool(dims) and all(d % value.dim() for d in dims)

    return check


def _listed(dims: Any) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims or ())


def _permutes_others(node: fx.Node, _: fx.Node) -> bool:
    return bool(argument(node, "dims")[0] == 0)


def _has_no_statistics(node: fx.Node, _: fx.Node) -> bool:
    return argument(node, "running_mean") is None


def _is_within(node: fx.Node, source: fx.Node) -> bool:
    return bool(len(argument(node, "normalized_shape")) < source.meta["val"].dim())


_ALWAYS = (
    *CONVOLUTIONS,
    operator.getitem,
    aten.batch_norm.default,
    aten.group_norm.default,
    aten.prelu.default,
    aten.relu6_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.avg_pool2d.default,
    aten.max_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.pixel_shuffle.default,
    aten.to.dtype,
    aten._to_copy.default,
    aten.detach.default,
    aten.contiguous.default,
)

_VIEWS = (
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.linear.default,
)

_OVER_A_DIMENSION = (
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
    aten.softmax.int,
    aten.cat.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.chunk.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
)

_CHECKS: dict[object, _Check] = {
    **dict.fromkeys(_ALWAYS, _always),
    **dict.fromkeys(_VIEWS, _keeps_first),
    **dict.fromkeys(_OVER_A_DIMENSION, _others("dim")),
    aten.transpose.int: _others("dim0", "dim1"),
    aten.permute.default: _permutes_others,
    aten.instance_norm.default: _has_no_statistics,
    aten.layer_norm.default: _is_within,
}
