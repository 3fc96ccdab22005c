"""Bytes of tensors into the order of the array's buffers, as host code.

Unsigned bytes go in as x - 128, border included.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.emit import Samples, at, ceil_div, splat, store, tasks
from e2compile.targets.vta.host.geometry import Gather, Gradient, Patch
from e2compile.targets.vta.host.transpose import transposed
from e2compile.targets.vta.isa.config import Config

OFFSET = 128
_ZERO = tirx.const(0, "int8")


class Pixels:
    """A tensor [N, H, W, C] of bytes read through a patch, as signed bytes."""

    def __init__(self, x: Any, shape: Sequence[int], patch: Patch, signed: bool) -> None:
        self.x, self.patch, self.signed = x, patch, signed
        _, self.height, self.width, self.channels = shape
        self.border = tirx.const(0 if signed else -OFFSET, "int8")

    def place(self, y: Any, x: Any, fold: tuple[Any, Any] = (0, 0)) -> tuple[Any, Any, Any]:
        """The row and the column of a fold of the patch's pixel (y, x), and whether there is such a pixel."""
        patch = self.patch
        row = y * patch.step[0] - patch.border[0] + fold[0] * patch.spacing[0]
        column = x * patch.step[1] - patch.border[1] + fold[1] * patch.spacing[1]
        return row, column, tirx.all(row >= 0, row < self.height, column >= 0, column < self.width)

    def read(self, sample: Any, row: Any, column: Any, channel: Any, lanes: int = 1) -> Any:
        """`lanes` channels of the tensor from `channel` on."""
        place = ((sample * self.height + row) * self.width + column) * self.channels + channel
        found = self.x[at(place, lanes)]
        if self.signed:
            return found
        flipped = found ^ splat(tirx.const(OFFSET, "uint8"), lanes)
        return T.reinterpret("int8" if lanes == 1 else f"int8x{lanes}", flipped)


