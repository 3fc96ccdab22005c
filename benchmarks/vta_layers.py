"""Modelled times of single layers on a VTA, against the published ones, and how busy the array is.

    python benchmarks/vta_layers.py [--config pynq] [--json FILE]

First the ten convolutions of ResNet-18 that the authors measured on a Pynq at 100 MHz, one image, in July
2019 (TopHub vta_v0.10): with the tiles that they were measured with, and with our own. Then the layers of
ResNet-20 for 16 images, forward, input and weight gradient, as the target compiles them.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import machine

from e2compile.lower.workload import Convolution
from e2compile.targets.vta.analysis.timing import LATENCIES, Timing, timing
from e2compile.targets.vta.host import geometry
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import AluOp, Stage
from e2compile.targets.vta.isa.stream import Stream
from e2compile.targets.vta.schedule.correlate import CorrelationSchedule
from e2compile.targets.vta.schedule.correlate_tile import Tile
from e2compile.targets.vta.schedule.scheduler import emitted, streams
from e2compile.targets.vta.schedule.work import Correlation, Taps, Work

# Pixels a side, channels in and out, kernel, stride, milliseconds; then the tile: rows, columns, blocks of 16
# input and output channels. Two tiles are in flight, of output blocks or of rows.
PUBLISHED = (
    (56, 64, 64, 3, 1, 5.699, 8, 56, 1, 2),
    (56, 64, 128, 3, 2, 2.966, 7, 28, 1, 4),
    (56, 64, 128, 1, 2, 1.349, 7, 28, 1, 4),
    (28, 128, 128, 3, 1, 5.183, 14, 28, 1, 2),
    (28, 128, 256, 3, 2, 2.669, 14, 14, 1, 4),
    (28, 128, 256, 1, 2, 1.029, 7, 14, 1, 8),
    (14, 256, 256, 3, 1, 4.934, 14, 14, 1, 4),
    (14, 256, 512, 3, 2, 3.994, 7, 7, 1, 16),
    (14, 256, 512, 1, 2, 1.081, 7, 7, 1, 16),
    (7, 512, 512, 3, 1, 7.348, 7, 7, 1, 16),
)
# What the measured layers did with a sum before its low byte left: shift, add a bias, clip.
EPILOGUE = ((AluOp.SHR, 8), (AluOp.ADD, 1), (AluOp.MAX, 0), (AluOp.MIN, 127))
BLOCK = 16
IMAGES = 16

# Layers of ResNet-20 for CIFAR-10: how many there are, channels in and out, pixels a side, kernel, stride.
RESNET20 = {
    "first": (1, 3, 16, 32, 3, 1),
    "16": (6, 16, 16, 32, 3, 1),
    "16-32": (1, 16, 32, 32, 3, 2),
    "16-32, 1x1": (1, 16, 32, 32, 1, 2),
    "32": (5, 32, 32, 16, 3, 1),
    "32-64": (1, 32, 64, 16, 3, 2),
    "32-64, 1x1": (1, 32, 64, 16, 1, 2),
    "64": (5, 64, 64, 8, 3, 1),
}


def kernel(size: int) -> Taps:
    return tuple((i, j) for i in range(size) for j in range(size))


def blocks(channels: int) -> int:
    return -(-channels // BLOCK)


def published(vta: Config) -> Iterator[dict[str, Any]]:
    for side, channels, outputs, size, stride, measured, *shape in PUBLISHED:
        out = -(-side // stride)
        taps, stored = kernel(size), (out - 1) * stride + size
        sizes = blocks(channels), blocks(outputs), 1, stored
        rows, columns, inputs, some_outputs = shape
        tile = Tile(some_outputs, 1, rows, columns, inputs, len(taps))
        # The runtime of then loaded each row of a tile by itself: so does a stream for rows that lie apart.
        apart = Correlation(*sizes, 2 * stored + 64, out, out, taps, (stride, stride), 1)
        theirs = _timed(emitted(partial(CorrelationSchedule, apart, vta, tile), EPILOGUE), vta)
        work = Correlation(*sizes, stored, out, out, taps, (stride, stride), 1)
        ours = _timed(streams(work, vta, EPILOGUE), vta)
        yield {
            "layer": f"{side}x{side} {channels}-{outputs} k{size} s{stride}",
            "measured_ms": measured,
            "modelled_ms": theirs.seconds(vta) * 1e3,
            "ours_ms": ours.seconds(vta) * 1e3,
        }


def works(layer: Convolution, vta: Config) -> dict[str, list[Work]]:
    """As the target makes them of 16 images: several for an input gradient, one for each parity."""
    gathers = {"forward": geometry.forward(layer, vta), "input gradient": geometry.input_gradient(layer, vta)}
    found: dict[str, list[Work]] = {kind: [p.work for p in g.parts] for kind, g in gathers.items()}
    return found | {"weight gradient": [geometry.weight_gradient(layer, vta).work]}


def busy(vta: Config) -> Iterator[dict[str, Any]]:
    for name, (count, channels, outputs, side, size, stride) in RESNET20.items():
        sizes, steps, border = (size, size), (stride, stride), (size // 2, size // 2)
        layer = Convolution(IMAGES, side, side, channels, outputs, sizes, steps, border)
        for kind, parts in works(layer, vta).items():
            if name == "first" and kind == "input gradient":
                continue
            found = [_timed(streams(work, vta), vta) for work in parts]
            total = sum(part.total for part in found)
            yield {
                "layer": name,
                "kind": kind,
                "count": count,
                "cycles": total,
                "bound": sum(part.bound for part in found),
                "gemm": sum(part.gemm for part in found),
                "alu": sum(part.alu for part in found),
                "load": sum(part.busy[Stage.LOAD] for part in found),
                "store": sum(part.busy[Stage.STORE] for part in found),
                "products": sum(work.products for work in parts),
            }


def _timed(found: tuple[Stream, ...], vta: Config) -> Timing:
    """Of a work that takes one stream."""
    (stream,) = found
    return timing(stream.instructions, vta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    alike = [
        name for name in config.names() if (config.named(name).batch, config.named(name).block) == (1, 16)
    ]
    parser.add_argument("--config", choices=alike, default="pynq", help="for ResNet-20")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    layers = list(published(config.named("pynq")))
    for row in layers:
        print(
            f"{row['layer']:22} measured {row['measured_ms']:6.3f} ms, modelled {row['modelled_ms']:6.3f} "
            f"({row['modelled_ms'] / row['measured_ms']:.2f}), ours {row['ours_ms']:6.3f}"
        )
    error = sum(abs(row["modelled_ms"] / row["measured_ms"] - 1) for row in layers) / len(layers)
    sums = {key: sum(row[key] for row in layers) for key in ("measured_ms", "modelled_ms", "ours_ms")}
    print(f"mean absolute error {error:.1%}; " + ", ".join(f"{k} {v:.2f}" for k, v in sums.items()))

    vta = config.named(options.config)
    rows = list(busy(vta))
    print(f"\nResNet-20, {IMAGES} images, {options.config}: shares of all cycles")
    print(f"{'layer':11} {'':15} {'cycles':>8} of bound   GEMM    ALU useful   load  store")
    for row in rows:
        shares = (f"{row[key] / row['cycles']:6.1%}" for key in ("gemm", "alu", "products", "load", "store"))
        ratio = row["cycles"] / row["bound"]
        print(f"{row['layer']:11} {row['kind']:15} {row['cycles']:8} {ratio:8.3f} {' '.join(shares)}")
    whole = {key: sum(row["count"] * row[key] for row in rows) for key in ("cycles", "bound", "products")}
    print(f"all: {whole}, {whole['cycles'] / whole['bound']:.3f} of the bound")
    if options.json:
        content = {
            "latency": LATENCIES[vta.target].source,
            "mean_absolute_error": error,
            "published": layers,
            "config": options.config,
            "resnet20": rows,
        }
        content = {"machine": machine.describe(), **content}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
