"""The array's sums out of byte planes into tensors of int32, as host code.

`lost` [output channels] is what taking x - 128 for x has taken from a sum; None where x is signed.
"""

from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.emit import Samples, at, scratch, store, tasks, typed
from e2compile.targets.vta.host.geometry import Gather, Gradient
from e2compile.targets.vta.host.packing import OFFSET
from e2compile.targets.vta.isa.config import Config

_INT32 = (-(1 << 31), (1 << 31) - 1)


def lost_to_weights(plan: Gather, weight: Any) -> Any:
    """128 times the sum of each output channel's weights, int32."""
    outputs = plan.results
    terms = prod(plan.conv.weight_shape) // outputs
    lost = scratch(outputs, "int32")
    with T.serial(0, outputs) as output:
        store(lost, output, tirx.const(0, "int32"), 1)
    with T.grid(terms, outputs) as (term, output):
        value = weight[term * outputs + output].astype("int32")
        store(lost, output, lost[output] + value * OFFSET, 1)
    return lost


def lost_to_gradients(plan: Gradient, dy: Any, live: Samples) -> Any:
    """128 times the sum of each channel of the output gradient over live samples, int64."""
    conv = plan.conv
    outputs, area = conv.out_channels, conv.out_height * conv.out_width
    lost = scratch(outputs, "int64")
    with T.serial(0, outputs) as output:
        store(lost, output, tirx.const(0, "int64"), 1)
    with T.serial(0, live.number) as position:
        sample = T.bind(live[position])
        with T.grid(area, outputs) as (pixel, output):
            value = dy[(sample * area + pixel) * outputs + output].astype("int64")
            store(lost, output, lost[output] + value * OFFSET, 1)
    return lost


def images(plan: Gather, config: Config, out: Any, result: Any, live: Samples, lost: Any) -> None:
    """result[n, y, x, c] of the live samples; pixels that no part has are zero."""
    conv, block = plan.conv, config.block
    height, width = (conv.height, conv.width) if plan.transposed else (conv.out_height, conv.out_width)
    units, lanes = plan.images // config.batch, block if plan.results % block == 0 else 1
    with tasks(live.number) as position:
        group, image, sample = position // plan.images, position % plan.images, T.bind(live[position])
        if sum(prod(p.work.out_shape[3:]) for p in plan.parts) < height * width:
            with T.serial(0, height * width * plan.results) as i:
                store(result, sample * height * width * plan.results + i, tirx.const(0, "int32"), 1)
        start = 0
        for part in plan.parts:
            work = part.work
            plane = prod(work.out_shape[1:]) * config.out_bytes
            sizes = (work.outputs, work.out_height, work.out_width, block // lanes)
            with T.grid(*sizes) as (output, y, x, lane):
                unit = output * units + image // config.batch
                pixel = (
                    (unit * work.out_height + y) * work.out_width + x
                ) * config.batch + image % config.batch
                place = group * plan.out_blocks * config.out_bytes + start + pixel * block + lane
                channel = output * block + lane
                row, column = y * part.step[0] + part.first[0], x * part.step[1] + part.first[1]
                with T.If(channel < plan.results), T.Then():
                    value = _sum(out, place, plane, work.planes, "int32", lanes)
                    value = value if lost is None else value + lost[at(channel, lanes)]
                    target = ((sample * height + row) * width + column) * plan.results + channel
                    store(result, target, value, lanes)
            start += prod(work.out_shape) * config.out_bytes


def weights(plan: Gradient, config: Config, out: Any, result: Any, groups: Any, lost: Any) -> None:
    """result[ky, kx, i, o]: the sum over groups, clamped to int32."""
    conv, work, block = plan.conv, plan.work, config.block
    plane = prod(work.out_shape[1:]) * config.out_bytes
    with tasks(len(work.taps)) as tap, T.grid(conv.in_channels, conv.out_channels) as (channel, output):
        unit = (tap * work.channels + channel // config.batch) * work.outputs + output // block
        place = (unit * config.batch + channel % config.batch) * block + output % block
        total = scratch(1, "int64")
        store(total, 0, tirx.const(0, "int64") if lost is None else lost[output], 1)
        with T.serial(0, groups) as group:
            found = _sum(out, group * plane * work.planes + place, plane, work.planes, "int64", 1)
            store(total, 0, total[0] + found, 1)
        least, most = (tirx.const(limit, "int64") for limit in _INT32)
        clamped = tirx.max(tirx.min(total[0], most), least).astype("int32")
        store(result, (tap * conv.in_channels + channel) * conv.out_channels + output, clamped, 1)


def _sum(out: Any, place: Any, plane: int, planes: int, dtype: str, lanes: int) -> Any:
    """A sum from its planes, `plane` bytes apart: the last one signed, the others not."""
    value = out[at(place + plane * (planes - 1), lanes)].astype(typed(dtype, lanes))
    for number in reversed(range(planes - 1)):
        byte = out[at(place + plane * number, lanes)].astype(typed("uint8", lanes))
        value = value * tirx.const(256, dtype) + byte.astype(typed(dtype, lanes))
    return value
