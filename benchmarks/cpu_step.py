"""Time and memory of a training step on the CPU: PyTorch eager and compiled, both formats, and e2compile.

    python benchmarks/cpu_step.py [--model resnet20] [--batch 128] [--variant fp32] [--memory-only]
        [--json FILE]

`fp32` is the plain program, `psg` that with the hardware preset of SignPredict. `slu 0%`, `slu 40%` and
`slu 60%` have gates that are forced to skip that share of the samples of gated blocks; `smd,slu,psg` has all
three passes and skips 40 %, `8-bit` with gradients of 8 bits instead of 16. With `in 0.35` a program has that
share of the best PyTorch variant's memory as its budget; where no recomputation reaches it, there is no such
row. BatchDrop changes no executed step. A network without residual blocks has no gates.

Variants of one network and batch run in turn, one step each, so that drift of the machine's speed hits
all alike; medians are quoted, and ratios against the best PyTorch variant of the same run. GFLOP/s are those
of the dense step, whatever a variant runs of it. `peak_bytes` are tensor bytes: of PyTorch by the events of
its allocator, of a program its static plan with state and batch; `resident_bytes` is the memory of a process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gated_step
import machine
import nets
import torch
from pytorch_step import VARIANTS, PyTorchStep, step_flops

import e2compile
from e2compile.errors import CompileError
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Pass
from e2compile.runtime.engine import cores
from e2compile.runtime.program import Program

MODELS = ("resnet20", "resnet74", "mobilenet_v2", "vgg16_bn")
BATCHES = (1, 32, 128)
# Both runtimes' idle threads spin for a while, on the cores that the other one then needs.
_PARK_SECONDS = 0.02

_GATES = LayerGate(floor=0.0)


@dataclass(frozen=True)
class Variant:
    """Passes, the share of samples that skips a gated block, and a budget as a share of PyTorch's memory."""

    passes: tuple[Pass, ...] = ()
    skip: float = 0.0
    memory: float | None = None


PROGRAMS = {
    "fp32": Variant(),
    "psg": Variant((SignPredict(),)),
    "psg in 0.35": Variant((SignPredict(),), memory=0.35),
    "slu 0%": Variant((_GATES,)),
    "slu 40%": Variant((_GATES,), 0.4),
    "slu 60%": Variant((_GATES,), 0.6),
    "smd,slu,psg": Variant((BatchDrop(), _GATES, SignPredict()), 0.4),
    "smd,slu,psg in 0.35": Variant((BatchDrop(), _GATES, SignPredict()), 0.4, 0.35),
    "smd,slu,psg 8-bit": Variant((BatchDrop(), _GATES, SignPredict(gradient_bits=8)), 0.4),
}


class ProgramStep:
    """The same step as a program; its gates, if it has any, skip a share of the samples."""

    def __init__(self, program: Program, batch: int, skip: float) -> None:
        self.folder = program.folder
        self.arrays = tuple(tensor.numpy() for tensor in nets.batch(batch))
        own = Program(program.folder)
        is_gated = any(name.startswith("slu.") for name in own.arrays())
        self.program = gated_step.forced(own, 1 - skip) if is_gated else own

    def __call__(self) -> float | None:
        return self.program.execute(self.arrays).loss

    def peak_bytes(self) -> int:
        held = [*self.program.arrays().values(), *self.arrays]
        return gated_step.planned(self.program) + sum(array.nbytes for array in held)


def programs(model: str, batch: int, pytorch_bytes: int, names: Sequence[str]) -> dict[str, ProgramStep]:
    """A step of each variant that the network has places for; those that differ in skips share a program."""
    built: dict[tuple[tuple[Pass, ...], float | None], Program | None] = {}
    variants = {name: each for name, each in PROGRAMS.items() if name in names}
    for each in variants.values():
        if (each.passes, each.memory) not in built:
            built[each.passes, each.memory] = compiled(model, batch, each, pytorch_bytes)
    found = {name: (built[each.passes, each.memory], each.skip) for name, each in variants.items()}
    return {
        name: ProgramStep(program, batch, skip)
        for name, (program, skip) in found.items()
        if program is not None
    }


