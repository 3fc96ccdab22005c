"""Which kind of kernel each ATen call becomes, and what has none."""

import operator
from collections import Counter
from enum import Enum
from typing import Any

import torch
from torch import fx

from e2compile.errors import CompileError
from e2compile.graph import targets, where
from e2compile.lower.views import VIEWS, shape_of, squeezed
from e2compile.ops import (
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    MOMENTS,
    POWER_OF_TWO_ABOVE,
    SCALED,
    UNIFORM,
)

aten = torch.ops.aten


class Work(Enum):
    """What a call is to the lowering."""

    INPUT = "input"
    VIEW = "view"
    CONSTANT = "constant"
    ELEMENTWISE = "elementwise"
    REDUCE = "reduce"
    CONTRACT = "contract"
    POOL = "pool"
    ITEM = "item"


ARITHMETIC = (
    aten.add.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub.Scalar,
    aten.rsub.Scalar,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.neg.default,
    aten.abs.default,
    aten.sign.default,
    aten.reciprocal.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.log.default,
    aten.log1p.default,
    aten.sin.default,
    aten.cos.default,
    aten.tanh.default,
    aten.erf.default,
    aten.sigmoid.default,
    aten.relu.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    POWER_OF_TWO_ABOVE,
    aten.floor.default,
    aten.ceil.default,
    aten.bitwise_and.Tensor,
    aten.bitwise_or.Tensor,
    aten.logical_and.default,
    aten.logical_or.default,
    aten.logical_not.default,
    aten.bitwise_not.default,
)

COMPARISONS = tuple(
    getattr(getattr(aten, name), overload)
    for name in ("eq", "ne", "lt", "le", "gt", "ge")
    for overload in ("Tensor", "Scalar")
)

CONSTANTS = {
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.scalar_tensor.default: 0,
}

REDUCTIONS = {
    aten.sum.dim_IntList: "sum",
    aten.mean.default: "sum",
    aten.mean.dim: "sum",
    aten.amax.default: "amax",
    aten.amin.default: "amin",
    aten.any.default: "amax",
    aten.argmax.default: "argmax",
    aten.var_mean.correction: "moments",
    MOMENTS: "moments",
}

CONTRACTIONS = (
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.mm.default,
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    *SCALED,
)

POOLS = (
    aten.avg_pool2d.default,
    aten.avg_pool2d_backward.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool2d_with_indices_backward.default,
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d_backward.default,
)

# Element-wise calls that take each element from one of several operands, by its place.
ASSEMBLIES = (aten.cat.default, aten.constant_pad_nd.default, aten.slice_scatter.default)

_WORK: dict[object, Work] = {
    operator.getitem: Work.ITEM,
    **dict.fromkeys(VIEWS, Work.VIEW),
    **dict.fromkeys(CONSTANTS, Work.CONSTANT),
    **dict.fromkeys(REDUCTIONS, Work.REDUCE),
    **dict.fromkeys(CONTRACTIONS, Work.CONTRACT),
    **dict.fromkeys(POOLS, Work.POOL),
    **dict.fromkeys([*ARITHMETIC, *COMPARISONS], Work.ELEMENTWISE),
    **dict.fromkeys(
        [
            aten.where.self,
            aten._to_copy.default,
            aten.gather.default,
            aten.scatter.value,
            aten.arange.start_step,
            UNIFORM,
            *ASSEMBLIES,
        ],
        Work.ELEMENTWISE,
    ),
}

OPERATORS = tuple(_WORK)

# Costly enough to be computed once and kept rather than again where they are used.
EXPENSIVE = (
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.log.default,
    aten.tanh.default,
    aten.erf.default,
    aten.sigmoid.default,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.gather.default,
    UNIFORM,
    *ASSEMBLIES,
)


def work(node: fx.Node) -> Work:
    """The kind of kernel of a call that `check` has let pass."""
    if node.op == "placeholder":
        return Work.INPUT
    if node.target not in REDUCTIONS:
        return _WORK[node.target]
    return Work.REDUCE if reduced_dims(node) else Work.ELEMENTWISE


