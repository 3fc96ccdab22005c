"""What passes cost in accuracy and save in work: ResNet-20 on CIFAR-10 images, one run a variant and seed.

    python benchmarks/study.py --data DIR [--epochs 6] [--seeds 0] [--only all,plain]

All variants see the same initial weights, images and augmentation. `plain at 1/2` and the like are plain
runs shortened, their schedule with them, to the compute that another variant executes: the baseline that
has to be beaten. Each run is written as it ends and skipped when it is there already, so the script may be
stopped and started again. A table of what is there is printed at the end.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import nets
import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

import e2compile
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Pass
from e2compile.runtime.fit import Options, Run

RESULTS = Path(__file__).parent / "results" / "study"
BATCH = 128
# E2-Train trains with signs at 0.03 and without at 0.1.
RATE, SIGN_RATE = 0.1, 0.03


@dataclass(frozen=True)
class Variant:
    """Passes, the scheduled length as a share of the study's epochs, and where averaging starts."""

    passes: tuple[Pass, ...] = ()
    length: float = 1.0
    swa_start: float | None = None

    @property
    def rate(self) -> float:
        return SIGN_RATE if any(isinstance(item, SignPredict) for item in self.passes) else RATE


def gated(skip: float, **options: Any) -> LayerGate:
    return LayerGate(target_skip=skip, **options)


VARIANTS = {
    "plain": Variant(),
    "plain at 1/2": Variant(length=0.5),
    "smd": Variant((BatchDrop(),)),
    "smd at 4/3": Variant((BatchDrop(),), 4 / 3),
    "smd at 2": Variant((BatchDrop(),), 2.0),
    "slu 20": Variant((gated(0.2),)),
    "slu 40": Variant((gated(0.4),)),
    "slu 60": Variant((gated(0.6),)),
    "slu 40 importance": Variant((gated(0.4, estimator="importance"),)),
    "slu 40 dense": Variant((gated(0.4, estimator="dense"),)),
    "psg hardware layer": Variant((SignPredict(fallback="layer"),)),
    "psg hardware never": Variant((SignPredict(fallback="never"),)),
    "psg hardware float32": Variant((SignPredict(results="float32"),)),
    "psg hardware element": Variant((SignPredict(fallback="element"),)),
    "psg hardware 8 bits": Variant((SignPredict(gradient_bits=8),)),
    "psg hardware max": Variant((SignPredict(scale="max", fallback="layer"),)),
    "psg hardware averaged": Variant((SignPredict(fallback="layer"),), swa_start=0.8),
    "psg paper": Variant((SignPredict(preset="paper"),)),
    "all": Variant((BatchDrop(), gated(0.4), SignPredict(fallback="layer"))),
    "all at 4/3": Variant((BatchDrop(), gated(0.4), SignPredict(fallback="layer")), 4 / 3),
}


def stepped_schedule(optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
    """A tenth of the rate after a half and three quarters."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4])


def averaging_schedule(optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
    """A third of the rate, that of E2-Train's script with weight averaging: flat, linear, flat."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: float(np.interp(epoch / epochs, [0.4, 0.72], [1, 1 / 3]))
    )


def task(variant: Variant, seed: int, epochs: int) -> e2compile.TrainingGraph:
    module = nets.net("resnet20", seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=variant.rate, momentum=0.9, weight_decay=1e-4)
    schedule = averaging_schedule if variant.swa_start is not None else stepped_schedule
    graph = e2compile.capture(
        module, nets.batch(BATCH), optimizer=optimizer, schedule=schedule(optimizer, epochs), epochs=epochs
    )
    return graph.apply(*variant.passes)


def run(variant: Variant, seed: int, epochs: int, data: str) -> dict[str, Any]:
    epochs = max(1, round(epochs * variant.length))
    program = e2compile.compile(task(variant, seed, epochs), seed=seed, verify=False)
    results = Run(program, data, Options(swa_start=variant.swa_start)).go()
    return asdict(results) | {
        "epochs": epochs,
        "rate": variant.rate,
        "passes": list(map(repr, variant.passes)),
    }


def place(name: str, seed: int) -> Path:
    return RESULTS / f"{name.replace(' ', '_').replace('/', '-')}-{seed}.json"


def mean(values: Sequence[float]) -> float:
    return statistics.mean(values) if values else float("nan")


def table(seeds: Sequence[int]) -> None:
    print(f"{'variant':22} runs  accuracy (each)               test loss  steps run  blocks  sure   s")
    for name in VARIANTS:
        found = [json.loads(place(name, s).read_text()) for s in seeds if place(name, s).is_file()]
        if not found:
            continue
        accuracies = [row["accuracy"] for row in found]
        each = " ".join(f"{100 * a:.2f}" for a in accuracies)
        blocks = mean([mean(list(row["executed"].values())) for row in found if row["executed"]])
        sure = mean([mean(list(row["predicted"].values())) for row in found if row["predicted"]])
        print(
            f"{name:22} {len(found):4d}  {100 * mean(accuracies):5.2f} ({each}){'':{max(0, 22 - len(each))}}"
            f" {mean([row['test_loss'] for row in found]):8.3f}"
            f" {mean([row['steps_executed'] for row in found]):9.0f}"
            f" {blocks:7.3f} {sure:6.3f} {mean([row['seconds'] for row in found]):6.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default=",".join(VARIANTS))
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.only.split(","):
            path = place(name, seed)
            if not path.is_file():
                row = run(VARIANTS[name], seed, options.epochs, options.data)
                described = machine.describe() | {"command": f"benchmarks/study.py --epochs {options.epochs}"}
                path.write_text(
                    json.dumps({"variant": name, "seed": seed, **row, "machine": described}) + "\n"
                )
                print(
                    f"{name}, seed {seed}: {100 * row['accuracy']:.2f} %, {row['seconds']:.0f} s", flush=True
                )
    table(options.seeds)


if __name__ == "__main__":
    main()
