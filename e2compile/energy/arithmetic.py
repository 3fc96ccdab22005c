"""What one call computes: how many operations of each kind, from its operator and the shapes of its operands.

Multiply-accumulates are those of contractions alone, so that their sums compare with published ones.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from e2compile.energy.work import Amounts
from e2compile.errors import CompileError
from e2compile.graph import targets, where
from e2compile.lower import kinds
from e2compile.ops import (
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    MOMENTS,
    PLANES_INPUT_GRADIENT,
    POWER_OF_TWO_ABOVE,
    SCALED_CONVOLUTION,
    SCALED_INPUT_GRADIENT,
    UNIFORM,
)

aten = torch.ops.aten

_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)
_SUMS = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.add.Scalar, aten.sub.Scalar)
_SPECIAL = (
    aten.div.Tensor,
    aten.div.Scalar,
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
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
)
# Values that are only brought to another place.
_MOVES = (*kinds.ASSEMBLIES, aten.gather.default, aten.scatter.value)
_CHOICES = (aten.where.self, aten._to_copy.default, aten.arange.start_step)
# Ten rounds of Philox, each of two products, four exclusive ors and two additions to the key.
_PHILOX = {"multiply.int32": 20, "add.int32": 60}


def dtype_of(node: fx.Node) -> str:
    """The type that a call computes in: that of its widest operand, its result's without operands."""
    operands = [n.meta["val"] for n in node.all_input_nodes] or [node.meta["val"]]
    tensors = [value for value in operands if isinstance(value, Tensor)]
    wide = max(tensors, key=lambda value: (value.dtype.is_floating_point, value.dtype.itemsize))
    return name_of(wide.dtype)


def name_of(dtype: torch.dtype) -> str:
    """Signedness costs nothing, a truth value is a byte, and bfloat16 is computed with in float32."""
    names = {torch.bool: "int8", torch.uint8: "int8", torch.bfloat16: "float32"}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def operations(node: fx.Node) -> Amounts:
    """The operations of a call; CompileError for an operator of which no work is known."""
    rule = RULES.get(node.target)
    if rule is None:
        raise CompileError(f"no work is known for {targets(node)}", [where(node)])
    return rule(node)


def _size(node: Any) -> int:
    value = node.meta["val"]
    return math.prod((value if isinstance(value, Tensor) else value[0]).shape)


def _nothing(_: fx.Node) -> Amounts:
    return {}


def _each(kind: str) -> Callable[[fx.Node], Amounts]:
    """One operation of a kind for each element of the result."""
    return lambda node: {f"{kind}.{dtype_of(node)}": _size(node)}


def _sum(node: fx.Node) -> Amounts:
    dtype, is_scaled = dtype_of(node), node.kwargs.get("alpha", 1) != 1
    return {f"{kind}.{dtype}": _size(node) for kind in ("add", *["multiply"] * is_scaled)}


def _power(node: fx.Node) -> Amounts:
    kind = "multiply" if node.args[1] == 2 else "special"
    return {f"{kind}.{dtype_of(node)}": _size(node)}


def _clamp(node: fx.Node) -> Amounts:
    bounds = sum(bound is not None for bound in node.args[1:3])
    return {f"add.{dtype_of(node)}": bounds * _size(node)}


def _power_of_two(node: fx.Node) -> Amounts:
    width = 8 * node.meta["val"].dtype.itemsize
    return {f"add.int{width}": 3 * _size(node)}


def _draw(node: fx.Node) -> Amounts:
    return {quantity: count * _size(node) for quantity, count in _PHILOX.items()}


def _reduce(node: fx.Node) -> Amounts:
    """One operation for each element that is reduced; a mean divides each sum."""
    dtype = dtype_of(node)
    found: Amounts = {f"add.{dtype}": _size(node.args[0])}
    if node.target in (aten.mean.default, aten.mean.dim):
        found[f"multiply.{dtype}"] = _size(node)
    return found


def _moments(node: fx.Node) -> Amounts:
    """For each element a sum, a difference, and the difference's square added; two divisions a result."""
    dtype, count = dtype_of(node), _size(node.args[0])
    return {f"add.{dtype}": 3 * count, f"multiply.{dtype}": count, f"special.{dtype}": 2 * _size(node)}


