"""ResNet-20 on CIFAR-10: plain PyTorch, the compiled plain program, and programs with passes.

    python benchmarks/resnet20_cifar.py --data DIR [--epochs 8] [--seeds 0 1]

All see the same initial weights, batches and augmentation; the learning rate is 0.1, and with signs 0.03.
`all` is scheduled for 4/3 of the epochs, of which BatchDrop leaves out half. Each run is written as it ends
and skipped when it is there already, so the script may be stopped and started again; PyTorch runs with
channels last, the faster of its memory formats here. A table of what is there is printed at the end.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import nets
import numpy as np
import torch
from torch import nn

import e2compile
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Pass
from e2compile.runtime.engine import cores
from e2compile.runtime.fit import Options, Run

RESULTS = Path(__file__).parent / "results" / "resnet20_cifar"
BATCH = 128


@dataclass(frozen=True)
class Variant:
    """Passes, the length as a share of the plain run's, and the learning rate."""

    passes: tuple[Pass, ...] = ()
    length: float = 1.0
    rate: float = 0.1


_ALL = (BatchDrop(p=0.5), LayerGate(target_skip=0.4), SignPredict())
VARIANTS = {
    "pytorch": Variant(),
    "compiled": Variant(),
    "compiled+smd": Variant((BatchDrop(p=0.5),)),
    "all": Variant(_ALL, 4 / 3, 0.03),
}


def task(variant: Variant, seed: int, epochs: int) -> e2compile.TrainingGraph:
    module = nets.net("resnet20", seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=variant.rate, momentum=0.9, weight_decay=1e-4)
    milestones = [epochs // 2, epochs * 3 // 4]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    return e2compile.capture(module, nets.batch(BATCH), optimizer=optimizer, schedule=schedule, epochs=epochs)


def run(name: str, seed: int, epochs: int, data: str) -> dict[str, Any]:
    variant = VARIANTS[name]
    epochs = round(variant.length * epochs)
    graph = task(variant, seed, epochs).apply(*variant.passes)
    program = e2compile.compile(graph, seed=seed, verify=False)
    session = Run(program, data, Options())
    if name != "pytorch":
        results = session.go()
        return {
            "accuracy": results.accuracy,
            "test_loss": results.test_loss,
            "loss": results.loss,
            "steps_scheduled": results.steps_scheduled,
            "steps_executed": results.steps_executed,
            "seconds": results.seconds,
        }
    return _pytorch(graph, session, epochs)


def _pytorch(graph: e2compile.TrainingGraph, session: Run, epochs: int) -> dict[str, Any]:
    """The same training loop in eager PyTorch over the same loader."""
    model, optimizer, schedule = graph.task.model, graph.task.optimizer, graph.task.schedule
    model.to(memory_format=torch.channels_last)
    criterion, losses = nn.CrossEntropyLoss(), []
    total = epochs * session.loader.steps_per_epoch
    began = time.perf_counter()
    for step, (x, y) in session.loader.prefetch(range(total)):
        model.train()
        optimizer.zero_grad(set_to_none=True)
        pixels = torch.from_numpy(x).to(memory_format=torch.channels_last)
        value = criterion(model(pixels), torch.from_numpy(y))
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
        if (step + 1) % session.loader.steps_per_epoch == 0:
            schedule.step()
            _accuracy(model, session, session.validation)
    seconds = time.perf_counter() - began
    accuracy, loss = _accuracy(model, session, session.dataset.test)
    return {
        "accuracy": accuracy,
        "test_loss": loss,
        "loss": losses,
        "steps_scheduled": total,
        "steps_executed": total,
        "seconds": seconds,
    }


def _accuracy(model: nn.Module, session: Run, split: Any) -> tuple[float, float]:
    """Accuracy and mean loss in evaluation mode."""
    model.eval()
    x, y = split.take(np.arange(len(split)))
    with torch.no_grad():
        pixels = torch.from_numpy(session.augment.normalise(x)).to(memory_format=torch.channels_last)
        outputs = torch.cat([model(part) for part in pixels.split(BATCH)])
    target = torch.from_numpy(y)
    loss = nn.functional.cross_entropy(outputs, target)
    return float((outputs.argmax(1) == target).float().mean()), float(loss)


def table() -> None:
    """Mean and spread of what lies in the results folder."""
    for variant in VARIANTS:
        runs = [json.loads(p.read_text()) for p in sorted(RESULTS.glob(f"{variant}-*.json"))]
        if not runs:
            continue
        accuracy = [100 * r["accuracy"] for r in runs]
        tail = [statistics.mean(r["loss"][-50:]) for r in runs]
        spread = statistics.stdev(accuracy) if len(runs) > 1 else 0.0
        print(
            f"{variant:14s} {len(runs)} seeds  accuracy {statistics.mean(accuracy):5.2f} +- {spread:.2f} %"
            f"  last 50 losses {statistics.mean(tail):.4f}"
            f"  executed {statistics.mean(r['steps_executed'] for r in runs):.0f}"
            f" of {runs[0]['steps_scheduled']}"
            f"  {statistics.mean(r['seconds'] for r in runs):.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(cores())
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for variant in VARIANTS:
            path = RESULTS / f"{variant}-{seed}.json"
            if path.exists():
                continue
            result = run(variant, seed, options.epochs, options.data)
            header = {
                "variant": variant,
                "seed": seed,
                "epochs": options.epochs,
                "machine": machine.describe(),
            }
            path.write_text(json.dumps(header | result) + "\n")
            print(
                f"{variant} seed {seed}: {100 * result['accuracy']:.2f} % in {result['seconds']:.0f} s",
                flush=True,
            )
    table()


if __name__ == "__main__":
    main()
