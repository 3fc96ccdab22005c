"""A call on its way to ONNX, what of it becomes operands, and a node for what ONNX has no operator for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from e2compile.exchange.values import ATEN, Builder, Type


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


# Adds the nodes of a call to a graph.
Rule = Callable[[Builder, Call], None]


def opaque(builder: Builder, call: Call) -> None:
    """A node of ATen's domain: values are its inputs, whatever else is an attribute, by its place."""
    inputs: list[str] = []
    named: dict[str, Any] = {}
    for key, value in [*((f"argument_{i}", v) for i, v in enumerate(call.arguments)), *call.options.items()]:
        _attribute(inputs, named, key, value)
    operator = call.operator.removeprefix("aten.").replace(".", "_")
    builder.emit(operator, inputs, call.results, ATEN, **named)


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


def operand(builder: Builder, value: Any, dtype: str) -> str:
    """A value, or a number as a constant, in an element type."""
    if isinstance(value, Value):
        return builder.cast(value, dtype)
    return builder.constant(float(value["float"]) if isinstance(value, dict) else value, dtype)