def compiled(model: str, batch: int, variant: Variant, pytorch_bytes: int) -> Program | None:
    graph = e2compile.capture(nets.net(model), nets.batch(batch)).apply(*variant.passes)
    if not all(stage.changed for stage in graph.stages if stage.name == _GATES.name):
        return None
    budget = None if variant.memory is None else int(variant.memory * pytorch_bytes / 1e6)
    try:
        return e2compile.compile(graph, verify=False, memory_budget=budget)
    except CompileError as error:
        if budget is None:
            raise
        print(f"{model} {batch} in {variant.memory}: {error}", file=sys.stderr)
        return None


def resident_bytes(arguments: Sequence[str]) -> int:
    """What `resident.py` says in a process of its own."""
    script = str(Path(__file__).parent / "resident.py")
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def seconds(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant's steps, interleaved, after two rounds of warm-up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            time.sleep(_PARK_SECONDS)
            began = time.perf_counter()
            step()
            if number >= 2:
                found[name].append(time.perf_counter() - began)
    return found


def speed(times: dict[str, list[float]], batch: int, flops: int) -> dict[str, dict[str, Any]]:
    medians = {name: statistics.median(found) for name, found in times.items()}
    best = min(VARIANTS, key=medians.__getitem__)
    return {
        name: {
            "median_seconds": median,
            "minimum_seconds": min(times[name]),
            "images_per_second": batch / median,
            "gflops_per_second": 1e-9 * flops / median,
            "best_pytorch": best,
            "ratio_to_best_pytorch": medians[best] / median,
            "median_pair_ratio": statistics.median(
                theirs / ours for theirs, ours in zip(times[best], times[name], strict=True)
            ),
        }
        for name, median in medians.items()
    }


def memory(
    model: str, batch: int, steps: dict[str, PyTorchStep | ProgramStep], peaks: dict[str, int]
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        is_program = isinstance(step, ProgramStep)
        arguments = [str(step.folder)] if is_program else [model, str(batch), name]
        peak = step.peak_bytes() if is_program else peaks[name]
        rows[name] = {
            "peak_bytes": peak,
            "peak_to_least_pytorch": peak / min(peaks.values()),
            "resident_bytes": resident_bytes(arguments),
        }
    return rows


def measure(model: str, batch: int, rounds: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each of PyTorch's variants and each named; without times where there are no rounds."""
    steps: dict[str, Any] = {name: PyTorchStep(model, batch, name) for name in VARIANTS}
    peaks = {name: step.peak_bytes() for name, step in steps.items()}
    steps |= programs(model, batch, min(peaks.values()), names)
    times = speed(seconds(steps, rounds), batch, step_flops(model, batch)) if rounds else {}
    bytes_held = memory(model, batch, steps, peaks)
    return [
        {"model": model, "batch": batch, "variant": name} | times.get(name, {}) | bytes_held[name]
        for name in steps
    ]


def line(row: dict[str, Any]) -> str:
    text = f"{row['model']:13s} {row['batch']:4d} {row['variant']:22s}"
    if "median_seconds" in row:
        text += (
            f" {1e3 * row['median_seconds']:9.2f} ms {row['images_per_second']:8.1f} images/s"
            f" {row['gflops_per_second']:7.1f} GFLOP/s {row['ratio_to_best_pytorch']:6.2f}x"
            f" (pairs {row['median_pair_ratio']:.2f}x)"
        )
    return text + (
        f" {1e-6 * row['peak_bytes']:8.1f} MB, {row['peak_to_least_pytorch']:.2f} of PyTorch,"
        f" resident {1e-6 * row['resident_bytes']:7.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(nets.NETS), action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--variant", choices=list(PROGRAMS), action="append", help="all of them")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--memory-only", action="store_true", help="time nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    rows: list[dict[str, Any]] = []
    for model in options.model or MODELS:
        for batch in options.batch or BATCHES:
            rounds = 0 if options.memory_only else options.rounds
            found = measure(model, batch, rounds, options.variant or list(PROGRAMS))
            rows += found
            print(*map(line, found), sep="\n", flush=True)
            if options.json:
                content = {"machine": machine.describe(), "rows": rows}
                options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
