"""200 steps of ResNet-20: does the compiled program end where eager PyTorch does, as close as its own runs?

    python benchmarks/loss_spread.py --data DIR [--steps 200] [--json FILE]

Three eager runs that differ only in memory format and threads spread, because rounding grows along a
training run; the program's mean loss over the last 50 steps is to lie within that spread.
"""

import argparse
import json
import statistics
from pathlib import Path

import machine
import nets
import torch
from torch import nn

import e2compile
from e2compile.runtime.engine import cores
from e2compile.runtime.fit import Options, Run

_TAIL = 50


def eager(session: Run, steps: int, layout: torch.memory_format, threads: int) -> list[float]:
    torch.set_num_threads(threads)
    model = nets.net("resnet20").to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion, losses = nn.CrossEntropyLoss(), []
    for _, (x, y) in session.loader.prefetch(range(steps)):
        optimizer.zero_grad(set_to_none=True)
        value = criterion(model(torch.from_numpy(x).to(memory_format=layout)), torch.from_numpy(y))
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    graph = e2compile.capture(nets.net("resnet20"), nets.batch(128))
    session = Run(e2compile.compile(graph), options.data, Options(steps=options.steps))
    runs = {"program": session.go().loss}
    for label, layout, threads in (
        ("eager nchw", torch.contiguous_format, cores()),
        ("eager nhwc", torch.channels_last, cores()),
        ("eager nchw, 1 thread", torch.contiguous_format, 1),
    ):
        runs[label] = eager(session, options.steps, layout, threads)
    tails = {label: statistics.mean(losses[-_TAIL:]) for label, losses in runs.items()}
    for label, tail in tails.items():
        print(
            f"{label:22s} mean loss of the last {_TAIL} steps {tail:.4f}, of the first {runs[label][0]:.6f}"
        )
    others = [tail for label, tail in tails.items() if label != "program"]
    distance = abs(tails["program"] - statistics.mean(others))
    print(f"program to the eager mean {distance:.4f}, eager runs spread {max(others) - min(others):.4f}")
    if options.json:
        content = {"machine": machine.describe(), "tails": tails, "losses": runs}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
