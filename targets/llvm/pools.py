"""Pooling kernels, forward and gradient: parallel over rows, vectors along channels."""

import math
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from e2compile.lower import functions
from e2compile.lower.workload import Pool
from e2compile.targets.llvm.emit import Samples, gate, samples, unless_empty
from e2compile.targets.llvm.loops import lanes, vectorized
from e2compile.targets.llvm.machine import Machine


def pool(workload: Pool, machine: Machine, gated: bool = False) -> PrimFunc:
    """Arguments: x, [index, count], y, and for max pooling the places [N, OH, OW, C], of their type."""
    result: list[PrimFunc] = []
    with _function(result, f"{workload.kind}_pool"):
        x = T.arg("x", T.buffer(workload.x_shape, "float32"))
        live = _live(workload, gated)
        y = T.arg("y", T.buffer(workload.y_shape, "float32"))
        if workload.kind == "max":
            places = T.arg("places", T.buffer(workload.y_shape, workload.places))
            body = partial(_maximum, workload, x, y, places)
        else:
            body = partial(_average, workload, x, y)
        _each(workload.y_shape, live(), machine, body)
    return result[0]


def pool_gradient(workload: Pool, machine: Machine, gated: bool = False) -> PrimFunc:
    """Arguments: dy, for max pooling the places, [index, count], dx."""
    result: list[PrimFunc] = []
    with _function(result, f"{workload.kind}_pool_gradient"):
        dy = T.arg("dy", T.buffer(workload.y_shape, "float32"))
        is_max = workload.kind == "max"
        places = T.arg("places", T.buffer(workload.y_shape, workload.places)) if is_max else None
        live = _live(workload, gated)
        dx = T.arg("dx", T.buffer(workload.x_shape, "float32"))
        _each(workload.x_shape, live(), machine, partial(_gradient, workload, dy, places, dx))
    return result[0]


@contextmanager
def _function(result: list[PrimFunc], name: str) -> Any:
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            yield
        result.append(builder.get())


def _live(workload: Pool, gated: bool) -> Callable[[], Samples]:
    """Declares the arguments that say which samples live; they are read after the last argument."""
    given = {name: T.arg(name, T.buffer(shape, "int32")) for name, shape in gate(workload, gated).items()}
    return lambda: samples(workload, given)


