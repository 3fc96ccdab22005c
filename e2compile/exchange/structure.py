"""ATen's views, reductions, contractions and poolings as ONNX nodes."""

import math
from typing import Any

import numpy as np

from e2compile.exchange.calls import Call, Rule, opaque, operand
from e2compile.exchange.values import Builder


def _identity(builder: Builder, call: Call) -> None:
    builder.emit("Identity", [call.arguments[0]], call.results)


def _cast(builder: Builder, call: Call) -> None:
    builder.emit("Cast", [call.arguments[0]], call.results, to=call.type.element)


def _reshape(builder: Builder, call: Call) -> None:
    builder.emit("Reshape", [call.arguments[0], builder.constant(call.type.shape, "int64")], call.results)


def _expand(builder: Builder, call: Call) -> None:
    builder.emit("Expand", [call.arguments[0], builder.constant(call.type.shape, "int64")], call.results)


def _transpose(builder: Builder, call: Call) -> None:
    rank = len(call.type.shape)
    order = list(range(rank))
    if call.operator == "aten.permute":
        order = [d % rank for d in call.arguments[1]]
    elif call.operator == "aten.t":
        order.reverse()
    else:
        a, b = (d % rank for d in call.arguments[1:3])
        order[a], order[b] = b, a
    builder.emit("Transpose", [call.arguments[0]], call.results, perm=order)


def _slice(builder: Builder, call: Call) -> None:
    dim, start, end, step = (call.argument(i + 1, "", default) for i, default in enumerate((0, 0, None, 1)))
    end = np.iinfo(np.int64).max if end is None else end
    places = [builder.constant([value], "int64") for value in (start or 0, end, dim, step)]
    builder.emit("Slice", [call.arguments[0], *places], call.results)


def _select(builder: Builder, call: Call) -> None:
    x, dim, index = call.arguments
    builder.emit("Gather", [x, builder.constant(index, "int64")], call.results, axis=dim)


def _gather(builder: Builder, call: Call) -> None:
    x, dim, index = call.arguments[:3]
    builder.emit("GatherElements", [x, index], call.results, axis=dim)


def _scatter(builder: Builder, call: Call) -> None:
    x, dim, index, value = call.arguments
    shape = builder.constant(builder.types[index].shape, "int64")
    source = builder.emit("Expand", [builder.constant(value, call.type.dtype), shape])
    builder.emit("ScatterElements", [x, index, source], call.results, axis=dim)


def _concatenate(builder: Builder, call: Call) -> None:
    inputs = [operand(builder, value, call.type.dtype) for value in call.arguments[0]]
    builder.emit("Concat", inputs, call.results, axis=call.argument(1, "dim", 0))


def _repeat(builder: Builder, call: Call) -> None:
    x, times = call.arguments
    shape = builder.types[x].shape
    padded = builder.constant([1] * (len(times) - len(shape)) + list(shape), "int64")
    inputs = [builder.emit("Reshape", [x, padded]), builder.constant(times, "int64")]
    builder.emit("Tile", inputs, call.results)


def _flip(builder: Builder, call: Call) -> None:
    x, dims = call.arguments
    lowest = np.iinfo(np.int64).min
    places = [[-1] * len(dims), [lowest] * len(dims), dims, [-1] * len(dims)]
    builder.emit("Slice", [x, *(builder.constant(p, "int64") for p in places)], call.results)


