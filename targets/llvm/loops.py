"""Element-wise kernels: a fused loop run in parallel over rows and in vectors along the innermost axis."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from e2compile.lower.loop import Loop
from e2compile.targets.llvm.evaluate import Body
from e2compile.targets.llvm.machine import Machine

# Below this many elements, waking the other threads costs more than they save.
PARALLEL_ELEMENTS = 16384
_CHUNKS = 64


@contextmanager
def kernel(loop: Loop, result: list[PrimFunc]) -> Iterator[list[Any]]:
    """Open a function over a loop's buffers; gives each as a flat view, donated outputs sharing their input's."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(loop.name)
            T.func_attr({"tirx.noalias": True})
            donors = [None] * loop.inputs + list(loop.donated)
            arguments = [
                T.arg(f"b{i}", T.buffer(buffer.physical, buffer.dtype)) if donor is None else None
                for i, (buffer, donor) in enumerate(zip(loop.buffers, donors, strict=True))
            ]
            views: list[Any] = []
            for argument, buffer, donor in zip(arguments, loop.buffers, donors, strict=True):
                size = math.prod(buffer.physical)
                is_new = donor is None
                views.append(T.decl_buffer((size,), buffer.dtype, data=argument.data) if is_new else views[donor])
            yield views
        result.append(builder.get())


def lanes(extent: int, machine: Machine) -> int:
    """Elements of one vector along an axis: a power of two that divides it, or a full one with a tail."""
    divisor = math.gcd(extent, machine.lanes)
    return divisor if divisor >= 4 or extent < machine.lanes else machine.lanes


def elementwise(loop: Loop, machine: Machine) -> PrimFunc:
    """A loop with stores alone."""
    result: list[PrimFunc] = []
    with kernel(loop, result) as views:
        body = Body(loop, views)
        *outer, last = body.axes
        width = lanes(last.extent, machine)
        rows = math.prod(axis.extent for axis in outer)
        is_parallel = math.prod(loop.shape) >= PARALLEL_ELEMENTS
        if rows > 1:
            with (T.parallel if is_parallel else T.serial)(0, rows) as row:
                point = unflatten(row, [axis.extent for axis in outer])
                with T.serial(0, last.extent // width) as block:
                    _store(body, views, point, block * width, width)
                _tail(body, views, point, last.extent, width)
        else:
            _flat(body, views, [0 for _ in outer], last.extent, width, is_parallel)
    return result[0]


def _flat(body: Body, views: list[Any], point: list[Any], extent: int, width: int, is_parallel: bool) -> None:
    blocks = extent // width
    chunk = -(-blocks // _CHUNKS) if is_parallel else blocks
    with (T.parallel if is_parallel else T.serial)(0, -(-blocks // max(chunk, 1))) as part:
        with T.serial(0, T.min(chunk, blocks - part * chunk)) as block:
            _store(body, views, point, (part * chunk + block) * width, width)
    _tail(body, views, point, extent, width)


def _tail(body: Body, views: list[Any], point: list[Any], extent: int, width: int) -> None:
    start = extent // width * width
    if start < extent:
        with T.serial(0, extent - start) as lane:
            _assign(body, views, [*point, lane + start])


def _store(body: Body, views: list[Any], point: list[Any], start: Any, width: int) -> None:
    vectorized(width, lambda lane: _assign(body, views, [*point, start + lane]))


def _assign(body: Body, views: list[Any], point: Sequence[Any]) -> None:
    values = body.values(point)
    for value, target in body.loop.stores:
        buffer = body.loop.buffers[target]
        T.buffer_store(views[target], values[value], [body.address(buffer, point)])


def vectorized(width: int, body: Callable[[Any], None]) -> None:
    if width == 1:
        body(0)
        return
    with T.vectorized(0, width) as lane:
        body(lane)


def unflatten(linear: Any, extents: Sequence[int]) -> list[Any]:
    """One index for each extent from their joint linear index."""
    result: list[Any] = []
    for k, extent in enumerate(reversed(extents)):
        is_outermost = k == len(extents) - 1
        result.append(linear if is_outermost else linear % extent)
        linear = linear // extent
    return result[::-1]
