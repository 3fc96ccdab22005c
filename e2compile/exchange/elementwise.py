"""ATen's element-wise calls as ONNX nodes."""

import numpy as np

from e2compile.exchange.calls import Call, Rule, Value, operand
from e2compile.exchange.values import Builder


def _plain(operator: str, of_flags: str | None = None) -> Rule:
    """One operator over all operands, each in the result's type; another for truth values."""

    def rule(builder: Builder, call: Call) -> None:
        inputs = [operand(builder, value, call.type.dtype) for value in call.arguments]
        chosen = of_flags if of_flags is not None and call.type.dtype == "bool" else operator
        builder.emit(chosen, inputs, call.results)

    return rule


def _scaled(operator: str, is_reversed: bool = False) -> Rule:
    """A sum or difference whose second operand, or first where it is reversed, is multiplied by alpha."""

    def rule(builder: Builder, call: Call) -> None:
        dtype, alpha = call.type.dtype, call.argument(2, "alpha", 1)
        a, b = (operand(builder, value, dtype) for value in call.arguments[:2])
        a, b = (b, a) if is_reversed else (a, b)
        if alpha != 1:
            b = builder.emit("Mul", [b, builder.constant(alpha, dtype)])
        builder.emit("Or" if dtype == "bool" else operator, [a, b], call.results)

    return rule


def _compare(operator: str, negated: bool = False) -> Rule:
    """A comparison in the type that both operands have in common."""

    def rule(builder: Builder, call: Call) -> None:
        a, b = call.arguments
        dtypes = [builder.types[v].dtype for v in (a, b) if isinstance(v, Value)]
        if not isinstance(b, Value) and isinstance(b, (float, dict)) and "float" not in dtypes[0]:
            dtypes.append("float32")
        common = np.result_type(*dtypes).name
        if common == "bool" and operator != "Equal":
            common = "int32"
        inputs = [operand(builder, value, common) for value in (a, b)]
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
        builder.emit(chosen, [operand(builder, v, dtype) for v in call.arguments], call.results)

    return rule


def _expm1(builder: Builder, call: Call) -> None:
    dtype = call.type.dtype
    grown = builder.emit("Exp", [operand(builder, call.arguments[0], dtype)])
    builder.emit("Sub", [grown, builder.constant(1, dtype)], call.results)


def _log1p(builder: Builder, call: Call) -> None:
    dtype = call.type.dtype
    inputs = [operand(builder, call.arguments[0], dtype), builder.constant(1, dtype)]
    builder.emit("Log", [builder.emit("Add", inputs)], call.results)


def _rsqrt(builder: Builder, call: Call) -> None:
    x = operand(builder, call.arguments[0], call.type.dtype)
    builder.emit("Reciprocal", [builder.emit("Sqrt", [x])], call.results)


def _exp2(builder: Builder, call: Call) -> None:
    dtype = call.type.dtype
    builder.emit(
        "Pow", [builder.constant(2, dtype), operand(builder, call.arguments[0], dtype)], call.results
    )


def _clamp(builder: Builder, call: Call) -> None:
    dtype = call.type.dtype
    lower = call.argument(1, "min") if call.operator != "aten.clamp_max" else None
    upper = call.argument(2, "max") if call.operator == "aten.clamp" else None
    upper = call.argument(1, "max") if call.operator == "aten.clamp_max" else upper
    value = operand(builder, call.arguments[0], dtype)
    bounds = [(name, bound) for name, bound in (("Max", lower), ("Min", upper)) if bound is not None]
    for i, (operator, bound) in enumerate(bounds):
        outputs = call.results if i == len(bounds) - 1 else None
        value = builder.emit(operator, [value, operand(builder, bound, dtype)], outputs)


def _where(builder: Builder, call: Call) -> None:
    condition, *values = call.arguments
    chosen = [operand(builder, value, call.type.dtype) for value in values]
    builder.emit("Where", [builder.cast(condition, "bool"), *chosen], call.results)


RULES: dict[str, Rule] = {
    "aten.add.Tensor": _scaled("Add"),
    "aten.add.Scalar": _scaled("Add"),
    "aten.sub.Tensor": _scaled("Sub"),
    "aten.sub.Scalar": _scaled("Sub"),
    "aten.rsub.Scalar": _scaled("Sub", is_reversed=True),
    "aten.mul.Tensor": _plain("Mul", of_flags="And"),
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
    "aten.expm1": _expm1,
    "aten.log1p": _log1p,
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
}
