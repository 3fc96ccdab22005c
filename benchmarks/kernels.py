"""Times the CPU contraction kernels against torch (oneDNN, channels last) in the same process.

    TVM_NUM_THREADS=2 python benchmarks/kernels.py [--json FILE] [--only TEXT] [--rounds N]

Rounds of the two alternate, so that a disturbance from outside hits both; the figures are medians. The int8
rows (uint8 x, int8 weights and gradients, int32 results) take torch's fp32 kernel, and ours, to compare with.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import tvm

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.gather import forward, input_gradient
from e2compile.targets.llvm.integer_gather import integer_convolution, integer_input_gradient
from e2compile.targets.llvm.integer_gradient import integer_weight_gradient
from e2compile.targets.llvm.machine import host
from e2compile.targets.llvm.weight_gradient import weight_gradient

_INTEGER = "int8 "
_PASSES = {
    "fwd": forward,
    "dgrad": input_gradient,
    "wgrad": weight_gradient,
    "int8 fwd": integer_convolution,
    "int8 dgrad": integer_input_gradient,
    "int8 wgrad": integer_weight_gradient,
}
_ROUND_SECONDS = 0.03
# Both runtimes' idle threads spin for a while, on the cores that the other one then needs.
_PARK_SECONDS = 0.02


def _same(batch: int, size: int, channels: int) -> Convolution:
    return Convolution(batch, size, size, channels, channels, (3, 3), (1, 1), (1, 1))


def _halved(batch: int, size: int, inner: int, outer: int) -> Convolution:
    return Convolution(batch, size, size, inner, outer, (3, 3), (2, 2), (1, 1))


def _depthwise(batch: int, size: int, channels: int, stride: int) -> Convolution:
    return Convolution(
        batch, size, size, channels, channels, (3, 3), (stride, stride), (1, 1), groups=channels
    )


WORKLOADS = {
    "resnet20 stem 3->16 32x32": Convolution(128, 32, 32, 3, 16, (3, 3), (1, 1), (1, 1)),
    "resnet20 16->16 32x32": _same(128, 32, 16),
    "resnet20 16->32 s2": _halved(128, 32, 16, 32),
    "resnet20 16->32 s2 1x1": Convolution(128, 32, 32, 16, 32, (1, 1), (2, 2)),
    "resnet20 32->32 16x16": _same(128, 16, 32),
    "resnet20 32->64 s2": _halved(128, 16, 32, 64),
    "resnet20 32->64 s2 1x1": Convolution(128, 16, 16, 32, 64, (1, 1), (2, 2)),
    "resnet20 64->64 8x8": _same(128, 8, 64),
    "resnet20 linear 64->10": Convolution(128, 1, 1, 64, 10),
    "vgg16 64->64 32x32": _same(128, 32, 64),
    "vgg16 512->512 4x4": _same(128, 4, 512),
    "vgg16 512->512 2x2": _same(128, 2, 512),
    "mobilenetv2 1x1 24->144 16x16": Convolution(128, 16, 16, 24, 144),
    "mobilenetv2 1x1 144->24 16x16": Convolution(128, 16, 16, 144, 24),
    "mobilenetv2 1x1 96->576 4x4": Convolution(128, 4, 4, 96, 576),
    "mobilenetv2 dw 144 16x16": _depthwise(128, 16, 144, 1),
    "mobilenetv2 dw 144 16x16 s2": _depthwise(128, 16, 144, 2),
    "mobilenetv2 dw 576 4x4": _depthwise(128, 4, 576, 1),
    "resnet18 stem 7x7 s2": Convolution(8, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3)),
}


@dataclass(frozen=True)
class Row:
    """One kernel: times in milliseconds, rate in GFLOP/s (Gop/s), `ratio` how many times faster than torch.

    `fp32_ratio` says how many times faster it is than our fp32 kernel.
    """

    workload: str
    kernel: str
    compile_seconds: float
    ms: float
    torch_ms: float
    gflops: float
    ratio: float
    fp32_ratio: float


def _torch_call(conv: Convolution, kernel: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor):  # type: ignore[no-untyped-def]
    last = torch.channels_last
    x, dy = x.permute(0, 3, 1, 2), dy.permute(0, 3, 1, 2)
    w = w.permute(3, 2, 0, 1).contiguous(memory_format=last)
    if kernel == "fwd":
        return lambda: torch.nn.functional.conv2d(
            x, w, None, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    mask = [kernel == "dgrad", kernel == "wgrad", False]
    return lambda: torch.ops.aten.convolution_backward(
        dy, x, w, None, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, mask
    )


def _tvm_call(conv: Convolution, kernel: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor):  # type: ignore[no-untyped-def]
    is_integer = kernel.startswith(_INTEGER)
    if is_integer:
        x, w, dy = (50 * x).to(torch.uint8), (50 * w).to(torch.int8), (50 * dy).to(torch.int8)
    inputs, shape = {"fwd": ((x, w), conv.y_shape), "dgrad": ((dy, w), conv.x_shape),
                     "wgrad": ((x, dy), conv.weight_shape)}[kernel.removeprefix(_INTEGER)]  # fmt: skip
    out = torch.empty(shape, dtype=torch.int32 if is_integer else torch.float32)
    begun = time.perf_counter()
    built = tvm.compile(_PASSES[kernel](conv, host(), name="main"), tvm_target())["main"]
    seconds = time.perf_counter() - begun
    arguments = [tvm.runtime.from_dlpack(tensor) for tensor in (*inputs, out)]
    return lambda: built(*arguments), seconds


def _seconds(call: Callable[[], object], repeat: int) -> float:
    time.sleep(_PARK_SECONDS)
    call()
    begun = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - begun) / repeat


def _measure(name: str, conv: Convolution, kernel: str, rounds: int) -> Row:
    x, w, dy = (torch.randn(shape) for shape in (conv.x_shape, conv.weight_shape, conv.y_shape))
    ours, compile_seconds = _tvm_call(conv, kernel, x, w, dy)
    floating = kernel.removeprefix(_INTEGER)
    theirs = _torch_call(conv, floating, x, w, dy)
    fp32 = ours if floating == kernel else _tvm_call(conv, floating, x, w, dy)[0]
    calls = (ours, theirs, fp32)
    repeat = max(1, int(_ROUND_SECONDS / min(_seconds(call, 3) for call in calls)))
    times = [[_seconds(call, repeat) for call in calls] for _ in range(rounds)]
    mine, reference, base = (median(column) for column in zip(*times, strict=True))
    gflops = 2e-9 * conv.macs / mine
    ratios = reference / mine, 1.0 if fp32 is ours else base / mine
    return Row(name, kernel, compile_seconds, 1e3 * mine, 1e3 * reference, gflops, *ratios)


def _keep_memory() -> None:
    """Makes malloc reuse large blocks, so that torch's fresh outputs are not timed as page faults."""
    libc = ctypes.CDLL(None)
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        libc.mallopt(option, 1 << 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    _keep_memory()
    torch.set_num_threads(host().threads)
    print(f"{'workload':32} {'kernel':10} compile s       ms  torch ms  GFLOP/s  ratio  to fp32")
    rows = []
    for name, conv in WORKLOADS.items():
        for kernel in _PASSES:
            if options.only in f"{name} {kernel}":
                row = _measure(name, conv, kernel, options.rounds)
                rows.append(row)
                print(f"{name:32} {kernel:10} {row.compile_seconds:9.2f} {row.ms:8.3f} {row.torch_ms:9.3f} "
                      f"{row.gflops:8.1f} {row.ratio:6.2f} {row.fp32_ratio:8.2f}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