def _window(node: Any) -> int:
    """Elements under a pooling's window."""
    if node.target in (aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default):
        is_forward = node.target is aten._adaptive_avg_pool2d.default
        x, y = (node.args[0], node) if is_forward else (node, node.args[0])
        return max(1, _size(x) // _size(y))
    size = node.args[1 if "backward" not in str(node.target) else 2]
    return math.prod(size) if len(size) > 1 else size[0] ** 2


def _pool(node: fx.Node) -> Amounts:
    """A comparison or an addition for each element under a window, and an average's division as a product."""
    dtype = dtype_of(node)
    found: Amounts = {f"add.{dtype}": _size(node) * _window(node)}
    if node.target is not aten.max_pool2d_with_indices.default:
        found[f"multiply.{dtype}"] = _size(node)
    return found


def _pool_gradient(node: fx.Node) -> Amounts:
    """Of a maximum one addition at its place; of an average one product, added under the whole window."""
    dtype, results = dtype_of(node), _size(node.args[0])
    if node.target is aten.max_pool2d_with_indices_backward.default:
        return {f"add.{dtype}": results}
    return {f"add.{dtype}": results * _window(node), f"multiply.{dtype}": results}


def _product(node: fx.Node) -> Amounts:
    a: Any = node.args[0]
    return {f"mac.{dtype_of(node)}": _size(node) * a.meta["val"].shape[1]}


def _taps(weight: Any, grad_or_y: int) -> int:
    """Multiply-accumulates of a convolution, or of either gradient: padding counts as work."""
    shape = weight if isinstance(weight, (list, tuple)) else weight.meta["val"].shape
    return grad_or_y * math.prod(shape[1:])


def _convolution(node: fx.Node) -> Amounts:
    x, weight, bias, *_, transposed, _, _ = node.args
    dtype = dtype_of(node)
    found: Amounts = {f"mac.{dtype}": _taps(weight, _size(x) if transposed else _size(node))}
    if bias is not None:
        found[f"add.{dtype}"] = _size(node)
    return found


def _convolution_backward(node: fx.Node) -> Amounts:
    grad, x, weight, *_, transposed, _, _, outputs = node.args
    mask: Any = outputs
    dtype = dtype_of(node)
    found: Amounts = {}
    if mask[0] or mask[1]:
        one = _taps(weight, _size(x) if transposed else _size(grad))
        found[f"mac.{dtype}"] = one * (int(mask[0]) + int(mask[1]))
    if mask[2]:
        found[f"add.{dtype}"] = _size(grad)
    return found


def _integers(node: fx.Node) -> Amounts:
    if node.target is INTEGER_CONVOLUTION:
        return {"mac.int8": _taps(node.args[1], _size(node))}
    if node.target is INTEGER_INPUT_GRADIENT:
        return {"mac.int8": _taps(node.args[1], _size(node.args[0]))}
    return {"mac.int8": _taps(node.args[2], _size(node.args[1]))}


def _scaled(node: fx.Node) -> Amounts:
    """Products, and a multiplication of each sum; of two planes' also the higher one's, and an addition."""
    size = _size(node)
    if node.target is SCALED_CONVOLUTION:
        return {"mac.int8": _taps(node.args[1], size), "multiply.float32": size}
    if node.target is SCALED_INPUT_GRADIENT:
        return {"mac.int8": _taps(node.args[1], _size(node.args[0])), "multiply.float32": size}
    macs = 2 * _taps(node.args[2], _size(node.args[0]))
    return {"mac.int8": macs, "multiply.float32": 2 * size, "add.float32": size}


RULES: dict[Any, Callable[[fx.Node], Amounts]] = {
    **dict.fromkeys([*kinds.ARITHMETIC, *kinds.COMPARISONS, *_CHOICES], _each("add")),
    **dict.fromkeys(_PRODUCTS, _each("multiply")),
    **dict.fromkeys(_SPECIAL, _each("special")),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys([aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default], _clamp),
    aten.pow.Tensor_Scalar: _power,
    POWER_OF_TWO_ABOVE: _power_of_two,
    UNIFORM: _draw,
    **dict.fromkeys(_MOVES, _nothing),
    **dict.fromkeys(kinds.REDUCTIONS, _reduce),
    **dict.fromkeys([aten.var_mean.correction, MOMENTS], _moments),
    **dict.fromkeys(kinds.POOLS, _pool),
    **dict.fromkeys([op for op in kinds.POOLS if "backward" in str(op)], _pool_gradient),
    aten.mm.default: _product,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    **dict.fromkeys([SCALED_CONVOLUTION, SCALED_INPUT_GRADIENT, PLANES_INPUT_GRADIENT], _scaled),
    **dict.fromkeys([INTEGER_CONVOLUTION, INTEGER_INPUT_GRADIENT, INTEGER_WEIGHT_GRADIENT], _integers),
}
