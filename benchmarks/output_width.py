"""In what width a convolution's result must reach batch norm: ResNet-20 with signs, one run a width and seed.

    python benchmarks/output_width.py --data DIR [--epochs 8] [--seed 0] [--bits 8 16]

SignPredict's convolutions are int32 sums, scaled to float32 before batch norm. Here each result is rounded to
so many bits, one scale for the tensor, as if it left in that width; the gradient goes through the rounding
as it is. All else is as in study.py, whose `psg hardware layer` is the run without the rounding. A run is
written as it ends and skipped when it is there already.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import machine
import study
from torch import fx

from e2compile.graph import StepGraph
from e2compile.integers.quantise import Writer, aten, largest, rounded, step_of
from e2compile.ops import INTEGER_CONVOLUTION
from e2compile.passes import SignPredict
from e2compile.pipeline import Change, Level

RESULTS = Path(__file__).parent / "results" / "output_width"


@dataclass(frozen=True)
class OutputWidth:
    """y = float(x * w) * steps  ->  code * step, code = clamp(floor(y / step + 0.5)) of so many bits

    The step is the largest magnitude of this step's y, raised to a power of two, over 2^(bits - 1).
    """

    bits: int
    name: ClassVar[str] = "width"
    level: ClassVar[Level] = Level.JOINT

    def __call__(self, step: StepGraph) -> Change:
        step = step.copy()
        convolutions = step.graph.find_nodes(op="call_function", target=INTEGER_CONVOLUTION)
        for convolution in convolutions:
            self._round(_scaled(convolution))
        step.module.recompile()
        return Change(step, len(convolutions))

    def _round(self, y: fx.Node) -> None:
        write, levels = Writer(y.graph, y), 2 ** (self.bits - 1)
        users = list(y.users)
        with y.graph.inserting_before(y.next):
            unit = step_of(write, largest(write, y), levels, "power")
            left = write(aten.mul.Tensor, rounded(write, y, unit, "power", -levels, levels - 1), unit)
        for user in users:
            user.replace_input_with(y, left)


def _scaled(convolution: fx.Node) -> fx.Node:
    """The product of a convolution's sums and its steps."""
    (cast,) = convolution.users
    (product,) = cast.users
    return product


def place(bits: int, seed: int) -> Path:
    return RESULTS / f"{bits}_bits-{seed}.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 16])
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = f"benchmarks/output_width.py --epochs {options.epochs} --seed {options.seed}"
    for bits in options.bits:
        path = place(bits, options.seed)
        if not path.is_file():
            variant = study.Variant((SignPredict(fallback="layer"), OutputWidth(bits)))
            row = study.run(variant, options.seed, options.epochs, options.data)
            content = {
                "bits": bits,
                "seed": options.seed,
                **row,
                "machine": machine.describe() | {"command": command},
            }
            path.write_text(json.dumps(content) + "\n")
        row = json.loads(path.read_text())
        late = study.mean(row["loss"][-50:])
        print(
            f"{bits:2d} bits, seed {options.seed}: {100 * row['accuracy']:.2f} %, loss {late:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
