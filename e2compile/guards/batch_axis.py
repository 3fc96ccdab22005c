"""Which dimension of each value of a graph counts the samples of the batch."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from e2compile.graph import Kind, StepGraph
from e2compile.lower.kinds import POOLS, REDUCTIONS
from e2compile.lower.views import VIEWS, apply, shape_of
from e2compile.ops import (
    GUARD,
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    MOMENTS,
    PLANES_INPUT_GRADIENT,
    SCALED_CONVOLUTION,
    SCALED_INPUT_GRADIENT,
    UNIFORM,
)

aten = torch.ops.aten

# A dimension's number, None for a value of the whole batch, LOST where samples mix with another dimension.
Axis = int | None
LOST = -1

# A conditional's results are sums over the batch: see regions, which makes sure of it.
_WHOLE = (INTEGER_WEIGHT_GRADIENT, MOMENTS, aten.any.default, torch.ops.higher_order.cond)
_LIKE_FIRST = (
    aten.convolution.default,
    INTEGER_INPUT_GRADIENT,
    SCALED_INPUT_GRADIENT,
    PLANES_INPUT_GRADIENT,
    *POOLS,
)


def batch_axes(graph: StepGraph) -> dict[fx.Node, Axis]:
    """The batch dimension of every node; None for those that have none, LOST where it cannot be followed."""
    axes: dict[fx.Node, Axis] = {}
    sizes = {n.meta["val"].shape[0] for s, n in _inputs(graph) if s.kind is Kind.DATA}
    (samples,) = sizes
    data = {n for s, n in _inputs(graph) if s.kind is Kind.DATA}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            axes[node] = _axis(node, axes, samples)
        elif node.op == "placeholder":
            axes[node] = 0 if node in data else None
    return axes


def _inputs(graph: StepGraph) -> Sequence[tuple[Any, fx.Node]]:
    return list(zip(graph.inputs, graph.placeholders, strict=True))


def _axis(node: fx.Node, axes: dict[fx.Node, Axis], samples: int) -> Axis:
    operands = [n for n in node.all_input_nodes if axes.get(n) is not None]
    if node.target is UNIFORM:  # draws for samples are the only ones whose first dimension is the batch
        size: Any = node.args[3]
        return 0 if size and size[0] == samples else None
    if not operands or node.target in _WHOLE:
        return None
    if any(axes[n] == LOST for n in operands):
        return LOST
    if node.target is GUARD:
        return 0
    if node.target in VIEWS:
        return _of_view(node, axes[operands[0]])
    if node.target is operator.getitem:
        return axes[operands[0]]
    if node.target in REDUCTIONS:
        return _of_reduction(node, axes[operands[0]])
    if node.target is aten.mm.default:
        return _of_product(node, axes)
    if node.target in (INTEGER_CONVOLUTION, SCALED_CONVOLUTION):
        return _of_convolution(node, axes)
    if node.target in _LIKE_FIRST:
        return 0 if all(axes[n] == 0 for n in operands) else LOST
    if node.target is aten.convolution_backward.default:
        is_input: Any = node.args[-1]
        return 0 if is_input[0] else None
    return _of_elements(node, operands, axes)


def _of_elements(node: fx.Node, operands: Sequence[fx.Node], axes: dict[fx.Node, Axis]) -> Axis:
    """Element-wise: dimensions are aligned from the last."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return LOST
    found = {axes[n] + value.dim() - len(shape_of(n)) for n in operands}  # type: ignore[operator]
    return found.pop() if len(found) == 1 else LOST


def _of_product(node: fx.Node, axes: dict[fx.Node, Axis]) -> Axis:
    a, b = (axes.get(n) for n in node.args)  # type: ignore[arg-type]
    if a == 1 and b in (0, None):
        return None if b == 0 else LOST
    if a == 0 and b is None:
        return 0
    return 1 if a is None and b == 1 else LOST


def _of_convolution(node: fx.Node, axes: dict[fx.Node, Axis]) -> Axis:
    """The samples of a convolution are its input's; where it multiplies matrices they may be the weight's
    rows, which become channels, or the terms that are summed."""
    operands: Any = node.args[:2]
    x, weight = (axes.get(n) for n in operands)
    if weight is None:
        return 0 if x == 0 else LOST
    if weight == 0:
        return 1 if x is None else LOST
    return None if x == weight == 1 else LOST


def _of_reduction(node: fx.Node, axis: Axis) -> Axis:
    assert axis is not None
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    rank = len(shape_of(source))
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    reduced = {d % rank for d in dims} if dims else set(range(rank))
    if axis in reduced:
        return None
    value = node.meta["val"]
    value = value if isinstance(value, torch.Tensor) else value[0]
    return axis if value.dim() == rank else axis - sum(d < axis for d in reduced)


def _of_view(node: fx.Node, axis: Axis) -> Axis:
    """The dimension of the result that alone, and wholly, decides the place along `axis` of the source."""
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    out, size = shape_of(node), shape_of(source)[axis]  # type: ignore[index]
    fitting = [d for d, extent in enumerate(out) if extent == size]
    return next((d for d in fitting if _follows(node, d, axis)), LOST)


def _follows(view: fx.Node, dim: int, axis: Axis) -> bool:
    out = shape_of(view)
    for place in {0, 1, out[dim] - 1} & set(range(out[dim])):
        start = [place if d == dim else 0 for d in range(len(out))]
        for other, extent in enumerate(out):
            for moved in {0, 1, extent - 1} & set(range(extent)) if other != dim else {place}:
                index = [moved if d == other else i for d, i in enumerate(start)]
                if apply(view, index)[axis] != place:  # type: ignore[index]
                    return False
    return True
