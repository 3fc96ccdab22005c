"""What integer contractions that scale their sums have in common: their arguments, and how a sum leaves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm.script.ir_builder import IRBuilder

from e2compile.lower import functions
from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.emit import Samples, arguments, function, gate, samples, splat, typed

# What one of a high byte plane is of a low one's.
PLANE = 256


@dataclass(frozen=True)
class Scaled:
    """The arguments of the function: one source, or its high and low byte planes; step is float32 ()."""

    sources: tuple[Any, ...]
    weight: Any
    step: Any
    target: Any
    live: Samples


@dataclass(frozen=True)
class Signature:
    """Names and types of the sources, and of the result: float32, or uint16 for the bits of bfloat16."""

    name: str
    sources: Mapping[str, str]
    target: str
    dtype: str
    gated: bool


@contextmanager
def scaled(conv: Convolution, transposed: bool, how: Signature) -> Iterator[tuple[IRBuilder, Scaled]]:
    """A function (*sources, weight, step, [index, count], target) under construction."""
    given, made = (conv.y_shape, conv.x_shape) if transposed else (conv.x_shape, conv.y_shape)
    shapes: dict[str, Sequence[int]] = dict.fromkeys(how.sources, given)
    shapes |= {"weight": conv.weight_shape, "step": ()} | gate(conv, how.gated) | {how.target: made}
    with function(how.name) as builder:
        found = arguments(shapes, {**how.sources, "weight": "int8", how.target: how.dtype})
        sources = tuple(found[source] for source in how.sources)
        yield (
            builder,
            Scaled(sources, found["weight"], found["step"], found[how.target], samples(conv, found)),
        )


def result(planes: Sequence[Any], step: Any, dtype: str, width: int) -> Any:
    """Int32 lanes as the target has them."""
    value = product(planes, step, width)
    return value if dtype == "float32" else functions.narrowed(value)


def product(planes: Sequence[Any], step: Any, width: int) -> Any:
    """Int32 lanes times the step: those of byte planes are float32 before they are added."""
    value, *rest = [T.Cast(typed("float32", width), plane) for plane in planes]
    for low in rest:
        value = value * splat(T.float32(PLANE), width) + low
    return value * splat(step[0], width)
