"""Loops over live samples: which places along the batch axis a kernel visits, and whether it runs at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from e2compile.lower.loop import Loop
from e2compile.targets.llvm.evaluate import Axis


@dataclass(frozen=True)
class Rows:
    """The axis that counts samples, the list of live ones and its length; without `axis` there is no list."""

    axis: Axis | None = None
    index: Any = None
    count: Any = None

    def extent(self, axis: Axis) -> Any:
        """How many places of an axis are visited."""
        return self.count if axis == self.axis else axis.extent

    def place(self, axis: Axis, position: Any) -> Any:
        """The `position`-th of them."""
        return T.bind(self.index[position]) if axis == self.axis else position


def rows(loop: Loop, axes: list[Axis], arguments: list[Any]) -> Rows:
    """The samples that a loop's gate lets live, from its arguments."""
    if loop.gate is None:
        return Rows()
    count = T.bind(arguments[-1][0])
    if loop.gate.batch is None:
        return Rows(count=count)
    axis = next(a for a in axes if loop.gate.batch in a.dims)
    return Rows(axis, arguments[0], count)


def gate_arguments(loop: Loop) -> list[Any]:
    """`index` [samples] and `count` [1], or the count alone, as arguments of the function being built."""
    if loop.gate is None:
        return []
    batch = loop.gate.batch
    index = [] if batch is None else [T.arg("index", T.buffer((loop.shape[batch],), "int32"))]
    return [*index, T.arg("count", T.buffer((1,), "int32"))]


@contextmanager
def where_live(loop: Loop, live: Rows) -> Iterator[None]:
    """The kernel's whole body: nothing, not even a parallel loop, where no sample lives."""
    if loop.gate is None or loop.gate.always:
        yield
    else:
        with T.If(live.count > 0), T.Then():
            yield


def live_samples(samples: int, source: str) -> PrimFunc:
    """Lists samples.

    From a "mask" [samples], bool: (mask, index, count), those where it holds. From a "predicate" (), bool:
    (predicate, index, count), all or none. From a "list": (predicate, count, result), its length or zero.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(f"live_samples_of_{source}")
        T.func_attr({"tirx.noalias": True})
        shape = (samples,) if source == "mask" else ()
        condition = T.arg("condition", T.buffer(shape, "bool"))
        outer = T.arg("outer", T.buffer((1,), "int32")) if source == "list" else None
        index: Any = T.arg("index", T.buffer((samples,), "int32")) if outer is None else None
        count = T.arg("count", T.buffer((1,), "int32"))
        T.buffer_store(count, 0, [0])
        if source == "mask":
            _list(condition, index, count, samples)
        elif outer is None:
            with T.serial(0, samples) as sample:
                T.buffer_store(index, sample, [sample])
            with T.If(condition[()]), T.Then():
                T.buffer_store(count, samples, [0])
        else:
            with T.If(T.And(outer[0] > 0, condition[()])), T.Then():
                T.buffer_store(count, outer[0], [0])
    return builder.get()


def _list(mask: Any, index: Any, count: Any, samples: int) -> None:
    """Live samples in their order; the rest of the list names the first sample, which is always there."""
    with T.serial(0, samples) as sample:
        T.buffer_store(index, 0, [sample])
    with T.serial(0, samples) as sample, T.If(mask[sample]), T.Then():
        T.buffer_store(index, sample, [count[0]])
        T.buffer_store(count, count[0] + 1, [0])
