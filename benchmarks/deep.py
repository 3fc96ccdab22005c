"""ResNet-74 with all three passes: seconds to compile by phase, then a short run on CIFAR-10 images.

python benchmarks/deep.py --data DIR [--model resnet74] [--batch 128] [--steps 100] [--json FILE]
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

import e2compile
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.runtime.fit import Event, Options, Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", choices=sorted(nets.NETS), default="resnet74")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    phases: dict[str, float] = {}
    began = time.perf_counter()
    graph = e2compile.capture(nets.net(options.model), nets.batch(options.batch))
    graph = graph.apply(BatchDrop(), LayerGate(), SignPredict())
    program = e2compile.compile(graph, cache=False, watch=phases.__setitem__)
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
        "batch": options.batch,
        "compile": compiled,
        "phases": phases,
        "stages": stages,
        "steps_scheduled": results.steps_scheduled,
        "steps_executed": results.steps_executed,
        "step": statistics.median(steps),
        "loss_first": results.loss[0],
        "loss_last": results.loss[-1],
        "loss_last_ten": statistics.mean(results.loss[-10:]),
        "executed": statistics.mean(results.executed.values()),
        "predicted": statistics.mean(results.predicted.values()),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(row)
    if options.json:
        command = f"python benchmarks/deep.py --data DIR --model {options.model} --batch {options.batch}"
        content = {"machine": machine.describe() | {"command": command}, **row}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
