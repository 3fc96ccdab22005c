"""How sure the sign predictor is on a ResNet-20, and how often it is wrong, layer by layer.

    python benchmarks/sign_predict_stats.py --data DIR [--steps 40] [--batches 4] [--size 128] [--json FILE]

PyTorch only: the rewritten graph trains for some steps as its preset says; then, from the state reached,
signs are taken without any fallback and with one for every unsure element, on the same batches.
`errors` is the share of predicted signs that differ from the full product's, `errors_sure` that among the
sure elements alone, `trained` the mean counters of the training steps, `loss` its first and last loss.
`float32` is the loss of the plain graph on the same batches at the same learning rate.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import machine
import nets
import torch
from torch import Tensor

from e2compile.graph import Kind, StepGraph
from e2compile.passes import SignPredict
from e2compile.passes.sign_predict import PRESETS
from e2compile.pipeline import TrainingGraph, capture
from e2compile.runtime.datasets import load
from e2compile.runtime.loader import Augment, Loader

RATE = 0.03
Named = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


class Runner:
    """Steps of a graph in PyTorch; state is carried from one to the next."""

    def __init__(self, step: StepGraph, state: Named) -> None:
        self.step, self.state = step, state
        for slot, node in zip(step.inputs, step.placeholders, strict=True):
            if slot.kind.is_state and str(slot) not in self.state:
                self.state[str(slot)] = torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)

    def __call__(self, batch: Batch, keep: bool = True) -> Named:
        """Everything but state that one step gives; with `keep` off the state stays as it was."""
        zero = torch.tensor(0)
        plain: dict[Kind, Any] = {Kind.SEED: zero, Kind.STEP: zero, Kind.RATE: torch.tensor([RATE])}
        arguments = [self.state[str(s)] if s.kind.is_state else plain.get(s.kind) for s in self.step.inputs]
        data = iter(batch)
        arguments = [next(data) if a is None else a for a in arguments]
        with torch.no_grad():
            values = self.step.module(*arguments)
        given = {str(slot): value for slot, value in zip(self.step.outputs, values, strict=True)}
        if keep:
            self.state |= {name: value for name, value in given.items() if name in self.state}
        return {name: value for name, value in given.items() if name not in self.state}


def batches(data: str, size: int, steps: int) -> Iterator[Batch]:
    dataset = load(data)
    loader = Loader(dataset.train, size, 0, Augment.of(dataset))
    for _, (x, y) in loader.prefetch(range(steps)):
        yield torch.from_numpy(x), torch.from_numpy(y)


def start(graph: TrainingGraph) -> Named:
    """Weights and buffers as the model has them."""
    model = graph.task.model
    named = {f"{Kind.PARAMETER} {n}": p.detach().clone() for n, p in model.named_parameters()}
    return named | {f"{Kind.BUFFER} {n}": b.clone() for n, b in model.named_buffers()}


def counters(given: Sequence[Named], name: str) -> dict[str, float]:
    """The mean of a counter over steps, by convolution."""
    prefix, suffix = f"{Kind.COUNTER} psg.", f".{name}"
    keys = [key for key in given[0] if key.startswith(prefix) and key.endswith(suffix)]
    return {key.removeprefix(prefix).removesuffix(suffix): mean(float(g[key]) for g in given) for key in keys}


def study(graph: TrainingGraph, preset: Any, train: Sequence[Batch], held: Sequence[Batch]) -> dict[str, Any]:
    plain = graph.step
    runner = Runner(SignPredict(preset=preset)(plain).graph, start(graph))
    trained = [runner(batch) for batch in train]
    found: dict[str, list[Named]] = {}
    for fallback in ("never", "element"):
        options = SignPredict(preset=preset, fallback=fallback, measure=True)  # type: ignore[arg-type]
        probe = Runner(options(plain).graph, dict(runner.state))
        found[fallback] = [probe(batch, keep=False) for batch in held]
    sure, errors = (counters(found["never"], name) for name in ("sure", "errors"))
    left = counters(found["element"], "errors")
    ran = counters(trained, "fallback")
    layers = {
        name: {
            "sure": sure[name],
            "errors": errors[name],
            "errors_sure": left[name] / sure[name],
            "trained": {"sure": counters(trained, "sure")[name], "fallback": ran[name]},
        }
        for name in sorted(sure)
    }
    losses = [float(g["loss loss"]) for g in trained]
    return {"settings": vars(PRESETS[preset]), "loss": [losses[0], losses[-1]], "layers": layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = nets.net("resnet20")
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    graph = capture(model, nets.batch(options.size), optimizer=optimizer)
    taken = list(batches(options.data, options.size, options.steps + options.batches))
    train, held = taken[: options.steps], taken[options.steps :]
    plain = Runner(graph.step, start(graph))
    losses = [float(plain(batch)["loss loss"]) for batch in train]
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "network": "resnet20",
        "batch": options.size,
        "steps": options.steps,
        "held_batches": options.batches,
        "rate": RATE,
        "float32": {"loss": [losses[0], losses[-1]]},
    }
    for preset in PRESETS:
        results[preset] = study(graph, preset, train, held)
        rows = results[preset]["layers"]
        print(f"{preset}: loss {results[preset]['loss'][0]:.3f} -> {results[preset]['loss'][1]:.3f}")
        for name, row in rows.items():
            shares = "  ".join(f"{key} {100 * row[key]:5.1f} %" for key in ("sure", "errors", "errors_sure"))
            print(f"  {name:16s} {shares}  fallback ran {100 * row['trained']['fallback']:.0f} %")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
