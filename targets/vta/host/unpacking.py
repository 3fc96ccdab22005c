"""The array's sums out of byte planes into tensors of int32, as host code.

`lost` [output channels] is what taking x - 128 for x has taken from a sum; None where x is signed.
"""

from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.emit import (
    Samples,
    at,
    fetch,
    keep,
    load,
    registers,
    scratch,
    splat,
    store,
    tasks,
    typed,
    zero,
)
from e2compile.targets.llvm.integer_gradient import clamped
from e2compile.targets.vta.host.geometry import Gather, Gradient
from e2compile.targets.vta.host.packing import OFFSET
from e2compile.targets.vta.isa.config import Config


def lost_to_weights(plan: Gather, config: Config, weight: Any) -> Any:
    """128 times the sum of each output channel's weights, int32."""
    outputs = plan.results
    terms = prod(plan.conv.weight_shape) // outputs
    lost = scratch(outputs, "int32")
    for group in groups(outputs, config.block, 1):
        (width,) = group.widths
        with tasks(group.repeat) as number:
            output = T.bind(group.start + number * width)
            store(lost, output, _column_sums(weight, output, terms, outputs, width) * OFFSET, width)
    return lost


def lost_to_gradients(plan: Gradient, config: Config, dy: Any, live: Samples) -> Any:
    """128 times the sum of each channel of the output gradient over live samples, int64."""
    conv = plan.conv
    outputs, area = conv.out_channels, conv.out_height * conv.out_width
    partial, lost = scratch(conv.batch * outputs, "int32"), scratch(outputs, "int64")
    with tasks(live.number) as position:
        for group in groups(outputs, config.block, 1):
            (width,) = group.widths
            with T.serial(group.repeat) as number:
                output = T.bind(group.start + number * width)
                first = T.bind(live[position] * area * outputs + output)
                total = _column_sums(dy, first, area, outputs, width)
                store(partial, position * outputs + output, total, width)
    with T.serial(outputs) as output:
        store(lost, output, tirx.const(0, "int64"), 1)
    with T.grid(live.number, outputs) as (position, output):
        value = partial[position * outputs + output].astype("int64")
        store(lost, output, lost[output] + value * OFFSET, 1)
    return lost


def _column_sums(buffer: Any, first: Any, rows: int, pitch: int, width: int) -> Any:
    """The sums of `width` columns of bytes over so many rows, in int32."""
    (total,) = registers([width], "int32")
    keep(total, zero(width, "int32"), width)
    with T.serial(rows) as row:
        value = load(buffer, first + row * pitch, width)
        keep(total, fetch(total, width) + value.astype(typed("int32", width)), width)
    return fetch(total, width)


def images(plan: Gather, config: Config, out: Any, result: Any, live: Samples, lost: Any) -> None:
    """result[n, y, x, c] of the live samples; pixels that no part has are zero."""
    conv, block = plan.conv, config.block
    height, width = (conv.height, conv.width) if plan.transposed else (conv.out_height, conv.out_width)
    units, lanes = plan.images // config.batch, block if plan.results % block == 0 else 1
    bundles = plan.bundles.count
    bundle_bytes = plan.out_blocks // bundles * config.out_bytes
    with tasks(live.number) as position:
        group, image, sample = position // plan.images, position % plan.images, T.bind(live[position])
        if sum(prod(p.work.out_shape[3:]) for p in plan.parts) < height * width:
            with T.serial(0, height * width * plan.results) as i:
                store(result, sample * height * width * plan.results + i, tirx.const(0, "int32"), 1)
        start = 0
        for part in plan.parts:
            work = part.work
            plane = prod(work.out_shape[1:]) * config.out_bytes
            sizes = (bundles, work.outputs, work.out_height, work.out_width, block // lanes)
            with T.grid(*sizes) as (bundle, output, y, x, lane):
                unit = output * units + image // config.batch
                pixel = (
                    (unit * work.out_height + y) * work.out_width + x
                ) * config.batch + image % config.batch
                place = (group * bundles + bundle) * bundle_bytes + start + pixel * block + lane
                channel = (bundle * work.outputs + output) * block + lane
                row, column = y * part.step[0] + part.first[0], x * part.step[1] + part.first[1]
                with T.If(channel < plan.results), T.Then():
                    value = _sum(out, place, plane, work.planes, "int32", lanes)
                    value = value if lost is None else value + lost[at(channel, lanes)]
                    target = ((sample * height + row) * width + column) * plan.results + channel
                    store(result, target, value, lanes)
            start += prod(work.out_shape) * config.out_bytes


def weights(plan: Gradient, config: Config, out: Any, result: Any, used: Any, lost: Any) -> None:
    """result[ky, kx, i, o]: the sum over the groups in use, clamped to int32."""
    conv, work, block, bundles = plan.conv, plan.work, config.block, plan.bundles
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    plane = prod(work.out_shape[1:]) * config.out_bytes
    lanes = block if conv.groups == 1 or outputs % block == 0 else 1  # a vector's outputs are of one group
    with tasks(len(work.taps) * inputs) as row:
        tap, source = row // inputs, row % inputs
        for group in groups(conv.out_channels, lanes, 1):
            (width,) = group.widths
            with T.serial(group.repeat) as number:
                output = T.bind(group.start + number * width)
                bundle, own = output // bundles.outputs, output % bundles.outputs
                channel = own // outputs * inputs + source
                line = (tap * work.channels + channel // config.batch) * work.outputs
                place = ((line + own // block) * config.batch + channel % config.batch) * block
                place = T.bind(bundle * plane * work.planes + place + own % block)
                (total,) = registers([width], "int64")
                keep(total, zero(width, "int64") if lost is None else load(lost, output, width), width)
                with T.serial(0, used) as run:
                    first = run * bundles.count * plane * work.planes + place
                    found = _sum(out, first, plane, work.planes, "int32", width)
                    keep(total, fetch(total, width) + found.astype(typed("int64", width)), width)
                store(result, row * conv.out_channels + output, clamped(fetch(total, width), width), width)


def _sum(out: Any, place: Any, plane: int, planes: int, dtype: str, lanes: int) -> Any:
    """A sum from its planes, `plane` bytes apart: the last one signed, the others not."""
    value = out[at(place + plane * (planes - 1), lanes)].astype(typed(dtype, lanes))
    for number in reversed(range(planes - 1)):
        byte = out[at(place + plane * number, lanes)].astype(typed("uint8", lanes))
        value = value * splat(tirx.const(256, dtype), lanes) + byte.astype(typed(dtype, lanes))
    return value
