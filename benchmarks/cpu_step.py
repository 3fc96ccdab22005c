"""Time of one training step on the CPU: PyTorch eager and torch.compile, both memory formats, and e2compile.

`fp32` is the plain program, `psg` that with the hardware preset of SignPredict, `slu 40 %` has the gates
forced to skip 40 % of the samples of gated blocks, `slu 40 %, psg` both. BatchDrop changes no executed step.

Variants of one network and batch run in turn, one step each, so that drift of the machine's speed hits
all alike; medians are quoted, and ratios against the best PyTorch variant of the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gated_step
import machine
import nets
import torch
from torch import nn

import e2compile
from e2compile.passes import LayerGate, SignPredict
from e2compile.pipeline import Pass
from e2compile.runtime.engine import cores

Step = Callable[[], object]


def pytorch(name: str, size: int, layout: torch.memory_format, is_compiled: bool) -> Step:
    """One step of forward, backward and SGD with momentum and decay."""
    module = nets.net(name).to(memory_format=layout)
    x, y = nets.batch(size)
    x = x.to(memory_format=layout)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def forward() -> torch.Tensor:
        return criterion(module(x), y)

    loss = torch.compile(forward) if is_compiled else forward

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


PASSES: dict[str, tuple[Pass, ...]] = {
    "fp32": (),
    "psg": (SignPredict(),),
    "slu 40 %": (LayerGate(floor=0.0),),
    "slu 40 %, psg": (LayerGate(floor=0.0), SignPredict()),
}


def compiled(name: str, size: int, passes: tuple[Pass, ...]) -> tuple[Step, int]:
    """The same step as a program, and the bytes of its temporary memory, state and data on top of them."""
    graph = e2compile.capture(nets.net(name), nets.batch(size)).apply(*passes)
    program = e2compile.compile(graph, verify=False)
    if "slu.head.bias" in program.arrays():
        program = gated_step.forced(program, 0.6)
    arrays = tuple(t.numpy() for t in nets.batch(size))
    report = json.loads((program.folder / "report" / "compile.json").read_text())
    state = sum(array.nbytes for array in program.arrays().values()) + sum(array.nbytes for array in arrays)
    return lambda: program.execute(arrays).loss, report["planned_bytes"]["step"] + state


def variants(name: str, size: int, with_compile: bool) -> tuple[dict[str, Step], dict[str, int]]:
    steps: dict[str, Step] = {}
    for layout, suffix in ((torch.contiguous_format, "nchw"), (torch.channels_last, "nhwc")):
        steps[f"eager {suffix}"] = pytorch(name, size, layout, False)
        if with_compile:
            steps[f"compile {suffix}"] = pytorch(name, size, layout, True)
    planned = {}
    for variant, passes in PASSES.items():
        steps[variant], planned[variant] = compiled(name, size, passes)
    return steps, planned


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, interleaved, after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 2:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def rows(name: str, size: int, rounds: int, with_compile: bool) -> list[dict[str, Any]]:
    steps, planned = variants(name, size, with_compile)
    seconds = measure(steps, rounds)
    medians = {variant: statistics.median(times) for variant, times in seconds.items()}
    best = min((v for v in medians if v not in PASSES), key=medians.__getitem__)
    return [
        {
            "model": name,
            "batch": size,
            "variant": variant,
            "median_seconds": median,
            "minimum_seconds": min(seconds[variant]),
            "images_per_second": size / median,
            "ratio_to_best_pytorch": medians[best] / median,
            "median_pair_ratio": statistics.median(
                a / b for a, b in zip(seconds[best], seconds[variant], strict=True)
            ),
            "best_pytorch": best,
            "peak_bytes": planned.get(variant),
        }
        for variant, median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(nets.NETS), action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    result: list[dict[str, Any]] = []
    for name in options.model or ["resnet20"]:
        for size in options.batch or [32, 128]:
            for row in rows(name, size, options.rounds, not options.no_compile):
                result.append(row)
                print(
                    f"{name:14s} {size:4d} {row['variant']:14s} {1e3 * row['median_seconds']:9.2f} ms"
                    f" {row['images_per_second']:9.1f} images/s {row['ratio_to_best_pytorch']:6.2f}x"
                    f" (pairs {row['median_pair_ratio']:.2f}x)",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "rows": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
