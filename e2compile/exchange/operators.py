"""ATen calls as ONNX nodes. What ONNX has no operator for is a node of the domain org.pytorch.aten."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from e2compile.exchange.values import ATEN, E2, Builder, Type


@dataclass(frozen=True)
class Call:
    """A call of a graph: its operator, its arguments with names of values for nodes, its results' names."""

    operator: str
    arguments: list[Any]
    options: dict[str, Any]
    results: list[str]
    types: list[Type | None]

    @property
    def type(self) -> Type:
        found = self.types[0]
        assert found is not None
        return found

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.arguments[place] if len(self.arguments) > place else self.options.get(name, default)


class Value(str):
    """The name of a value among a call's arguments."""


Rule = Callable[[Builder, Call], None]


def convert(builder: Builder, call: Call) -> None:
    """Add a call's nodes to a graph."""
    for name, known in zip(call.results, call.types, strict=True):
        if known is not None:
            builder.types[name] = known
    rule = RULES.get(call.operator, opaque)
    (rule if rule is opaque or _fits(builder, call) else opaque)(builder, call)


def _fits(builder: Builder, call: Call) -> bool:
    """Whether a rule has all that it needs: types of the first result and of what is read."""
    return call.types[0] is not None and all(
        v in builder.types for v in call.arguments if isinstance(v, Value)
    )


def opaque(builder: Builder, call: Call) -> None:
    """A node of the operator's own domain: values are its inputs, whatever else is an attribute by place."""
    namespace, _, name = call.operator.partition(".")
    inputs: list[str] = []
    named: dict[str, Any] = {}
    for key, value in [*((f"argument_{i}", v) for i, v in enumerate(call.arguments)), *call.options.items()]:
        _attribute(inputs, named, key, value)
    domain = {"e2": E2, "aten": ATEN}.get(namespace, ATEN)
    operator = (name or namespace).replace(".", "_")
    builder.emit(operator, inputs, call.results, domain, **named)


def _attribute(inputs: list[str], named: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, Value):
        inputs.append(value)
    elif isinstance(value, dict):
        named[key] = str(next(iter(value.values())))
    elif isinstance(value, list) and any(isinstance(v, Value) for v in value):
        inputs.extend(v for v in value if isinstance(v, Value))
    elif isinstance(value, list) and not value:
        return
    elif isinstance(value, list) and isinstance(value[0], bool):
        named[key] = [int(v) for v in value]
    elif isinstance(value, bool):
        named[key] = int(value)
    else:
        named[key] = value


def _operand(builder: Builder, value: Any, dtype: str) -> str:
    """A value, or a number as a constant, in an element type."""
    if isinstance(value, Value):
        return builder.cast(value, dtype)
    return builder.constant(float(value["float"]) if isinstance(value, dict) else value, dtype)


def _plain(operator: str) -> Rule:
    """One operator over all operands, each in the result's type."""

    def rule(builder: Builder, call: Call) -> None:
        inputs = [_operand(builder, value, call.type.dtype) for value in call.arguments]
        builder.emit(operator, inputs, call.results)

    return rule


def _scaled(operator: str, is_reversed: bool = False) -> Rule:
    """A sum or difference whose second operand, or first where it is reversed, is multiplied by alpha."""

    def rule(builder: Builder, call: Call) -> None:
        dtype, alpha = call.type.dtype, call.argument(2, "alpha", 1)
        a, b = (_operand(builder, value, dtype) for value in call.arguments[:2])
        a, b = (b, a) if is_reversed else (a, b)
        if alpha != 1:
            b = builder.emit("Mul", [b, builder.constant(alpha, dtype)])
        builder.emit(operator, [a, b], call.results)

    return rule


def _compare(operator: str, negated: bool = False) -> Rule:
    """A comparison in the type that both operands have in common."""

    def rule(builder: Builder, call: Call) -> None:
        a, b = call.arguments
        dtypes = [builder.types[v].dtype for v in (a, b) if isinstance(v, Value)]
        if not isinstance(b, Value) and isinstance(b, (float, dict)) and "float" not in dtypes[0]:
            dtypes.append("float32")
        common = np.result_type(*dtypes).name
        inputs = [_operand(builder, value, common) for value in (a, b)]
        if negated:
            builder.emit("Not", [builder.emit(operator, inputs)], call.results)
        else:
            builder.emit(operator, inputs, call.results)

    return rule


def _logical(operator: str, bitwise: str | None = None) -> Rule:
    """A connective of truth values, or of bits where the result is no truth value."""

    def rule(builder: Builder, call: Call) -> None:
        dtype = call.type.dtype
        chosen = bitwise if bitwise is not None and dtype != "bool" else operator
        builder.emit(chosen, [_operand(builder, v, dtype) for v in call.arguments], call.results)

    return rule