def _each(
    shape: tuple[int, ...], live: Samples, machine: Machine, body: Callable[[list[Any], int], None]
) -> None:
    """Run a body for each block of channels of the live samples' pixels, given as [n, h, w, channel]."""
    _, h, w, c = shape
    width = lanes(c, machine)
    width = width if c % width == 0 else 1
    with unless_empty(live), T.parallel(0, live.number * h) as row:
        sample = T.bind(live[row // h])
        with T.serial(0, w) as column, T.serial(0, c // width) as block:
            body([sample, row % h, column, block * width], width)


def _window(workload: Pool, axis: int, out: Any) -> tuple[Any, Any, Any]:
    """First and last-plus-one tap inside the image along an axis, and the input position of tap 0."""
    size = (workload.height, workload.width)[axis]
    kernel, dilation = workload.kernel[axis], workload.dilation[axis]
    start = out * workload.stride[axis] - workload.padding[axis]
    first = T.max(0, (0 - start + dilation - 1) // dilation)
    last = T.min(kernel, (size - 1 - start) // dilation + 1)
    return first, last, start


def _maximum(workload: Pool, x: Any, y: Any, places: Any, at: list[Any], width: int) -> None:
    n, oh, ow, c = at
    (first_h, last_h, start_h), (first_w, last_w, start_w) = (_window(workload, i, at[1 + i]) for i in (0, 1))
    best = T.alloc_buffer((width,), "float32", scope="global")
    where = T.alloc_buffer((width,), workload.places, scope="global")
    corner = _place(workload, (start_h, start_w), (first_h, first_w))
    vectorized(width, lambda lane: T.buffer_store(best, tirx.const(-math.inf, "float32"), [lane]))
    vectorized(width, lambda lane: T.buffer_store(where, corner, [lane]))
    with T.serial(first_h, last_h) as kh, T.serial(first_w, last_w) as kw:
        h, w = start_h + kh * workload.dilation[0], start_w + kw * workload.dilation[1]

        def step(lane: Any) -> None:
            value = T.bind(x[n, h, w, c + lane])
            is_new = functions.greater(value, best[lane])
            place = _place(workload, (start_h, start_w), (kh, kw))
            T.buffer_store(where, tirx.Select(is_new, place, where[lane]), [lane])
            T.buffer_store(best, tirx.Select(is_new, value, best[lane]), [lane])

        vectorized(width, step)
    vectorized(width, lambda lane: T.buffer_store(y, best[lane], [n, oh, ow, c + lane]))
    vectorized(width, lambda lane: T.buffer_store(places, where[lane], [n, oh, ow, c + lane]))


def _place(workload: Pool, start: tuple[Any, Any], tap: tuple[Any, Any]) -> Any:
    """A place in a window that begins at `start`: a tap's number, or that of its pixel."""
    if workload.places == "uint8":
        return tirx.Cast("uint8", tap[0] * workload.kernel[1] + tap[1])
    h, w = (first + step * apart for first, step, apart in zip(start, tap, workload.dilation, strict=True))
    return tirx.Cast("int64", h * workload.width + w)


def _divisor(workload: Pool, oh: Any, ow: Any) -> Any:
    """What ATen divides a window's sum by: it counts padding up to the padded border, or only pixels."""
    if workload.divisor is not None:
        return tirx.const(workload.divisor, "float32")
    count: Any = 1
    for axis, out in enumerate((oh, ow)):
        size, padding = (workload.height, workload.width)[axis], workload.padding[axis]
        start = out * workload.stride[axis] - padding
        end = T.min(start + workload.kernel[axis], size + padding)
        if not workload.padded:
            start, end = T.max(start, 0), T.min(end, size)
        count = count * (end - start)
    return tirx.Cast("float32", count)


def _average(workload: Pool, x: Any, y: Any, at: list[Any], width: int) -> None:
    n, oh, ow, c = at
    (first_h, last_h, start_h), (first_w, last_w, start_w) = (_window(workload, i, at[1 + i]) for i in (0, 1))
    total = _zeros(width)
    with T.serial(first_h, last_h) as kh, T.serial(first_w, last_w) as kw:
        h, w = start_h + kh, start_w + kw
        vectorized(width, lambda lane: T.buffer_store(total, total[lane] + x[n, h, w, c + lane], [lane]))
    divisor = _divisor(workload, oh, ow)
    vectorized(width, lambda lane: T.buffer_store(y, total[lane] / divisor, [n, oh, ow, c + lane]))


def _zeros(width: int) -> Any:
    total = T.alloc_buffer((width,), "float32", scope="global")
    vectorized(width, lambda lane: T.buffer_store(total, tirx.const(0, "float32"), [lane]))
    return total


def _outputs(workload: Pool, axis: int, position: Any) -> tuple[Any, Any]:
    """First and last-plus-one output whose window may hold an input position."""
    stride, reach = workload.stride[axis], (workload.kernel[axis] - 1) * workload.dilation[axis]
    outputs = (workload.out_height, workload.out_width)[axis]
    first = T.max(0, (position + workload.padding[axis] - reach + stride - 1) // stride)
    return first, T.min(outputs, (position + workload.padding[axis]) // stride + 1)


def _place_of(workload: Pool, pixel: tuple[Any, Any], out: tuple[Any, Any]) -> Any:
    """What the place of a pixel is in an output's window."""
    if workload.places == "int64":
        return tirx.Cast("int64", pixel[0] * workload.width + pixel[1])
    h, w = (
        each + pad - number * stride
        for each, number, stride, pad in zip(pixel, out, workload.stride, workload.padding, strict=True)
    )
    return tirx.Cast("uint8", h * workload.kernel[1] + w)


def _gradient(workload: Pool, dy: Any, places: Any, dx: Any, at: list[Any], width: int) -> None:
    """Gathers, for each input pixel, from the windows that hold it: no two threads write one pixel."""
    n, h, w, c = at
    total = _zeros(width)
    with T.serial(*_outputs(workload, 0, h)) as oh, T.serial(*_outputs(workload, 1, w)) as ow:
        place = _place_of(workload, (h, w), (oh, ow))

        def step(lane: Any) -> None:
            share = dy[n, oh, ow, c + lane]
            if places is None:
                share = share / _divisor(workload, oh, ow)
            else:
                zero = tirx.const(0, "float32")
                share = tirx.Select(tirx.EQ(places[n, oh, ow, c + lane], place), share, zero)
            T.buffer_store(total, total[lane] + share, [lane])

        vectorized(width, step)
    vectorized(width, lambda lane: T.buffer_store(dx, total[lane], [n, h, w, c + lane]))