def _pad(builder: Builder, call: Call) -> None:
    """ATen counts from the last dimension; ONNX wants all that is before, then all that is after."""
    x, padding = call.arguments[:2]
    value = operand(builder, call.argument(2, "value", 0), call.type.dtype)
    rest = [0] * (len(call.type.shape) - len(padding) // 2)
    before, after = padding[::2][::-1], padding[1::2][::-1]
    pads = builder.constant([*rest, *before, *rest, *after], "int64")
    builder.emit("Pad", [x, pads, value], call.results)


def _range(builder: Builder, call: Call) -> None:
    start, step = call.arguments[0], call.argument(2, "step", 1)
    values = [start + i * step for i in range(call.type.shape[0])]
    builder.emit("Identity", [builder.constant(values, call.type.dtype)], call.results)


def _full(builder: Builder, call: Call) -> None:
    value = call.arguments[0 if call.operator == "aten.scalar_tensor" else 1]
    constant = operand(builder, value, call.type.dtype)
    builder.emit("Expand", [constant, builder.constant(call.type.shape, "int64")], call.results)


def _axes(builder: Builder, call: Call) -> list[int]:
    """The dimensions that a reduction reduces, all by default."""
    given = call.argument(1, "dim")
    rank = len(builder.types[call.arguments[0]].shape)
    dims = [given] if isinstance(given, int) else given or range(rank)
    return [d % rank for d in dims]


def _reduce(operator: str) -> Rule:
    def rule(builder: Builder, call: Call) -> None:
        x, keep = call.arguments[0], bool(call.argument(2, "keepdim", False))
        is_flag = call.type.dtype == "bool"
        value = builder.cast(x, "int32" if is_flag else call.type.dtype)
        axes = builder.constant(_axes(builder, call), "int64")
        if is_flag:
            reduced = builder.emit(operator, [value, axes], keepdims=int(keep))
            builder.emit("Cast", [reduced], call.results, to=call.type.element)
        else:
            builder.emit(operator, [value, axes], call.results, keepdims=int(keep))

    return rule


def _argmax(builder: Builder, call: Call) -> None:
    x, dim = call.arguments[0], call.argument(1, "dim")
    if dim is None:
        x, dim = builder.emit("Reshape", [x, builder.constant([-1], "int64")]), 0
    builder.emit(
        "ArgMax", [x], call.results, axis=dim, keepdims=int(bool(call.argument(2, "keepdim", False)))
    )


def _moments(builder: Builder, call: Call) -> None:
    """Variance and mean."""
    x, dtype = call.arguments[0], call.type.dtype
    axes, shape = _axes(builder, call), builder.types[call.arguments[0]].shape
    places, keep = builder.constant(axes, "int64"), int(bool(call.options.get("keepdim", False)))
    divisor = math.prod(shape[d] for d in axes) - (call.options.get("correction", 1) or 0)
    mean = builder.emit("ReduceMean", [x, places], keepdims=1)
    squares = builder.emit("ReduceSumSquare", [builder.emit("Sub", [x, mean]), places], keepdims=keep)
    builder.emit("Div", [squares, builder.constant(divisor, dtype)], call.results[:1])
    builder.emit("ReduceMean", [x, places], call.results[1:], keepdims=keep)


def _convolution(builder: Builder, call: Call) -> None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = call.arguments
    inputs = [x, weight, *([bias] if bias is not None else [])]
    given = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
    if transposed:
        builder.emit("ConvTranspose", inputs, call.results, output_padding=output_padding, **given)
    else:
        builder.emit("Conv", inputs, call.results, **given)


def _window(call: Call) -> dict[str, Any]:
    """Size, stride and padding of a pooling."""
    size = call.arguments[1]
    stride = call.argument(2, "stride") or size
    padding = call.argument(3, "padding") or [0, 0]
    square = [list(v) * 2 if len(v) == 1 else list(v) for v in (size, stride, padding)]
    return {"kernel_shape": square[0], "strides": square[1], "pads": [*square[2], *square[2]]}


def _average_pool(builder: Builder, call: Call) -> None:
    ceil, count, divisor = call.argument(4, "", False), call.argument(5, "", True), call.argument(6, "")
    if divisor is not None:
        opaque(builder, call)
        return
    given = _window(call) | {"ceil_mode": int(ceil), "count_include_pad": int(count)}
    builder.emit("AveragePool", [call.arguments[0]], call.results, **given)


def _max_pool(builder: Builder, call: Call) -> None:
    """The places of maxima count within a plane in ATen, from the tensor's start in ONNX."""
    dilation, ceil = call.argument(4, "", [1, 1]), call.argument(5, "", False)
    dilation = list(dilation) * 2 if len(dilation) == 1 else dilation
    plane = math.prod(builder.types[call.arguments[0]].shape[-2:])
    places = f"{call.results[1]}_in_tensor"
    given = {"dilations": dilation, "ceil_mode": int(ceil), **_window(call)}
    builder.emit("MaxPool", [call.arguments[0]], [call.results[0], places], **given)
    builder.emit("Mod", [places, builder.constant(plane, "int64")], call.results[1:])


def _adaptive_pool(builder: Builder, call: Call) -> None:
    sizes = [*zip(builder.types[call.arguments[0]].shape[-2:], call.type.shape[-2:], strict=True)]
    if any(whole % part for whole, part in sizes):
        opaque(builder, call)
        return
    window = [whole // part for whole, part in sizes]
    builder.emit("AveragePool", [call.arguments[0]], call.results, kernel_shape=window, strides=window)


RULES: dict[str, Rule] = {
    "aten._to_copy": _cast,
    **dict.fromkeys(("aten.detach", "aten.alias", "aten.clone"), _identity),
    **dict.fromkeys(("aten.view", "aten._unsafe_view", "aten.reshape", "aten.unsqueeze"), _reshape),
    **dict.fromkeys(("aten.squeeze", "aten.squeeze.dim", "aten.squeeze.dims"), _reshape),
    "aten.expand": _expand,
    **dict.fromkeys(("aten.permute", "aten.t", "aten.transpose.int"), _transpose),
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.gather": _gather,
    "aten.scatter.value": _scatter,
    "aten.cat": _concatenate,
    "aten.repeat": _repeat,
    "aten.flip": _flip,
    "aten.constant_pad_nd": _pad,
    "aten.arange.start_step": _range,
    **dict.fromkeys(("aten.full", "aten.full_like", "aten.scalar_tensor"), _full),
    "aten.sum.dim_IntList": _reduce("ReduceSum"),
    "aten.mean": _reduce("ReduceMean"),
    "aten.mean.dim": _reduce("ReduceMean"),
    "aten.amax": _reduce("ReduceMax"),
    "aten.amin": _reduce("ReduceMin"),
    "aten.any": _reduce("ReduceMax"),
    "aten.argmax": _argmax,
    "aten.var_mean.correction": _moments,
    "aten.convolution": _convolution,
    "aten.avg_pool2d": _average_pool,
    "aten.max_pool2d_with_indices": _max_pool,
    "aten._adaptive_avg_pool2d": _adaptive_pool,
}