def _composed(first: str, second: str, constant: float, before: bool) -> Rule:
    """A function of a sum with a constant, or a sum of a function with one."""

    def rule(builder: Builder, call: Call) -> None:
        dtype = call.type.dtype
        x, one = _operand(builder, call.arguments[0], dtype), builder.constant(constant, dtype)
        inner = builder.emit(first, [x, one] if before else [x])
        builder.emit(second, [inner] if before else [inner, one], call.results)

    return rule


def _rsqrt(builder: Builder, call: Call) -> None:
    x = _operand(builder, call.arguments[0], call.type.dtype)
    builder.emit("Reciprocal", [builder.emit("Sqrt", [x])], call.results)


def _exp2(builder: Builder, call: Call) -> None:
    dtype = call.type.dtype
    builder.emit(
        "Pow", [builder.constant(2, dtype), _operand(builder, call.arguments[0], dtype)], call.results
    )


def _clamp(builder: Builder, call: Call) -> None:
    dtype = call.type.dtype
    lower = call.argument(1, "min") if call.operator != "aten.clamp_max" else None
    upper = call.argument(2, "max") if call.operator == "aten.clamp" else None
    upper = call.argument(1, "max") if call.operator == "aten.clamp_max" else upper
    value = _operand(builder, call.arguments[0], dtype)
    bounds = [(name, bound) for name, bound in (("Max", lower), ("Min", upper)) if bound is not None]
    for i, (operator, bound) in enumerate(bounds):
        outputs = call.results if i == len(bounds) - 1 else None
        value = builder.emit(operator, [value, _operand(builder, bound, dtype)], outputs)


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
    inputs = [_operand(builder, value, call.type.dtype) for value in call.arguments[0]]
    builder.emit("Concat", inputs, call.results, axis=call.argument(1, "dim", 0))


def _full(builder: Builder, call: Call) -> None:
    value = call.arguments[0 if call.operator == "aten.scalar_tensor" else 1]
    constant = _operand(builder, value, call.type.dtype)
    builder.emit("Expand", [constant, builder.constant(call.type.shape, "int64")], call.results)


def _where(builder: Builder, call: Call) -> None:
    condition, *values = call.arguments
    chosen = [_operand(builder, value, call.type.dtype) for value in values]
    builder.emit("Where", [builder.cast(condition, "bool"), *chosen], call.results)


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
    given = {"ceil_mode": int(ceil), "count_include_pad": int(count)}
    builder.emit("AveragePool", [call.arguments[0]], call.results, **_window(call), **given)


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
    sizes = zip(builder.types[call.arguments[0]].shape[-2:], call.type.shape[-2:], strict=True)
    window = [whole // part for whole, part in sizes]
    builder.emit("AveragePool", [call.arguments[0]], call.results, kernel_shape=window, strides=window)


RULES: dict[str, Rule] = {
    "aten.add.Tensor": _scaled("Add"),
    "aten.add.Scalar": _scaled("Add"),
    "aten.sub.Tensor": _scaled("Sub"),
    "aten.sub.Scalar": _scaled("Sub"),
    "aten.rsub.Scalar": _scaled("Sub", is_reversed=True),
    "aten.mul.Tensor": _plain("Mul"),
    "aten.mul.Scalar": _plain("Mul"),
    "aten.div.Tensor": _plain("Div"),
    "aten.div.Scalar": _plain("Div"),
    "aten.maximum": _plain("Max"),
    "aten.minimum": _plain("Min"),
    "aten.pow.Tensor_Scalar": _plain("Pow"),
    "aten.pow.Tensor_Tensor": _plain("Pow"),
    "aten.mm": _plain("MatMul"),
    **{
        f"aten.{name.lower()}": _plain(name)
        for name in (
            *("Neg", "Abs", "Sign", "Reciprocal", "Sqrt", "Exp", "Log", "Sin", "Cos", "Tanh", "Erf"),
            *("Sigmoid", "Relu", "Floor", "Ceil"),
        )
    },
    "aten.rsqrt": _rsqrt,
    "aten.exp2": _exp2,
    "aten.expm1": _composed("Exp", "Add", -1.0, before=False),
    "aten.log1p": _composed("Add", "Log", 1.0, before=True),
    **dict.fromkeys(("aten.clamp", "aten.clamp_min", "aten.clamp_max"), _clamp),
    **{
        f"aten.{name}.{overload}": _compare(operator, negated)
        for name, operator, negated in (
            ("eq", "Equal", False),
            ("ne", "Equal", True),
            ("lt", "Less", False),
            ("le", "LessOrEqual", False),
            ("gt", "Greater", False),
            ("ge", "GreaterOrEqual", False),
        )
        for overload in ("Tensor", "Scalar")
    },
    "aten.logical_and": _logical("And"),
    "aten.logical_or": _logical("Or"),
    "aten.logical_not": _logical("Not"),
    "aten.bitwise_and.Tensor": _logical("And", "BitwiseAnd"),
    "aten.bitwise_or.Tensor": _logical("Or", "BitwiseOr"),
    "aten.bitwise_not": _logical("Not", "BitwiseNot"),
    "aten.where.self": _where,
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
