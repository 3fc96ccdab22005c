"""The integer weight gradient: the fp32 loops over images of which each is several samples."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.errors import CompileError
from e2compile.lower.workload import Convolution
from e2compile.ops import MOST_TERMS
from e2compile.targets.llvm.arithmetic import Dots
from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.dot import depth, takes_signed
from e2compile.targets.llvm.emit import (
    Samples,
    arguments,
    ceil_div,
    fetch,
    function,
    gate,
    keep,
    load,
    padded,
    registers,
    samples,
    scratch,
    splat,
    store,
    tasks,
    typed,
    unless_empty,
    zero,
)
from e2compile.targets.llvm.gradient_plan import GradientPlan, GradientTile, plan
from e2compile.targets.llvm.gradient_tile import Images
from e2compile.targets.llvm.interleave import interleaved
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.weight_gradient import sum_up, used_splits

_OFFSET = 128
_ONES = 0x01010101


def integer_weight_gradient(
    conv: Convolution,
    machine: Machine,
    signed: bool = False,
    gated: bool = False,
    tile: GradientTile | None = None,
    name: str = "integer_weight_gradient",
) -> tirx.PrimFunc:
    """(x, dy, [index, count], dweight): dweight = the gradient of the convolution's weights.

    x is int8 if `signed`, else uint8; dy is int8.
    """
    shapes = {"x": conv.x_shape, "dy": conv.y_shape} | gate(conv, gated) | {"dweight": conv.weight_shape}
    dtypes = {"x": "int8" if signed else "uint8", "dy": "int8", "dweight": "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        live = samples(conv, given)
        with unless_empty(live):
            whole = integer_plan(conv, machine, tile)
            is_offset = Dots(machine, signed).is_offset
            x = interleaved(given["x"], conv.x_shape, live, is_offset, whole)
            dy = interleaved(given["dy"], conv.y_shape, live, False, whole)
            images = Images(x, dy, Samples(T.bind(ceil_div(live.number, depth(machine)))))
            if is_offset:
                _add_up(_sums(whole, images), _gradient_sums(conv, images, machine), given["dweight"])
            elif whole.splits > 1:
                _add_up(_sums(whole, images), None, given["dweight"])
            else:
                sum_up(whole, images, given["dweight"])
    return builder.get()


@dataclass(frozen=True)
class Sums:
    """A plan's splits, each summed in int32, of which `used` have anything in them."""

    plan: GradientPlan
    partial: Any
    used: Any


def integer_plan(conv: Convolution, machine: Machine, tile: GradientTile | None = None) -> GradientPlan:
    """An integer weight gradient, over images of which each is several samples."""
    together = depth(machine)
    if conv.out_width > MOST_TERMS // together:
        raise CompileError(f"an integer weight gradient over rows of {conv.out_width} positions may overflow")
    images = replace(conv, batch=ceil_div(conv.batch, together))
    return plan(images, machine, Dots(machine, takes_signed(machine)), MOST_TERMS // together, tile)


def _sums(plan: GradientPlan, images: Images) -> Sums:
    partial = scratch(plan.splits * prod(plan.conv.weight_shape), "int32")
    sum_up(plan, images, partial)
    return Sums(plan, partial, T.bind(used_splits(plan, images)))


def _gradient_sums(conv: Convolution, images: Images, machine: Machine) -> Sums:
    """For each weight the sum of the gradients that it meets: the weight gradient of an image of ones."""
    ones = replace(conv, in_channels=1, groups=1)
    whole = integer_plan(ones, machine)
    x = padded(prod(whole.conv.x_shape), "int32")
    with tasks(whole.conv.batch) as image, T.serial(conv.height * conv.width) as pixel:
        store(x, image * (conv.height * conv.width) + pixel, T.int32(_ONES), 1)
    return _sums(whole, replace(images, x=x))


def _add_up(sums: Sums, offsets: Sums | None, target: Any) -> None:
    """Adds up splits in int64, less what the offsets' ones stand for, and clamps the result to int32."""
    added = -_OFFSET if takes_signed(sums.plan.machine) else _OFFSET
    kernel_height, kernel_width, inner, outer = sums.plan.conv.weight_shape
    with T.parallel(kernel_height * kernel_width * inner) as row:
        for group in groups(outer, sums.plan.machine.lanes, 1):
            (width,) = group.widths
            with T.serial(group.repeat) as vector:
                channel = T.bind(group.start + vector * width)
                (total,) = registers([width], "int64")
                keep(total, zero(width, "int64"), width)
                _add(total, sums, row * outer + channel, 1, width)
                if offsets is not None:
                    _add(total, offsets, row // inner * outer + channel, -added, width)
                store(target, row * outer + channel, clamped(fetch(total, width), width), width)


def _add(total: Any, sums: Sums, place: Any, factor: int, width: int) -> None:
    with T.serial(sums.used) as split:
        value = load(sums.partial, split * prod(sums.plan.conv.weight_shape) + place, width)
        value = T.Cast(typed("int64", width), value) * splat(T.int64(factor), width)
        keep(total, fetch(total, width) + value, width)


def clamped(value: Any, width: int) -> Any:
    """int64 lanes as int32 ones, what leaves those as near as they go."""
    low, high = (splat(T.int64(bound), width) for bound in (-(1 << 31), (1 << 31) - 1))
    return T.Cast(typed("int32", width), tirx.max(tirx.min(value, high), low))
