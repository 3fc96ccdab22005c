"""Bytes of tensors into the order of the array's buffers, as host code.

Unsigned bytes go in as x - 128, border included.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.emit import Samples, at, ceil_div, splat, store, tasks, typed
from e2compile.targets.vta.host.geometry import Gather, Gradient, Patch
from e2compile.targets.vta.isa.config import Config

OFFSET = 128
_ZERO = tirx.const(0, "int8")


class Pixels:
    """A tensor [N, H, W, C] of bytes read through a patch, as signed bytes."""

    def __init__(self, x: Any, shape: Sequence[int], patch: Patch, signed: bool) -> None:
        self.x, self.patch, self.signed = x, patch, signed
        _, self.height, self.width, self.channels = shape

    def __call__(self, is_there: Any, sample: Any, y: Any, x: Any, channel: Any, lanes: int = 1) -> Any:
        """`lanes` channels of the patch's pixel (y, x) from `channel` on; border where there are none."""
        patch, columns = self.patch, self.patch.folds[1]
        row, column = y * patch.step[0] - patch.border[0], x * patch.step[1] - patch.border[1]
        fold, channel = channel // self.channels, channel % self.channels
        row, column = row + fold // columns * patch.spacing[0], column + fold % columns * patch.spacing[1]
        conditions = [row >= 0, row < self.height, column >= 0, column < self.width]
        inside = tirx.all(is_there, fold < prod(patch.folds), *conditions)
        place = ((sample * self.height + row) * self.width + column) * self.channels + channel
        found = self.x[at(place, lanes)]
        if not self.signed:
            wide = found.astype(typed("int16", lanes)) - splat(tirx.const(OFFSET, "int16"), lanes)
            found = wide.astype(typed("int8", lanes))
        border = tirx.const(0 if self.signed else -OFFSET, "int8")
        return tirx.if_then_else(inside, found, splat(border, lanes))


def images(plan: Gather, config: Config, pixels: Pixels, inp: Any, live: Samples) -> None:
    """[group][block][image / batch][y][x][image % batch][lane]; images that a group lacks are border."""
    patch, batch = plan.patch, config.batch
    blocks, units = plan.parts[0].work.inputs, plan.images // batch
    is_whole = patch.folds == (1, 1) and plan.sources % config.block == 0
    lanes = config.block if is_whole else 1
    with tasks(ceil_div(live.number, plan.images) * plan.images) as position:
        group, image = position // plan.images, position % plan.images
        is_there, sample = _sample(live, position)
        with T.grid(blocks, patch.height, patch.width, config.block // lanes) as (block, y, x, lane):
            unit = (group * blocks + block) * units + image // batch
            pixel = ((unit * patch.height + y) * patch.width + x) * batch + image % batch
            value = pixels(is_there, sample, y, x, block * config.block + lane, lanes)
            store(inp, pixel * config.block + lane, value, lanes)


def weights(plan: Gather, config: Config, weight: Any, wgt: Any) -> None:
    """Of each part [output block][input block][tap][output lane][input lane]; lanes beyond are zero."""
    conv, block, start = plan.conv, config.block, 0
    sources = plan.sources * prod(plan.patch.folds)
    across, down = (1, conv.out_channels) if plan.transposed else (conv.out_channels, 1)
    for part in plan.parts:
        work = part.work
        for tap, (ky, kx) in enumerate(part.kernel):
            corner = (ky * conv.kernel[1] + kx) * conv.in_channels * conv.out_channels
            with tasks(work.outputs) as output, T.grid(work.inputs, block, block) as (inputs, row, lane):
                result, source = output * block + row, inputs * block + lane
                is_there = tirx.all(result < plan.results, source < sources)
                value = weight[corner + source * across + result * down]
                place = start + ((output * work.inputs + inputs) * len(work.taps) + tap) * block * block
                store(wgt, place + row * block + lane, tirx.if_then_else(is_there, value, _ZERO), 1)
        start += prod(work.wgt_shape) * config.wgt_bytes


def lanes(plan: Gradient, config: Config, pixels: Pixels, inp: Any, live: Samples) -> None:
    """[group][channel / batch][y][x][channel % batch][sample]; samples that a group lacks are border."""
    patch, channels, block = plan.patch, plan.work.channels, config.block
    with tasks(ceil_div(live.number, block) * channels) as task:
        group, unit = task // channels, task % channels
        with T.grid(patch.height, patch.width, config.batch, block) as (y, x, channel, lane):
            is_there, sample = _sample(live, group * block + lane)
            pixel = (task * patch.height + y) * patch.width + x
            value = pixels(is_there, sample, y, x, unit * config.batch + channel)
            store(inp, (pixel * config.batch + channel) * block + lane, value, 1)


def gradients(plan: Gradient, config: Config, dy: Any, wgt: Any, live: Samples) -> None:
    """[group][output block][y][x][output lane][sample]; lanes beyond are zero."""
    conv, block, outputs = plan.conv, config.block, plan.work.outputs
    area = conv.out_height * conv.out_width
    with (
        tasks(ceil_div(live.number, block) * outputs) as task,
        T.grid(area, block, block) as (pixel, row, lane),
    ):
        group, output = task // outputs, task % outputs * block + row
        is_there, sample = _sample(live, group * block + lane)
        value = dy[(sample * area + pixel) * conv.out_channels + output]
        is_there = tirx.all(is_there, output < conv.out_channels)
        place = ((task * area + pixel) * block + row) * block + lane
        store(wgt, place, tirx.if_then_else(is_there, value, _ZERO), 1)


def _sample(live: Samples, position: Any) -> tuple[Any, Any]:
    """Whether there is a live sample of that number, and which sample it is."""
    is_there = position < live.number
    sample = live[tirx.min(position, live.number - 1)]
    return is_there, T.bind(sample)
