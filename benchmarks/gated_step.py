"""Time of a step against the share of the gated blocks that is executed, the gates forced to it.

    python benchmarks/gated_step.py [--model resnet20] [--batch 128] [--psg] [--json FILE]

The head of the gates is set so that each sample runs each block with one probability, whatever its pixels.
`plain` is the same network without gates, `without blocks` the network with its gated blocks taken out:
what the step costs where nothing of them runs at all. Rounds of all shares alternate. Last the calls of the
regions' kernels are timed one by one where no sample lives, the instrument's own time with them.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import machine
import nets
import numpy as np
from torch import nn

import e2compile
from e2compile.passes import LayerGate, SignPredict
from e2compile.runtime.program import Program

SHARES = [i / 10 for i in range(11)]
# As good as never and always: the probability of another draw is e^-60.
_CERTAIN = 60.0


def logit(share: float) -> float:
    if share in (0.0, 1.0):
        return _CERTAIN * (2 * share - 1)
    return math.log(share / (1 - share))


class Skipped(nn.Module):
    """A residual block's shortcut alone."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.shortcut, self.relu = block.shortcut, nn.ReLU()

    def forward(self, x: Any) -> Any:
        return self.relu(self.shortcut(x))


def without_blocks(name: str) -> nn.Module:
    """The network with all its blocks but the first replaced by their shortcuts."""
    module: Any = nets.net(name)
    blocks = [i for i, child in enumerate(module.children()) if hasattr(child, "shortcut")]
    for i in blocks[1:]:
        module[i] = Skipped(module[i])
    network: nn.Module = module
    return network


def compiled(module: nn.Module, size: int, *passes: Any) -> Program:
    return e2compile.compile(e2compile.capture(module, nets.batch(size)).apply(*passes), verify=False)


def forced(program: Program, share: float) -> Program:
    """The gates' head says one probability for all; a learning rate of zero keeps it."""
    arrays = program.arrays()
    arrays["slu.head.weight"] = np.zeros_like(arrays["slu.head.weight"])
    arrays["slu.head.bias"] = np.full_like(arrays["slu.head.bias"], logit(share))
    program.restore(arrays)
    program.rates = np.zeros_like(program.rates)
    return program


def planned(program: Program) -> int:
    report = json.loads((program.folder / "report" / "compile.json").read_text())
    return int(report["planned_bytes"]["step"])


def measure(programs: dict[str, Program], size: int, rounds: int) -> dict[str, dict[str, float]]:
    arrays = tuple(t.numpy() for t in nets.batch(size))
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    shares: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            result = program.execute(arrays)
            if number:
                seconds[name].append(time.perf_counter() - began)
                counts = [float(v) / size for k, v in result.counters.items() if k.endswith(".executed")]
                shares[name] += counts
    return {
        name: {
            "median_seconds": statistics.median(times),
            "minimum_seconds": min(times),
            "executed": statistics.mean(shares[name]) if shares[name] else 1.0,
        }
        for name, times in seconds.items()
    }


def idle_regions(program: Program, size: int, rounds: int) -> dict[str, float]:
    """How many calls of a step run over lists of live samples; their seconds together, median of rounds."""
    arrays = tuple(t.numpy() for t in nets.batch(size))
    lists: set[tuple[str, int]] = set()
    seconds: list[float] = []
    began = 0.0

    def note(_: Any, name: str, before: bool, __: Any, *arguments: Any) -> None:
        nonlocal began
        now = time.perf_counter()
        integers = {
            (str(a.shape), a.data_ptr()) for a in arguments if str(getattr(a, "dtype", "")) == "int32"
        }
        if name.startswith("live_samples_of"):
            lists.update(integers)
        elif before:
            began = time.perf_counter()
        elif lists & integers:
            seconds.append(now - began)

    totals = []
    program.library.machine.set_instrument(note)
    for _ in range(rounds):
        lists.clear()
        seconds.clear()
        program.execute(arrays)
        totals.append(sum(seconds))
    program.library.machine.set_instrument(lambda *_: None)
    return {"calls": len(seconds), "seconds": statistics.median(totals)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["resnet20", "resnet38", "resnet74"], default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--psg", action="store_true", help="with SignPredict")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    extra = (SignPredict(),) if options.psg else ()
    gate = LayerGate(floor=0.0)
    programs = {
        "plain": compiled(nets.net(options.model), options.batch, *extra),
        "without blocks": compiled(without_blocks(options.model), options.batch, *extra),
    }
    base = compiled(nets.net(options.model), options.batch, gate, *extra)
    programs |= {f"{share:.0%}": forced(Program(base.folder), share) for share in SHARES}
    rows = measure(programs, options.batch, options.rounds)
    bare, whole = rows["0%"]["median_seconds"], rows["100%"]["median_seconds"]
    for name, row in rows.items():
        row["share_of_blocks_time"] = (row["median_seconds"] - bare) / (whole - bare)
        print(
            f"{name:15s} executed {row['executed']:6.1%} {1e3 * row['median_seconds']:8.2f} ms,"
            f" of the gated blocks' full time {row['share_of_blocks_time']:6.1%}"
        )
    idle = idle_regions(programs["0%"], options.batch, options.rounds)
    share = idle["seconds"] / rows["plain"]["median_seconds"]
    print(f"regions at 0%: {idle['calls']} calls, {1e3 * idle['seconds']:.2f} ms, {share:.2%} of plain")
    memory = {"plain": planned(programs["plain"]), "gated": planned(base)}
    print(f"planned bytes {memory}, {memory['gated'] / memory['plain']:.3f}")
    if options.json:
        content = {"machine": machine.describe(), "rows": rows, "idle_regions": idle, "planned_bytes": memory}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
