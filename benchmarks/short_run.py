"""A network with passes on a target: seconds to compile by phase, then a short run on CIFAR-10 images.

python benchmarks/short_run.py --data DIR [--model resnet74] [--passes smd,slu,psg] [--target cpu]
                               [--batch 128] [--steps 100] [--rate 0.1] [--json FILE]
"""

import argparse
import itertools
import json
import resource
import statistics
import time
from pathlib import Path

import machine
import nets
import torch

import e2compile
from e2compile.options import parse_passes
from e2compile.runtime.fit import Event, Options, Run

MEAN_OF = 10  # losses of executed steps


def mean(values: dict[str, float]) -> float | None:
    return statistics.mean(values.values()) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", choices=sorted(nets.NETS), default="resnet74")
    parser.add_argument("--passes", default="smd,slu,psg")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    phases: dict[str, float] = {}
    began = time.perf_counter()
    module = nets.net(options.model)
    optimizer = torch.optim.SGD(module.parameters(), lr=options.rate, momentum=0.9, weight_decay=1e-4)
    graph = e2compile.capture(module, nets.batch(options.batch), optimizer=optimizer)
    graph = graph.apply(*parse_passes(options.passes))
    program = e2compile.compile(graph, options.target, cache=False, watch=phases.__setitem__)
    compiled = time.perf_counter() - began
    stages = {stage.name: stage.seconds for stage in graph.stages}
    print(f"compiled and verified in {compiled:.1f} s; {phases}; {stages}", flush=True)
    ends: list[tuple[float, bool]] = []

    def watch(event: Event) -> None:
        ends.append((time.perf_counter(), event.result.executed))

    results = Run(program, options.data, Options(steps=options.steps)).go(watch)
    steps = [now[0] - before[0] for before, now in itertools.pairwise(ends) if now[1]]
    row = {
        "model": options.model,
        "passes": options.passes,
        "target": options.target,
        "rate": options.rate,
        "batch": options.batch,
        "compile": compiled,
        "phases": phases,
        "stages": stages,
        "steps_scheduled": results.steps_scheduled,
        "steps_executed": results.steps_executed,
        "step": statistics.median(steps),
        "losses": [statistics.mean(results.loss[i:][:MEAN_OF]) for i in range(0, len(results.loss), MEAN_OF)],
        "executed": mean(results.executed),
        "predicted": mean(results.predicted),
        "modelled_device_seconds": results.modelled_device_seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(row)
    if options.json:
        content = {"machine": machine.describe(), **row}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
