"""Element-wise kernels: a fused loop run in parallel over rows and in vectors along the innermost axis."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from e2compile.lower.loop import Buffer, Loop
from e2compile.targets.llvm import ahead
from e2compile.targets.llvm.evaluate import Body, axes
from e2compile.targets.llvm.gating import Rows, gate_arguments, rows, where_live
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.unswitch import decided, row_flag

# Below this many elements, waking the other threads costs more than they save.
PARALLEL_ELEMENTS = 16384
_CHUNKS = 64


@contextmanager
def kernel(loop: Loop, result: list[PrimFunc]) -> Iterator[tuple[list[Any], Rows]]:
    """Open a function over a loop's buffers; gives each as a flat view, donated outputs as their input's,
    and the samples it runs for."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(loop.name)
            T.func_attr({"tirx.noalias": True})
            donors = [None] * loop.inputs + list(loop.donated)
            given = list(zip(loop.buffers, donors, strict=True))
            arguments = [_argument(i, *pair) for i, pair in enumerate(given[: loop.inputs])]
            gates = gate_arguments(loop)
            arguments += [_argument(i, *pair) for i, pair in enumerate(given[loop.inputs :], loop.inputs)]
            views: list[Any] = []
            for argument, buffer, donor in zip(arguments, loop.buffers, donors, strict=True):
                if donor is None:
                    size = math.prod(buffer.physical)
                    views.append(T.decl_buffer((size,), buffer.dtype, data=argument.data))
                else:
                    views.append(views[donor])
            live = rows(loop, axes(loop), gates)
            with where_live(loop, live):
                yield views, live
        result.append(builder.get())


def _argument(number: int, buffer: Buffer, donor: int | None) -> Any:
    return T.arg(f"b{number}", T.buffer(buffer.physical, buffer.dtype)) if donor is None else None


def lanes(extent: int, machine: Machine) -> int:
    """Elements of one vector along an axis: a power of two that divides it, or a full one with a tail."""
    divisor = math.gcd(extent, machine.lanes)
    return divisor if divisor >= 4 or extent < machine.lanes else machine.lanes


def elementwise(loop: Loop, machine: Machine) -> PrimFunc:
    """A loop with stores alone."""
    result: list[PrimFunc] = []
    with kernel(loop, result) as (views, live):
        whole = Body(loop, views)
        bodies = [Body(loop, views, segment) for segment in whole.segments()]
        outer = whole.axes[:-1]
        extents = [live.extent(axis) for axis in outer]
        is_parallel = math.prod(loop.shape) >= PARALLEL_ELEMENTS
        if math.prod(axis.extent for axis in outer) > 1:
            with (T.parallel if is_parallel else T.serial)(0, math.prod(extents)) as row:
                positions = zip(outer, unflatten(row, extents), strict=True)
                point = [live.place(axis, position) for axis, position in positions]
                _unswitched(whole, bodies, point, machine)
        else:
            for body in bodies:
                _row(body, [0 for _ in outer], machine, is_parallel)
    return result[0]


def _unswitched(whole: Body, bodies: Sequence[Body], point: list[Any], machine: Machine) -> None:
    """A row; where a flag of it decides what is read, one loop for each value of the flag."""
    flag = row_flag(whole.loop, whole.axes[-1].dims)
    if flag is None:
        for body in bodies:
            _row(body, point, machine, False)
        return
    with T.If(whole.flag(flag, [*point, 0])):
        for value, branch in ((True, T.Then), (False, T.Else)):
            loop = decided(whole.loop, flag, value)
            with branch():
                for body in bodies:
                    _row(Body(loop, whole.views, body.segment, whole.axes), point, machine, False)


def _row(body: Body, point: list[Any], machine: Machine, is_parallel: bool) -> None:
    """A segment of the innermost axis: vectors, in chunks where in parallel, then a tail."""
    segment = body.segment
    assert segment is not None
    extent = segment.stop - segment.start
    width = lanes(extent, machine) if segment.is_vector else 1
    blocks = extent // width
    chunk = -(-blocks // _CHUNKS) if is_parallel else blocks
    parts = -(-blocks // max(chunk, 1))
    loop = T.parallel if is_parallel else T.serial
    with loop(0, parts) as part, T.serial(0, T.min(chunk, blocks - part * chunk)) as block:
        start = segment.start + (part * chunk + block) * width
        ahead.ask(body, [*point, start])
        vectorized(width, lambda lane: _assign(body, [*point, start + lane]))
    if blocks * width < extent:
        with T.serial(0, extent - blocks * width) as lane:
            _assign(body, [*point, lane + (segment.start + blocks * width)])


def _assign(body: Body, point: Sequence[Any]) -> None:
    values = body.values(point)
    for value, target in body.loop.stores:
        buffer = body.loop.buffers[target]
        body.store(target, values[value], body.address(buffer, point))


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