def reduced_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions, counted without those of one, that a reduction reduces."""
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    shape = shape_of(source)
    if node.target is MOMENTS:
        kept = [d for d, size in enumerate(shape) if size != 1]
        return tuple(i for i, d in enumerate(kept) if d != 1)
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if isinstance(dims, int):
        dims = [dims]
    wanted = {d % len(shape) for d in dims} if dims else set(range(len(shape)))
    kept = [d for d, size in enumerate(shape) if size != 1]
    return tuple(i for i, d in enumerate(kept) if d in wanted)


def check(graph: fx.Graph) -> None:
    """Raise CompileError that names every operator without a lowering, with its lines, all at once."""
    bad: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        why = _why_not(node)
        if why is not None:
            bad.setdefault(why, []).append(where(node))
    if not bad:
        return
    lines = [f"{name}: {_places(places)}" for name, places in sorted(bad.items())]
    raise CompileError(f"{len(bad)} operators have no lowering", lines)


def _places(places: list[str]) -> str:
    counted = Counter(places)
    return "; ".join(f"{place} ({n}x)" if n > 1 else place for place, n in counted.items())


def _why_not(node: fx.Node) -> str | None:
    """The name of an unsupported operator, with the option that makes it so."""
    name = targets(node)
    if node.target not in _WORK:
        return name
    if node.target in (aten.convolution.default, aten.convolution_backward.default):
        return _why_not_convolution(node, name)
    if node.target in (aten.div.Tensor, aten.div.Scalar) and node.kwargs.get("rounding_mode"):
        return f"{name} with a rounding mode"
    if node.target is aten.scatter.value and shape_of(node.args[2])[node.args[1]] != 1:  # type: ignore
        return f"{name} of several places"
    if node.target in (aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default):
        return _why_not_adaptive(node, name)
    if (
        node.target in REDUCTIONS
        and not reduced_dims(node)
        and REDUCTIONS[node.target] in ("argmax", "moments")
    ):
        return f"{name} over a single value"
    if node.target is aten.any.default and node.args[0].meta["val"].dtype != torch.bool:  # type: ignore[union-attr]
        return f"{name} of numbers"
    if node.target is aten.cat.default and len({len(shape_of(n)) for n in node.all_input_nodes}) != 1:
        return f"{name} of an empty tensor"
    if node.target is aten.argmax.default and len(reduced_dims(node)) > 1:
        return f"{name} over several dimensions"
    dtype = getattr(node.meta["val"], "dtype", torch.float32)
    if dtype is torch.bfloat16 and node.target not in (aten._to_copy.default, *SCALED):
        return f"{name} in {dtype}"
    without = (torch.float64,) if node.target is aten.erf.default else ()
    return f"{name} in {dtype}" if dtype in (*without, torch.complex64, torch.complex128) else None


def _why_not_convolution(node: fx.Node, name: str) -> str | None:
    transposed = node.args[6] if node.target is aten.convolution.default else node.args[7]
    operand: fx.Node = node.args[0]  # type: ignore[assignment]
    if transposed:
        return f"{name} transposed"
    if len(shape_of(operand)) != 4:
        return f"{name} of {len(shape_of(operand)) - 2} dimensions"
    return None if operand.meta["val"].dtype == torch.float32 else f"{name} in {operand.meta['val'].dtype}"


def _why_not_adaptive(node: fx.Node, name: str) -> str | None:
    is_forward = node.target is aten._adaptive_avg_pool2d.default
    x, y = (node.args[0], node) if is_forward else (node.args[1], node.args[0])
    sizes = zip(shape_of(x)[2:], shape_of(y)[2:], strict=True)  # type: ignore[arg-type]
    return None if all(a % b == 0 for a, b in sizes) else f"{name} of windows of different sizes"


def is_constant(node: fx.Node) -> bool:
    return node.op == "call_function" and work(node) is Work.CONSTANT


def is_elementwise(node: fx.Node) -> bool:
    return node.op == "call_function" and work(node) is Work.ELEMENTWISE


def loop_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape a call loops over: its own, or its operand's for a reduction."""
    source = node.args[0] if work(node) is Work.REDUCE else node
    return squeezed(shape_of(source))  # type: ignore[arg-type]