def images(plan: Gather, config: Config, pixels: Pixels, inp: Any, live: Samples) -> None:
    """[group][block][image / batch][y][x][image % batch][lane]; images that a group lacks are border, as are
    lanes beyond the channels."""
    patch, batch, block = plan.patch, config.batch, config.block
    blocks, units = plan.bundles.count * plan.parts[0].work.inputs, plan.images // batch
    used = plan.sources * prod(patch.folds)
    whole = plan.sources // block if patch.folds == (1, 1) else 0
    with tasks(ceil_div(live.number, plan.images) * plan.images) as position:
        group, image = position // plan.images, position % plan.images
        is_there, sample = _sample(live, position)

        def target(number: Any, y: Any, x: Any) -> Any:
            """Where a block begins."""
            unit = (group * blocks + number) * units + image // batch
            return (((unit * patch.height + y) * patch.width + x) * batch + image % batch) * block

        with T.grid(whole, patch.height, patch.width) as (number, y, x):
            row, column, inside = pixels.place(y, x)
            value = pixels.read(sample, row, column, number * block, block)
            value = tirx.if_then_else(tirx.all(is_there, inside), value, splat(pixels.border, block))
            store(inp, target(number, y, x), value, block)
        if whole < blocks:
            with T.grid(patch.height, patch.width) as (y, x):
                with T.grid(*patch.folds) as fold:
                    row, column, inside = pixels.place(y, x, fold)
                    first = (fold[0] * patch.folds[1] + fold[1]) * plan.sources
                    with T.serial(whole * block, plan.sources) as channel:
                        value = pixels.read(sample, row, column, channel)
                        value = tirx.if_then_else(tirx.all(is_there, inside), value, pixels.border)
                        lane = first + channel
                        store(inp, target(lane // block, y, x) + lane % block, value, 1)
                with T.serial(used, blocks * block) as lane:
                    store(inp, target(lane // block, y, x) + lane % block, pixels.border, 1)


def weights(plan: Gather, config: Config, weight: Any, wgt: Any) -> None:
    """[bundle], and of each part [output block][input block][tap][output lane][input lane]; zero between
    groups and in lanes beyond."""
    conv, block, bundles, start = plan.conv, config.block, plan.bundles, 0
    size = plan.wgt_blocks // bundles.count * config.wgt_bytes
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    depth = inputs * prod(plan.patch.folds)
    is_whole = bundles.groups == 1 and depth % block == 0 and outputs % block == 0
    for part in plan.parts:
        work = part.work
        pairs = work.outputs * work.inputs
        with tasks(bundles.count * pairs) as task:
            bundle, pair = task // pairs, task % pairs
            row, lane = pair // work.inputs * block, pair % work.inputs * block

            def address(row: Any, lane: Any) -> Any:
                """Of an output and an input lane's weight, behind a tap's and a bundle's first."""
                output, source = (lane, row) if plan.transposed else (row, lane)
                return source % depth * conv.out_channels + output

            def is_there(row: Any, lane: Any, bundle: Any = bundle) -> Any:
                """Whether two lanes are of the same group, and there is that group."""
                output, source = (lane, row) if plan.transposed else (row, lane)
                group = output // outputs
                return tirx.all(source // depth == group, bundle * bundles.groups + group < conv.groups)

            for tap, (ky, kx) in enumerate(part.kernel):
                corner = (ky * conv.kernel[1] + kx) * inputs * conv.out_channels + bundle * bundles.outputs
                place = T.bind(start + bundle * size + (pair * len(work.taps) + tap) * block * block)
                if is_whole:
                    corner = T.bind(corner + address(row, lane))
                    lines = [weight[at(corner + i * conv.out_channels, block)] for i in range(block)]
                    for number, line in enumerate(lines if plan.transposed else transposed(lines)):
                        store(wgt, place + number * block, line, block)
                    continue
                corner = T.bind(corner)
                with T.grid(block, block) as (i, j):
                    value = weight[corner + address(row + i, lane + j)]
                    value = tirx.if_then_else(is_there(row + i, lane + j), value, _ZERO)
                    store(wgt, place + i * block + j, value, 1)
        start += prod(work.wgt_shape) * config.wgt_bytes


def lanes(plan: Gradient, config: Config, pixels: Pixels, inp: Any, live: Samples) -> None:
    """[group][channel / batch][y][x][channel % batch][sample]; channels beyond are border.

    Samples that a group lacks hold what they may: their gradients are zero.
    """
    patch, batch, block = plan.patch, config.batch, config.block
    channels, whole = pixels.channels, pixels.channels // block
    units = plan.bundles.count * plan.work.channels
    with tasks(ceil_div(live.number, block) * patch.height) as task:
        group, y = task // patch.height, task % patch.height
        samples = [_sample(live, group * block + lane)[1] for lane in range(block)]

        def target(channel: Any, x: Any) -> Any:
            """Where a channel's lanes begin."""
            unit = group * units + channel // batch
            pixel = (unit * patch.height + y) * patch.width + x
            return (pixel * batch + channel % batch) * block

        with T.serial(0, patch.width) as x:
            row, column, inside = pixels.place(y, x)
            with T.If(inside):
                with T.Then():
                    with T.serial(0, whole) as number:
                        lines = [pixels.read(s, row, column, number * block, block) for s in samples]
                        for channel, line in enumerate(transposed(lines)):
                            store(inp, target(number * block + channel, x), line, block)
                    with T.serial(whole * block, channels) as channel:
                        for lane, sample in enumerate(samples):
                            store(
                                inp, target(channel, x) + lane, pixels.read(sample, row, column, channel), 1
                            )
                with T.Else(), T.serial(0, channels) as channel:
                    store(inp, target(channel, x), splat(pixels.border, block), block)
            with T.serial(channels, units * batch) as channel:
                store(inp, target(channel, x), splat(pixels.border, block), block)


def gradients(plan: Gradient, config: Config, dy: Any, wgt: Any, live: Samples) -> None:
    """[group][output block][y][x][output lane][sample]; lanes and samples beyond are zero."""
    conv, block, outputs = plan.conv, config.block, plan.bundles.count * plan.work.outputs
    area, channels, whole = conv.out_height * conv.out_width, conv.out_channels, conv.out_channels // block
    with tasks(ceil_div(live.number, block) * conv.out_height) as task:
        group, y = task // conv.out_height, task % conv.out_height
        samples = [_sample(live, group * block + lane) for lane in range(block)]
        with T.serial(0, conv.out_width) as x:
            pixel = T.bind(y * conv.out_width + x)

            def target(output: Any, pixel: Any = pixel) -> Any:
                """Where the lanes of an output channel begin."""
                unit = group * outputs + output // block
                return ((unit * area + pixel) * block + output % block) * block

            def read(lane: int, output: Any, width: int, pixel: Any = pixel) -> Any:
                is_there, sample = samples[lane]
                value = dy[at((sample * area + pixel) * channels + output, width)]
                return tirx.Select(is_there, value, splat(_ZERO, width))

            with T.serial(0, whole) as number:
                lines = [read(lane, number * block, block) for lane in range(block)]
                for row, line in enumerate(transposed(lines)):
                    store(wgt, target(number * block + row), line, block)
            with T.serial(whole * block, channels) as output:
                for lane in range(block):
                    store(wgt, target(output) + lane, read(lane, output, 1), 1)
            with T.serial(channels, outputs * block) as output:
                store(wgt, target(output), splat(_ZERO, block), block)


def _sample(live: Samples, position: Any) -> tuple[Any, Any]:
    """Whether there is a live sample of that number, and which sample it is."""
    is_there = position < live.number
    sample = live[tirx.min(position, live.number - 1)]
    return is_there, T.bind(sample)
