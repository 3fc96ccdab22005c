"""Weight gradient: tiles of the gradient sit in registers while images stream through the cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.arithmetic import Floats
from e2compile.targets.llvm.emit import (
    arguments,
    ceil_div,
    fetch,
    function,
    gate,
    keep,
    least,
    load,
    registers,
    samples,
    scratch,
    store,
    unless_empty,
    zero,
)
from e2compile.targets.llvm.gradient_plan import GradientPlan, GradientTile, plan
from e2compile.targets.llvm.gradient_tile import Images, Piece, SumTile
from e2compile.targets.llvm.machine import Machine


def weight_gradient(
    conv: Convolution,
    machine: Machine,
    gated: bool = False,
    tile: GradientTile | None = None,
    name: str = "weight_gradient",
) -> tirx.PrimFunc:
    """(x, dy, [index, count], dweight): dweight = the gradient of the convolution's weights."""
    shapes = {"x": conv.x_shape, "dy": conv.y_shape} | gate(conv, gated) | {"dweight": conv.weight_shape}
    with function(name) as builder:
        given = arguments(shapes)
        images = Images(given["x"], given["dy"], samples(conv, given))
        whole = plan(conv, machine, Floats(), tile=tile)
        with unless_empty(images.live):
            if whole.splits == 1:
                sum_up(whole, images, given["dweight"])
            else:
                partial = scratch(whole.splits * prod(conv.weight_shape))
                sum_up(whole, images, partial)
                _add_up(whole, images, partial, given["dweight"])
    return builder.get()


def sum_up(plan: GradientPlan, images: Images, target: Any) -> None:
    """Each task sums its share of the weights over every `splits`-th unit: any count is split evenly.

    Of splits that have no unit nothing is written.
    """
    with shared_out(plan) as (split, share):
        number = T.bind(ceil_div(images.live.number * plan.bands - split, plan.splits))
        with T.serial(ceil_div(number, plan.together)) as index:
            first = T.bind(index * plan.together)
            piece = Piece(index, split, first, T.bind(least(number, first + plan.together)))
            for kind in plan.classes:
                with T.serial(*bounds(plan, share, kind.number)) as tile:
                    SumTile(plan, images, target, piece, kind, tile).emit()


@contextmanager
def shared_out(plan: GradientPlan) -> Iterator[tuple[Any, Any]]:
    """A parallel loop over the shares of every split."""
    with T.parallel(plan.shares * plan.splits) as task:
        split = T.bind(bits_reversed(task % plan.splits, plan.splits.bit_length() - 1))
        yield split, T.bind(task // plan.splits)


def bounds(plan: GradientPlan, share: Any, number: int) -> tuple[Any, Any]:
    """The part of so many things that a share has: from the first to before the last."""
    return number * share // plan.shares, number * (share + 1) // plan.shares


def bits_reversed(value: Any, bits: int) -> Any:
    """Neighbouring tasks, which one thread gets, begin at samples far apart: few are shared evenly too."""
    terms = [(value // (1 << bit) % 2) * (1 << bits - 1 - bit) for bit in range(bits)]
    return sum(terms[1:], terms[0]) if terms else 0


def used_splits(plan: GradientPlan, images: Images) -> Any:
    """The number of splits that have units."""
    return least(images.live.number * plan.bands, plan.splits)


def _add_up(plan: GradientPlan, images: Images, partial: Any, target: Any) -> None:
    """Adds the splits that have samples in their order, whichever thread summed them."""
    size, lanes = prod(plan.conv.weight_shape), plan.machine.lanes
    for width, count, origin in ((lanes, size // lanes, 0), (1, size % lanes, size - size % lanes)):
        if not count:
            continue
        with T.parallel(count) as vector:
            place = T.bind(origin + vector * width)
            (total,) = registers([width])
            keep(total, zero(width), width)
            with T.serial(used_splits(plan, images)) as split:
                keep(total, fetch(total, width) + load(partial, split * size + place, width), width)
            store(target, place, fetch(total, width), width)
