"""Convolutions, matrix products and poolings as workloads with their operands' memory orders."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from e2compile.lower.access import is_affine, strides
from e2compile.lower.inline import Live, live_of
from e2compile.lower.kinds import is_constant
from e2compile.lower.layout import Layout, Order, default, natural, weight
from e2compile.lower.loop import Buffer, Load, Loop, View
from e2compile.lower.places import place_dtype
from e2compile.lower.scalar import dtype_text, memory_text
from e2compile.lower.views import Shape, shape_of, source_of, squeezed
from e2compile.lower.workload import Convolution, Pool, pair
from e2compile.ops import (
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    PLANES_INPUT_GRADIENT,
    SCALED_CONVOLUTION,
    SCALED_INPUT_GRADIENT,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Operand:
    """A node wanted in a memory order, handed to the kernel in a shape."""

    node: fx.Node
    order: Order
    shape: Shape


@dataclass(frozen=True)
class Result:
    """What a kernel writes: its holder (None where nothing reads it), shape and type."""

    node: fx.Node | None
    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True)
class Call:
    """One call of a target's kernel `method` for a workload."""

    method: str
    workload: Convolution | Pool
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    bias: bool = False
    signed: bool = True
    live: Live = ()


def call(node: fx.Node, layout: Layout) -> Call:
    """The kernel call of a contraction or pooling."""
    return replace(_call(node, layout), live=live_of(node))


def integer_call(node: fx.Node) -> Call | None:
    """The kernel call of a contraction of integers, which is the same in any layout; None for other nodes."""
    if node.target not in _INTEGER:
        return None
    return replace(_INTEGER[node.target](node), live=live_of(node))


def _call(node: fx.Node, layout: Layout) -> Call:
    if node.target is aten.mm.default:
        return _product(node, layout)
    if node.target is aten.convolution.default:
        return _forward(node)
    if node.target is aten.convolution_backward.default:
        return _gradient(node)
    if node.target in _INTEGER:
        return _INTEGER[node.target](node)
    if node.target in _SCALED:
        return _SCALED[node.target](node)
    return _pool_gradient(node) if "backward" in str(node.target) else _pool(node)


def _items(node: fx.Node) -> dict[int, fx.Node]:
    return {use.args[1]: use for use in node.users}  # type: ignore[misc]


def _convolution(x: Shape, w: Shape, stride: Any, padding: Any, dilation: Any, groups: Any) -> Convolution:
    n, c, h, width = x
    return Convolution(
        n, h, width, c, w[0], (w[2], w[3]), tuple(stride), tuple(padding), tuple(dilation), groups
    )


def _activation(node: fx.Node, shape: Shape) -> Operand:
    return Operand(node, default(shape_of(node)), shape)


def _forward(node: fx.Node) -> Call:
    x, w, bias, stride, padding, dilation, _, _, groups = node.args
    conv = _convolution(shape_of(x), shape_of(w), stride, padding, dilation, groups)  # type: ignore
    operands = [_activation(x, conv.x_shape), Operand(w, weight(shape_of(w)), conv.weight_shape)]  # type: ignore
    if bias is not None:
        operands.append(Operand(bias, natural(shape_of(bias)), shape_of(bias)))  # type: ignore[arg-type]
    return Call("convolution", conv, tuple(operands), (Result(node, conv.y_shape),), bias is not None)


def _gradient(node: fx.Node) -> Call:
    grad, x, w, _, stride, padding, dilation, _, _, groups, mask = node.args
    conv = _convolution(shape_of(x), shape_of(w), stride, padding, dilation, groups)  # type: ignore
    dy = _activation(grad, conv.y_shape)  # type: ignore[arg-type]
    items = _items(node)
    if mask[0]:  # type: ignore[index]
        operands = (dy, Operand(w, weight(shape_of(w)), conv.weight_shape))  # type: ignore[arg-type]
        return Call("input_gradient", conv, operands, (Result(items.get(0), conv.x_shape),))
    operands = (_activation(x, conv.x_shape), dy)  # type: ignore[arg-type]
    return Call("weight_gradient", conv, operands, (Result(items.get(1), conv.weight_shape),))


def _integer_forward(node: fx.Node) -> Call:
    x, w, *geometry = node.args
    conv = _convolution(shape_of(x), shape_of(w), *geometry)  # type: ignore
    operands = (_activation(x, conv.x_shape), _weight(w, conv))  # type: ignore[arg-type]
    return _integers("integer_convolution", node, conv, operands, conv.y_shape)


