"""E2-Train's table under the shipped price tables: what its settings save in computation and in joules.

    python benchmarks/e2train_table.py [--model resnet74] [--json FILE]

Counted from graphs: nothing is built or trained, so nothing here speaks of accuracy. The base is a plain run;
E2-Train's runs are scheduled 4/3 as long and drop half of the batches, so they execute 2/3 of its steps.
`paper` signs fall back in every step, `hardware` ones, the default, in none, and with `psg.fallback=layer` in
the expected share of steps.
Evaluation is left out. The paper's figures are recalled, not verified.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
import nets

import e2compile
from e2compile.counting import LAYER_FALLBACK
from e2compile.energy import prices
from e2compile.energy.cashier import Cashier
from e2compile.energy.count import count
from e2compile.energy.work import Work
from e2compile.estimate import outlined, stages
from e2compile.passes import LayerGate, Quantise, SignPredict
from e2compile.targets import CPU

EXECUTED = 2 / 3
# The paper's of ResNet-74, and for ResNet-110 what its saving comes to if ResNet-74's factors hold.
SKIPS = {"resnet20": (0.2, 0.4, 0.6), "resnet74": (0.2, 0.4, 0.6), "resnet110": (0.2, 0.327, 0.4, 0.6)}
STOCHASTIC_DEPTH = 0.5
TABLES = ("server", "desktop", "raspberry_pi4", "reference")

PAPER_TAG = "recalled, not verified"
# What E2-Train's tables say of computation and energy saved, in per cent; None where it is not recalled.
PAPER: dict[tuple[str, str, float], tuple[float | None, float | None]] = {
    ("resnet74", "E2-Train, paper signs", 0.2): (80.27, 84.64),
    ("resnet74", "E2-Train, paper signs", 0.4): (85.20, 88.72),
    ("resnet74", "E2-Train, paper signs", 0.6): (90.13, 92.81),
    ("resnet74", "8 bits", 0.0): (None, 38.62),
    ("resnet74", "paper signs", 0.0): (None, 63.28),
    ("resnet110", "E2-Train, paper signs", 0.327): (83.40, 84.0),
    ("resnet110", "stochastic depth", STOCHASTIC_DEPTH): (50.0, 46.03),
    ("mobilenet_v2", "E2-Train, paper signs", 0.0): (75.34, None),
}


@dataclass(frozen=True)
class Row:
    """A variant: shares of a plain run that are left.

    `macs` are multiply-accumulates in any width, `bits` the same, each weighed by its operands' widths over
    32 x 32. `joules` are by table, `parts` says what they are made of: products, other operations, bytes and
    seconds.
    """

    model: str
    variant: str
    skip: float
    executed: float
    macs: float
    bits: float
    joules: dict[str, float]
    parts: dict[str, dict[str, float]]


def macs(work: Work, int8: float = 1.0) -> float:
    counted = work.totals()
    return sum(n * (int8 if q == "mac.int8" else 1.0) for q, n in counted.items() if q.startswith("mac."))


def part(quantity: str) -> str:
    kind = quantity.partition(".")[0]
    return {"mac": "products", "read": "bytes", "write": "bytes", "time": "seconds"}.get(kind, "other")


class Network:
    def __init__(self, name: str) -> None:
        self.name = name
        self.tables = {table: Cashier(prices.find(table, CPU.prices)) for table in TABLES}
        self.graph = e2compile.capture(nets.net(name), nets.batch(128))
        self.skips = SKIPS.get(name, ())
        self.plain = count(self.graph.captured, planned=True, scales=CPU.scales)

    def rows(self) -> Iterator[Row]:
        def work(item: Quantise | SignPredict) -> Work:
            return count(outlined(item(step).graph), planned=True, scales=CPU.scales)

        step = self.graph.captured
        yield self._row("plain", 0.0, 1.0, self.plain)
        yield self._row("8 bits", 0.0, 1.0, work(Quantise()))
        if self.skips:
            gated = self.graph.apply(LayerGate())
            (step,) = [graph for name, graph in stages(gated) if name != "captured"]
            yield self._row(
                "stochastic depth", STOCHASTIC_DEPTH, 1.0, count(step, planned=True, scales=CPU.scales)
            )
            step = next(stage.graph for stage in gated.stages if stage.name == "differentiated")
        for signs, item, fallback in (
            ("paper signs", SignPredict(preset="paper"), 1.0),
            ("hardware signs", SignPredict(), 0.0),
            ("hardware signs, fallback by layer", SignPredict(fallback="layer"), LAYER_FALLBACK),
        ):
            counted = work(item)
            yield self._row(signs, 0.0, 1.0, counted, fallback)
            for skip in self.skips or (0.0,):
                yield self._row(f"E2-Train, {signs}", skip, EXECUTED, counted, fallback)

    def _row(self, variant: str, skip: float, executed: float, counted: Work, fallback: float = 1.0) -> Row:
        shares = {name: 1 - skip if name.startswith("slu.") else fallback for name in counted.symbols}
        work = counted.at(shares)
        joules, parts = {}, {}
        for table, cashier in self.tables.items():
            whole = cashier.joules(self.plain)
            parts[table] = {}
            for line in cashier.side(work).lines:
                key = part(line.quantity)
                parts[table][key] = parts[table].get(key, 0.0) + executed * line.total / whole
            joules[table] = executed * cashier.joules(work) / whole
        return Row(
            self.name,
            variant,
            skip,
            executed,
            executed * macs(work) / macs(self.plain),
            executed * macs(work, int8=64 / 1024) / macs(self.plain),
            joules,
            parts,
        )


def show(found: Sequence[Row]) -> None:
    print("saved of a plain run, %. A plain run of so many epochs fewer costs as many joules")
    heads = "".join(f"{name:>15}" for name in TABLES)
    print(f"{'':48}  MACs  by bits{heads}  paper: computation, energy ({PAPER_TAG})")
    for row in found:
        saved = "".join(f"{100 * (1 - row.joules[name]):15.1f}" for name in TABLES)
        label = f"{row.model}, {row.variant}" + (f", {row.skip:.0%} skipped" if row.skip else "")
        said = PAPER.get((row.model, row.variant, row.skip))
        paper = "" if said is None else "  " + ", ".join("?" if s is None else f"{s}" for s in said)
        print(f"{label:48}{100 * (1 - row.macs):6.1f}  {100 * (1 - row.bits):7.1f}{saved}{paper}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ["resnet74", "resnet110", "mobilenet_v2"]
    parser.add_argument("--model", action="append", choices=[*models, "resnet20"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [row for model in options.model or models for row in Network(model).rows()]
    show(found)
    if options.json:
        paper = [
            {"model": m, "variant": v, "skip": s, "computation": c, "energy": e, "tag": PAPER_TAG}
            for (m, v, s), (c, e) in PAPER.items()
        ]
        content = {"machine": machine.describe(), "rows": [asdict(row) for row in found], "paper": paper}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
