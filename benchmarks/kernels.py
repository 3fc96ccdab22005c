"""Times every distinct kernel of a training step against what the machine can do, and against oneDNN.

    python benchmarks/kernels.py [--model resnet20 ...] [--batch 128] [--rounds 7] [--json FILE]

Kernels are timed where they run, in steps of the program, plain and with SignPredict: so what they read is in
the cache, or is not, as it is in training. A contraction's rate is that of a direct one's operations, its
share that of its roofline: the time that these take at the roof for their type, or its arguments' bytes at
the rate of a copy through memory, whichever is more. It is above 1 where Winograd's transforms save
operations, or where the last-level cache holds what memory is charged for. Other kernels are held to their
bytes alone. `oneDNN` is PyTorch's time for the same contraction in float32, channels last, over ours. Times
are medians over steps, for a kernel that is called several times the mean of its calls.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import machine
import nets
import roof
import torch
from tvm import IRModule

import e2compile
from e2compile.compiler import entry_points
from e2compile.lower.flat import fused
from e2compile.lower.layout import state_orders
from e2compile.lower.module import Lowering
from e2compile.lower.workload import Convolution
from e2compile.passes import SignPredict
from e2compile.pipeline import Pass, TrainingGraph
from e2compile.runtime.engine import cores
from e2compile.runtime.program import Program
from e2compile.targets.base import Kernels
from e2compile.targets.llvm import CPU

MODELS = ("resnet20", "resnet74", "mobilenet_v2", "vgg16_bn")
PASSES: dict[str, tuple[Pass, ...]] = {"fp32": (), "psg": (SignPredict(),)}
_FLOATS = ("convolution", "input_gradient", "weight_gradient")
_WARM_UP = 2
# oneDNN's idle threads spin for a while, on the cores that TVM's then need.
_PARK_SECONDS = 0.02
_TORCH_RUNS = 7


@dataclass(frozen=True)
class Row:
    """One kernel of a program. `rate` is in 1e9 operations or bytes a second, `ratio` is to oneDNN."""

    model: str
    variant: str
    kernel: str
    what: str
    calls: int
    seconds: float
    rate: float
    share_of_roof: float
    ratio: float | None = None

    def text(self) -> str:
        unit = "GB/s" if self.ratio is None else "Gop/s"
        beside = "" if self.ratio is None else f" {self.ratio:5.2f}x of oneDNN"
        return (
            f"{self.model:12s} {self.variant:5s} {self.calls:3d} of {1e3 * self.seconds:8.3f} ms"
            f" {self.rate:7.1f} {unit:5s} {self.share_of_roof:6.1%}{beside:16s} {self.what or self.kernel}"
        )


def lowered(graph: TrainingGraph, kernels: Kernels) -> tuple[IRModule, dict[str, Any]]:
    """A step as a module, and by its name the workload of each kernel that has one, with its method."""
    lowering = Lowering(kernels)
    fusion = fused(entry_points(graph.step).step, scales=CPU.scales)
    lowering.function("step", fusion, state_orders(fusion.step))
    workloads = {
        str(variable.name_hint): key[:2]
        for key, variable in lowering.generated.items()
        if isinstance(key, tuple) and isinstance(key[0], str)
    }
    return lowering.module(), workloads


def timed(program: Program, size: int, rounds: int) -> dict[str, tuple[int, float, int]]:
    """Of each kernel its calls in a step, the median seconds of a call, and the bytes of its arguments."""
    arrays = tuple(t.numpy() for t in nets.batch(size))
    spans: dict[str, list[float]] = defaultdict(list)
    calls: dict[str, int] = {}
    moved: dict[str, int] = {}
    found: dict[str, float] = {}
    began = 0.0

    def note(_: Any, name: str, before: bool, __: Any, *arguments: Any) -> None:
        nonlocal began
        if before:
            began = time.perf_counter()
            return
        found[name] = found.get(name, 0.0) + time.perf_counter() - began
        calls[name] = calls.get(name, 0) + 1
        moved[name] = sum(prod(a.shape) * a.dtype.itemsize for a in arguments if hasattr(a, "shape"))

    program.library.machine.set_instrument(note)
    for number in range(_WARM_UP + rounds):
        found.clear()
        calls.clear()
        program.execute(arrays)
        if number >= _WARM_UP:
            for name, seconds in found.items():
                spans[name].append(seconds / calls[name])
    program.library.machine.set_instrument(lambda *_: None)
    return {n: (calls[n], median(s), moved[n]) for n, s in spans.items() if not n.startswith("vm.")}


def onednn(method: str, conv: Convolution) -> float:
    """The median seconds of PyTorch's float32 kernel for a contraction."""
    last = torch.channels_last
    x, dy = (torch.randn(shape).permute(0, 3, 1, 2) for shape in (conv.x_shape, conv.y_shape))
    weight = torch.randn(conv.weight_shape).permute(3, 2, 0, 1).contiguous(memory_format=last)
    how = (conv.stride, conv.padding, conv.dilation)
    kind = method if method in _FLOATS else method.partition("_")[2]
    mask = [kind == "input_gradient", kind == "weight_gradient", False]

    def forward() -> object:
        return torch.nn.functional.conv2d(x, weight, None, *how, conv.groups)

    def backward() -> object:
        rest = (False, [0, 0], conv.groups, mask)
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *how, *rest)

    return _seconds(forward if kind == "convolution" else backward)


def _seconds(call: Callable[[], object]) -> float:
    time.sleep(_PARK_SECONDS)
    call()
    times = []
    for _ in range(_TORCH_RUNS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return median(times)


def rows(name: str, variant: str, size: int, rounds: int, limits: roof.Roof) -> list[Row]:
    graph = e2compile.capture(nets.net(name), nets.batch(size)).apply(*PASSES[variant])
    _, workloads = lowered(graph, CPU.kernels)
    program = e2compile.compile(graph, verify=False)
    result = []
    for kernel, (calls, seconds, moved) in timed(program, size, rounds).items():
        method, workload = workloads.get(kernel, ("", None))
        if isinstance(workload, Convolution):
            limit = limits.float_rate if method in _FLOATS else limits.integer_rate
            operations = 2e-9 * workload.macs * (1 + method.startswith("planes_"))
            least = max(operations / limit, 1e-9 * moved / limits.copy_rate)
            ratio = onednn(method, workload) / seconds
            what = described(method, workload)
            rate = operations / seconds
            result.append(Row(name, variant, kernel, what, calls, seconds, rate, least / seconds, ratio))
        else:
            rate = 1e-9 * moved / seconds
            result.append(Row(name, variant, kernel, method, calls, seconds, rate, rate / limits.copy_rate))
    return sorted(result, key=lambda row: -row.calls * row.seconds)


def described(method: str, conv: Convolution) -> str:
    kind = "depthwise " if conv.is_depthwise else ""
    size = f"{conv.height}x{conv.width} {conv.in_channels}->{conv.out_channels}"
    return f"{kind}{method} {size} k{conv.kernel[0]} s{conv.stride[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(nets.NETS), action="append")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    limits = roof.measured()
    print(limits.text())
    found: list[Row] = []
    for name in options.model or MODELS:
        for variant in PASSES:
            for row in rows(name, variant, options.batch, options.rounds, limits):
                found.append(row)
                print(row.text(), flush=True)
    if options.json:
        content = {"machine": machine.describe(), "roof": asdict(limits), "rows": [asdict(r) for r in found]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
