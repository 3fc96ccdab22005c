"""Works for the array: what they compute, said with numpy, and running streams of them on the simulator."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.analysis.check import check
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import encode_uops
from e2compile.targets.vta.isa.stream import INP, OUT, UOP, WGT, Stream
from e2compile.targets.vta.schedule.work import Accumulation, Correlation, Taps, Work
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator

Blocks = NDArray[np.int8]


def kernel(height: int, width: int | None = None) -> Taps:
    return tuple((i, j) for i in range(height) for j in range(width or height))


def convolution(
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    taps: Taps,
    stride: int = 1,
    images: int = 1,
    planes: int = 3,
) -> Correlation:
    """With just the border that it needs."""
    steps = (stride, stride)
    return Correlation(inputs, outputs, images, *_read(size, taps, stride), *size, taps, steps, planes)


def gradient(
    channels: int, outputs: int, size: tuple[int, int], taps: Taps, stride: int = 1, planes: int = 4
) -> Accumulation:
    """Of a convolution's weights, likewise."""
    steps = (stride, stride)
    return Accumulation(channels, outputs, *_read(size, taps, stride), *size, taps, steps, planes)


def _read(size: tuple[int, int], taps: Taps, stride: int) -> tuple[int, int]:
    """The pixels that those of a size read."""
    down, right = map(max, zip(*taps, strict=True))
    return (size[0] - 1) * stride + down + 1, (size[1] - 1) * stride + right + 1


def operands(work: Work, vta: Config, seed: int = 0) -> tuple[Blocks, Blocks]:
    random = np.random.default_rng(seed)
    inp = random.integers(-128, 128, (*work.inp_shape, vta.batch, vta.block), np.int8)
    return inp, random.integers(-128, 128, (*work.wgt_shape, vta.block, vta.block), np.int8)


def sums(work: Work, inp: Blocks, wgt: Blocks) -> NDArray[np.int64]:
    """The exact sums; float64 holds them."""
    inps, wgts = inp.astype(float), wgt.astype(float)
    (dy, dx), height, width = work.stride, work.out_height, work.out_width
    total = 0.0
    for t, (i, j) in enumerate(work.taps):
        read = inps[..., i : i + (height - 1) * dy + 1 : dy, j : j + (width - 1) * dx + 1 : dx, :, :]
        if isinstance(work, Correlation):
            total += np.einsum("cnyxbk,ocmk->onyxbm", read, wgts[:, :, t], optimize=True)
        else:
            taps = np.arange(len(work.taps)) == t
            found = np.einsum("cyxbk,oyxmk->cobm", read, wgts, optimize=True)
            total += np.multiply.outer(taps, found)
    return np.asarray(total).astype(np.int64)


def planes(values: NDArray[np.int64], count: int) -> Blocks:
    return np.stack([(values >> 8 * plane).astype(np.int8) for plane in range(count)])


@cache
def _interpreter(vta: Config) -> Callable[..., None]:
    return compiled(vta)


def run(streams: Sequence[Stream], vta: Config, inp: Blocks, wgt: Blocks, shape: tuple[int, ...]) -> Blocks:
    """The outputs of streams that keep the rules, run one after another, each in two orders of its stages."""
    device = Simulator(vta, _interpreter(vta), strict=True)
    addresses = {name: device.allocate(streams[0].bytes(name, vta)) for name in (INP, WGT, OUT)}
    for name, data in ((INP, inp), (WGT, wgt)):
        device.write(addresses[name], data.reshape(-1).view(np.uint8))
    for stream in streams:
        check(stream.instructions, stream.uops, vta, stream.blocks)
        words = stream.placed(vta, addresses | {UOP: _placed(device, encode_uops(stream.uops, vta))})
        device.start(_placed(device, words), len(words))
        assert device.is_done()
    out = device.read(addresses[OUT], streams[0].bytes(OUT, vta)).view(np.int8)
    return out.reshape(*shape, vta.batch, vta.block)


def _placed(device: Simulator, array: NDArray[Any]) -> int:
    """Where an array lies in the device's memory."""
    address = device.allocate(array.nbytes)
    device.write(address, array.reshape(-1).view(np.uint8))
    return address


def assert_exact(work: Work, streams: Sequence[Stream], vta: Config) -> None:
    inp, wgt = operands(work, vta)
    assert {stream.blocks[OUT] for stream in streams} == {prod(work.out_shape)}
    out = run(streams, vta, inp, wgt, work.out_shape)
    np.testing.assert_array_equal(out, planes(sums(work, inp, wgt), work.planes))


def small(vta: Config, **sizes: int) -> Config:
    """The configuration with other scratchpads: the log2 of their bytes."""
    return replace(vta, **{f"log_{name}_buff_size": size for name, size in sizes.items()})
