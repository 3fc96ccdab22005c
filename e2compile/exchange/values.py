"""What an ONNX graph is built from: typed values by name, nodes in order, constants."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 18
E2 = "e2compile"
ATEN = "org.pytorch.aten"

_TYPE = re.compile(r"([a-z]+\d*)\[([\d, ]*)\]")
_RESULT = re.compile(r"[a-z]+\d*\[[\d, ]*\]|NoneType")
_DTYPES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "bool": "bool",
}


@dataclass(frozen=True)
class Type:
    """A tensor's element type, as numpy names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def parse(text: str) -> "Type | None":
        """From `f32[64, 16]`; None for what is no tensor."""
        match = _TYPE.fullmatch(text)
        if match is None or match[1] not in _DTYPES:
            return None
        return Type(_DTYPES[match[1]], tuple(int(size) for size in match[2].split(",") if size.strip()))

    @property
    def element(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def named(self, name: str, about: str = "") -> ValueInfoProto:
        return helper.make_tensor_value_info(name, self.element, self.shape, about)


def types(text: str) -> list[Type | None]:
    """The types of a call's results: one, or those in parentheses."""
    if not text.startswith("("):
        return [Type.parse(text)]
    return [Type.parse(part) for part in _RESULT.findall(text)]


@dataclass
class Builder:
    """One graph's nodes. `prefix` keeps the names of a branch apart from those around it."""

    prefix: str = ""
    nodes: list[NodeProto] = field(default_factory=list)
    types: dict[str, Type] = field(default_factory=dict)
    domains: set[str] = field(default_factory=lambda: {""})

    def emit(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; gives its first result's name, a new one without `outputs`."""
        names = [f"{self.prefix}value_{len(self.nodes)}"] if outputs is None else list(outputs)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, list(inputs), names, domain=domain, **given))
        self.domains.add(domain)
        return names[0]

    def constant(self, value: Any, dtype: str) -> str:
        array: NDArray[Any] = np.asarray(value, dtype)
        return self.emit("Constant", [], value=numpy_helper.from_array(array))

    def cast(self, name: str, dtype: str) -> str:
        """The value in another element type; itself where it has that already."""
        known = self.types.get(name)
        if known is not None and known.dtype == dtype:
            return name
        made = self.emit("Cast", [name], to=Type(dtype, ()).element)
        if known is not None:
            self.types[made] = Type(dtype, known.shape)
        return made


def tensor(name: str, array: NDArray[Any]) -> TensorProto:
    """An initial value."""
    return numpy_helper.from_array(np.ascontiguousarray(array), name)
