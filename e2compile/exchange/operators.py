"""ATen calls as ONNX nodes. What ONNX has no operator for is a node of the domain org.pytorch.aten."""

from e2compile.exchange import elementwise, structure
from e2compile.exchange.calls import Call, Value, opaque
from e2compile.exchange.values import Builder

RULES = elementwise.RULES | structure.RULES


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