def _integer_input_gradient(node: fx.Node) -> Call:
    grad, w, size, *geometry = node.args
    conv = _convolution(tuple(size), shape_of(w), *geometry)  # type: ignore
    operands = (_activation(grad, conv.y_shape), _weight(w, conv))  # type: ignore[arg-type]
    return _integers("integer_input_gradient", node, conv, operands, conv.x_shape)


def _integer_weight_gradient(node: fx.Node) -> Call:
    x, grad, size, *geometry = node.args
    conv = _convolution(shape_of(x), tuple(size), *geometry)  # type: ignore
    operands = (_activation(x, conv.x_shape), _activation(grad, conv.y_shape))  # type: ignore[arg-type]
    return _integers("integer_weight_gradient", node, conv, operands, conv.weight_shape)


def _weight(node: fx.Node, conv: Convolution) -> Operand:
    return Operand(node, weight(shape_of(node)), conv.weight_shape)


def _integers(
    method: str, node: fx.Node, conv: Convolution, operands: tuple[Operand, Operand], shape: Shape
) -> Call:
    """`signed` says of what type the first operand is."""
    signed = operands[0].node.meta["val"].dtype is torch.int8
    return Call(method, conv, operands, (Result(node, shape, "int32"),), signed=signed)


_INTEGER: dict[Any, Callable[[fx.Node], Call]] = {
    INTEGER_CONVOLUTION: _integer_forward,
    INTEGER_INPUT_GRADIENT: _integer_input_gradient,
    INTEGER_WEIGHT_GRADIENT: _integer_weight_gradient,
}


def _scaled_convolution(node: fx.Node) -> Call:
    arguments: Any = node.args
    x, w, step, *geometry, _ = arguments
    conv = _convolution(shape_of(x), shape_of(w), *geometry)
    operands = (_activation(x, conv.x_shape), _weight(w, conv), _scalar(step))
    signed = x.meta["val"].dtype is torch.int8
    return Call("scaled_convolution", conv, operands, (_scaled(node, conv.y_shape),), signed=signed)


def _scaled_input_gradient(node: fx.Node) -> Call:
    """Of one gradient, or of its byte planes."""
    arguments: Any = node.args
    *gradients, w, step, size, stride, padding, dilation, groups, _ = arguments
    conv = _convolution(tuple(size), shape_of(w), stride, padding, dilation, groups)
    sources = [_activation(gradient, conv.y_shape) for gradient in gradients]
    operands = (*sources, _weight(w, conv), _scalar(step))
    method = "planes_input_gradient" if len(sources) > 1 else "scaled_input_gradient"
    return Call(method, conv, operands, (_scaled(node, conv.x_shape),))


def _scalar(node: fx.Node) -> Operand:
    return Operand(node, (), ())


def _scaled(node: fx.Node, shape: Shape) -> Result:
    return Result(node, shape, memory_text(node.meta["val"].dtype))


_SCALED: dict[Any, Callable[[fx.Node], Call]] = {
    SCALED_CONVOLUTION: _scaled_convolution,
    SCALED_INPUT_GRADIENT: _scaled_input_gradient,
    PLANES_INPUT_GRADIENT: _scaled_input_gradient,
}


def _product(node: fx.Node, layout: Layout) -> Call:
    """mm by what lies in memory: rows times rows, rows times columns, columns times rows."""
    a, b = node.args
    (m, k), n = shape_of(a), shape_of(b)[1]  # type: ignore[arg-type]
    is_a_column, is_b_column = (_is_transposed(x, layout) for x in (a, b))  # type: ignore[arg-type]
    if is_a_column and not is_b_column:
        conv = Convolution(k, 1, 1, m, n)
        operands = (_rows(a, conv.x_shape, True), _rows(b, conv.y_shape))  # type: ignore[arg-type]
        return Call("weight_gradient", conv, operands, (Result(node, conv.weight_shape),))
    if is_b_column:
        conv = Convolution(m, 1, 1, n, k)
        operands = (_rows(a, conv.y_shape), _rows(b, conv.weight_shape, True))  # type: ignore[arg-type]
        return Call("input_gradient", conv, operands, (Result(node, conv.x_shape),))
    conv = Convolution(m, 1, 1, k, n)
    operands = (_rows(a, conv.x_shape), _rows(b, conv.weight_shape))  # type: ignore[arg-type]
    return Call("convolution", conv, operands, (Result(node, conv.y_shape),))


