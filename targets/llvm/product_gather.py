"""Forward pass and input gradient of single pixels: a product of matrices, a run of pixels at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.emit import (
    arguments,
    ceil_div,
    fetch,
    function,
    gate,
    keep,
    least,
    load,
    multiply_add,
    prefetch,
    registers,
    samples,
    splat,
    store,
    stream,
    unless_empty,
    zero,
)
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.product import Piece, Pixels, asked, pieces
from e2compile.targets.llvm.product_gather_plan import ProductPlan, product_plan
from e2compile.targets.llvm.weights import Packing, Weights, copy_floats, packed


def forward(
    conv: Convolution, machine: Machine, bias: bool = False, gated: bool = False, name: str = "forward"
) -> tirx.PrimFunc:
    """(x, weight, [bias], [index, count], y): y = the convolution of x."""
    start = {"bias": (conv.out_channels,)} if bias else {}
    inputs = {"x": conv.x_shape, "weight": conv.weight_shape}
    with function(name) as builder:
        given = arguments(inputs | start | gate(conv, gated) | {"y": conv.y_shape})
        _multiply(product_plan(conv, machine, False, gated), given, "x", "y")
    return builder.get()


def input_gradient(
    conv: Convolution, machine: Machine, gated: bool = False, name: str = "input_gradient"
) -> tirx.PrimFunc:
    """(dy, weight, [index, count], dx): dx = the gradient of the convolution's input."""
    shapes = {"dy": conv.y_shape, "weight": conv.weight_shape} | gate(conv, gated) | {"dx": conv.x_shape}
    with function(name) as builder:
        _multiply(product_plan(conv, machine, True, gated), arguments(shapes), "dy", "dx")
    return builder.get()


@dataclass(frozen=True)
class Job:
    """A plan and the memory it works on: the target's pixels start from `start`, if there is one."""

    plan: ProductPlan
    pixels: Pixels
    source: Any
    weights: Weights
    start: Any
    target: Any

    def rows(self, first: Any) -> list[Any]:
        """Where the pixels of a tile are; the last tile repeats pixels rather than having code of its own."""
        number, rows = self.pixels.number, range(self.plan.rows)
        if self.plan.is_together:
            place = self.pixels[least(first, number - len(rows))]
            return [place + row for row in rows]
        return [self.pixels[least(first + row, number - 1)] for row in rows]


def _multiply(plan: ProductPlan, given: Mapping[str, Any], source: str, target: str) -> None:
    pixels = Pixels(samples(plan.conv, given), plan.pixels)
    with unless_empty(pixels.live):
        packing = Packing(
            plan.conv, plan.sources, plan.wide.channels, plan.transposed, "float32", copy_floats
        )
        weights = packed(given["weight"], packing, plan.wide.groups)
        job = Job(plan, pixels, given[source], weights, given.get("bias"), given[target])
        with T.parallel(ceil_div(pixels.number, plan.rows) * plan.shares) as task:
            rows = job.rows(T.bind(task // plan.shares * plan.rows))
            for piece in pieces(plan.wide, T.bind(task % plan.shares), plan.shares):
                _tile(job, piece, rows)


def _tile(job: Job, piece: Piece, rows: list[Any]) -> None:
    """One register tile: all source channels of some pixels, for one group of the target's channels."""
    cells = [registers(piece.group.widths) for _ in rows]
    for number, (start, width) in enumerate(piece.vectors):
        value = zero(width) if job.start is None else load(job.start, piece.channel + start, width)
        for cell in cells:
            keep(cell[number], value, width)
    origin = T.bind(job.weights.origin(piece.channel))
    with T.serial(job.plan.sources) as channel:
        place = T.bind(origin + channel * piece.group.step)
        wide = [load(job.weights.buffer, place + start, width) for start, width in piece.vectors]
        _add_channel(job, piece, [row * job.plan.sources + channel for row in rows], wide, cells)
        _ask(job, rows[0] + job.plan.rows, piece.index * job.plan.sources + channel)
    put = stream if job.plan.is_streamed else store
    for row, cell in zip(rows, cells, strict=True):
        for register, (start, width) in zip(cell, piece.vectors, strict=True):
            to = row * job.plan.wide.channels + piece.channel + start
            put(job.target, to, fetch(register, width), width)


def _add_channel(job: Job, piece: Piece, places: list[Any], wide: list[Any], cells: list[list[Any]]) -> None:
    for place, cell in zip(places, cells, strict=True):
        value = T.bind(job.source[place])
        splats = {width: T.bind(splat(value, width)) for width in piece.group.widths}
        for register, other, width in zip(cell, wide, piece.group.widths, strict=True):
            multiply_add(register, splats[width], other, width)


def _ask(job: Job, pixel: Any, step: Any) -> None:
    """One step's share of the next tile's cache lines: all steps of a tile's groups ask for all of them."""
    lines, stride = asked(job.plan.rows, job.plan.wide.number)
    for line in range(lines):
        prefetch(job.source, pixel * job.plan.sources + (step * lines + line) * stride)
