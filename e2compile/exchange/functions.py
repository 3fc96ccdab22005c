"""The e2 operators in ONNX: a domain of their own, and functions of it for what ONNX itself can say."""

from onnx import AttributeProto, FunctionProto, helper

from e2compile.exchange.calls import Call, Value
from e2compile.exchange.values import E2, OPSET, Builder

# Names of the arguments that are no tensors, after the tensors.
_ATTRIBUTES = {
    "guard": ("name", "frozen"),
    "uniform": ("site", "size"),
    "moments": (),
    "batch_norm": ("epsilon",),
    "power_of_two_above": (),
    "integer_input_gradient": ("size", "strides", "pads", "dilations", "group"),
    "integer_weight_gradient": ("size", "strides", "pads", "dilations", "group"),
    "integer_convolution": ("strides", "pads", "dilations", "group"),
}


def convert(builder: Builder, call: Call) -> None:
    """A call of an e2 operator, its attributes named as ONNX names them."""
    name = call.operator.removeprefix("e2.")
    names = _ATTRIBUTES[name]
    tensors, plain = call.arguments[: -len(names) or None], call.arguments[len(call.arguments) - len(names) :]
    named = dict(zip(names, plain, strict=True))
    if "pads" in named:
        named["pads"] = [*named["pads"], *named["pads"]]
    # an input that is left out has an empty name
    inputs = [value if isinstance(value, Value) else "" for value in tensors]
    given = {key: int(value) if isinstance(value, bool) else value for key, value in named.items()}
    builder.emit(name, inputs, call.results, E2, **{k: v for k, v in given.items() if v != []})


def functions() -> list[FunctionProto]:
    """`guard`, which is the mask itself, and `integer_convolution`, exact sums in int32."""
    opsets = [helper.make_opsetid("", OPSET)]
    identity = helper.make_node("Identity", ["mask"], ["live"])
    guard = helper.make_function(E2, "guard", ["mask"], ["live"], [identity], opsets, ["name", "frozen"])
    product = helper.make_node("ConvInteger", ["x", "weight"], ["y"])
    names = _ATTRIBUTES["integer_convolution"]
    for name in names:
        kind = AttributeProto.INT if name == "group" else AttributeProto.INTS
        product.attribute.append(AttributeProto(name=name, ref_attr_name=name, type=kind))
    inputs = ["x", "weight"]
    convolution = helper.make_function(E2, "integer_convolution", inputs, ["y"], [product], opsets, names)
    return [guard, convolution]