def _rows(node: fx.Node, shape: Shape, is_transposed: bool = False) -> Operand:
    order = natural(shape_of(node))
    return Operand(node, order[::-1] if is_transposed else order, shape)


def _is_transposed(node: fx.Node, layout: Layout) -> bool:
    order = natural(shape_of(node))
    return len(order) == 2 and lies_in(node, order[::-1], layout) and not lies_in(node, order, layout)


def lies_in(node: fx.Node, order: Order, layout: Layout) -> bool:
    """Whether a node's elements lie in memory in an order, without a copy."""
    source, chain = source_of(node)
    if is_constant(source):
        return False
    shape = squeezed(shape_of(node))
    held = Buffer(squeezed(shape_of(source)), layout[source], "float32")
    wanted = Buffer(shape, order, "float32")
    views = tuple(View(v.target, shape_of(v), shape_of(v.args[0]), _static(v.args[1:])) for v in chain)  # type: ignore
    load = Load(0, shape_of(node), shape_of(node), views, shape_of(source))
    if not is_affine(load) or len(held.shape) != len(shape) or sorted(held.shape) != sorted(shape):
        return False
    loop = Loop(shape, order, (held,), 1, (load,), (), (), (), "")
    units = [[int(d == k) for d in range(len(shape))] for k in range(len(shape))]
    return strides(loop, load) == (0, tuple(wanted.address(u) for u in units))


def _static(value: Any) -> Any:
    return tuple(_static(v) for v in value) if isinstance(value, (list, tuple)) else value


def _workload(kind: str, x: Shape, y: Shape, options: tuple[Any, ...], places: str = "") -> Pool:
    """Options as ATen's pooling calls take them after their tensors."""
    (n, c, h, w), kernel = x, pair(options[0])
    rest = [*options[1:], *(None,) * (6 - len(options))]
    stride, padding = pair(rest[0], kernel), pair(rest[1], 0)
    if kind == "max":
        image, dilation = (n, h, w, c), pair(rest[2], 1)
        return Pool(
            kind, *image, kernel, stride, padding, dilation, out_height=y[2], out_width=y[3], places=places
        )
    padded = True if rest[3] is None else bool(rest[3])
    return Pool(
        kind, n, h, w, c, kernel, stride, padding, (1, 1), padded, rest[4], out_height=y[2], out_width=y[3]
    )


def _adaptive(x: Shape, y: Shape) -> Pool:
    window = (x[2] // y[2], x[3] // y[3])
    return Pool("average", x[0], x[2], x[3], x[1], window, window, out_height=y[2], out_width=y[3])


def _pool(node: fx.Node) -> Call:
    x: fx.Node = node.args[0]  # type: ignore[assignment]
    shape = shape_of(x)
    if node.target is aten.max_pool2d_with_indices.default:
        items = _items(node)
        dtype = place_dtype(items.get(1))
        pool = _workload("max", shape, tuple(node.meta["val"][0].shape), node.args[1:], dtype)
        results = (Result(items.get(0), pool.y_shape), Result(items.get(1), pool.y_shape, dtype))
        return Call("pool", pool, (_activation(x, pool.x_shape),), results)
    if node.target is aten.avg_pool2d.default:
        pool = _workload("average", shape, shape_of(node), node.args[1:])
    else:
        pool = _adaptive(shape, shape_of(node))
    return Call("pool", pool, (_activation(x, pool.x_shape),), (Result(node, pool.y_shape),))


def _pool_gradient(node: fx.Node) -> Call:
    arguments: Any = node.args
    dy, x, *options = arguments
    shapes = shape_of(x), shape_of(dy)
    operands: tuple[Operand, ...]
    if node.target is aten.max_pool2d_with_indices_backward.default:
        places = options[-1]
        pool = _workload("max", *shapes, tuple(options[:-1]), place_dtype(source_of(places)[0]))
        operands = (_activation(dy, pool.y_shape), _activation(places, pool.y_shape))
    else:
        is_plain = node.target is aten.avg_pool2d_backward.default
        pool = _workload("average", *shapes, tuple(options)) if is_plain else _adaptive(*shapes)
        operands = (_activation(dy, pool.y_shape),)
    return Call(
        "pool_gradient", pool, operands, (Result(node, pool.x_shape, dtype_text(node.meta["val"].dtype)),)
    )
