"""Host functions around runs of the array. Each stands in for the integer kernel that says what it computes:
the same arguments, the same results."""

from collections.abc import Callable
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm.tirx import PrimFunc

from e2compile.targets.llvm.emit import arguments, ceil_div, function, gate, samples, scratch, unless_empty
from e2compile.targets.vta.host import packing, unpacking
from e2compile.targets.vta.host.geometry import Gather, Gradient
from e2compile.targets.vta.host.packing import Pixels
from e2compile.targets.vta.isa.config import Config

# The call that runs one group after another, of (groups, input, weights, sums), the buffers' addresses.
Run = Callable[..., Any]


def gather(name: str, plan: Gather, config: Config, run: Run, signed: bool, gated: bool) -> PrimFunc:
    """(x, weight, [index, count], y) of a convolution or, with dy and dx for x and y, its input gradient."""
    conv = plan.conv
    source, result = ("dy", "dx") if plan.transposed else ("x", "y")
    read, written = (conv.y_shape, conv.x_shape) if plan.transposed else (conv.x_shape, conv.y_shape)
    shapes = {source: read, "weight": conv.weight_shape} | gate(conv, gated) | {result: written}
    dtypes = {source: "int8" if signed else "uint8", "weight": "int8", result: "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        live = samples(conv, given)
        with unless_empty(live):
            groups = ceil_div(conv.batch, plan.images)
            inp = scratch(groups * plan.inp_blocks * config.inp_bytes, "int8")
            wgt = scratch(plan.wgt_blocks * config.wgt_bytes, "int8")
            out = scratch(groups * plan.out_blocks * config.out_bytes, "int8")
            packing.images(plan, config, Pixels(given[source], read, plan.patch, signed), inp, live)
            packing.weights(plan, config, given["weight"], wgt)
            lost = None if signed else unpacking.lost_to_weights(plan, config, given["weight"])
            _call(run, ceil_div(live.number, plan.images), inp, wgt, out)
            unpacking.images(plan, config, out, given[result], live, lost)
    return builder.get()


def gradient(name: str, plan: Gradient, config: Config, run: Run, signed: bool, gated: bool) -> PrimFunc:
    """(x, dy, [index, count], dweight) of a convolution's weight gradient."""
    conv, work = plan.conv, plan.work
    shapes = {"x": conv.x_shape, "dy": conv.y_shape} | gate(conv, gated) | {"dweight": conv.weight_shape}
    dtypes = {"x": "int8" if signed else "uint8", "dy": "int8", "dweight": "int32"}
    with function(name) as builder:
        given = arguments(shapes, dtypes)
        live = samples(conv, given)
        with unless_empty(live):
            groups = ceil_div(conv.batch, config.block)
            inp, wgt, out = (
                scratch(groups * plan.bundles.count * prod(shape) * element, "int8")
                for shape, element in (
                    (work.inp_shape, config.inp_bytes),
                    (work.wgt_shape, config.wgt_bytes),
                    (work.out_shape, config.out_bytes),
                )
            )
            packing.lanes(plan, config, Pixels(given["x"], conv.x_shape, plan.patch, signed), inp, live)
            packing.gradients(plan, config, given["dy"], wgt, live)
            lost = None if signed else unpacking.lost_to_gradients(plan, config, given["dy"], live)
            used = ceil_div(live.number, config.block)
            _call(run, used, inp, wgt, out)
            unpacking.weights(plan, config, out, given["dweight"], used, lost)
    return builder.get()


def _call(run: Run, groups: Any, *buffers: Any) -> None:
    T.evaluate(run(groups, *(T.address_of(buffer[0]) for buffer in buffers)))
