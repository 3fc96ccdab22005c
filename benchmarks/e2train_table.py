"""E2-Train's table under the shipped models: savings in computation and energy at its settings.

    python benchmarks/e2train_table.py [--model resnet74] [--json FILE]

Counted from graphs; nothing is built or trained, so nothing here says anything of accuracy. Shares are the
settings': blocks skip what `slu.target_skip` says, every fallback runs. A plain run of 64,000 steps is the
base. E2-Train's runs are scheduled 4/3 as long and drop half of the batches: 2/3 of the steps are executed.
The paper's figures are recalled, not verified.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import machine
import nets

import e2compile
from e2compile.energy import prices
from e2compile.energy.work import Work
from e2compile.estimate import Quote, differentiated, outlined, quote
from e2compile.graph import StepGraph
from e2compile.passes import LayerGate, Quantise, SignPredict
from e2compile.pipeline import Pass, TrainingGraph
from e2compile.targets import find

EXECUTED = 2 / 3
SKIPS = (0.2, 0.4, 0.6)
TABLES = (
    ("cpu", "server"),
    ("cpu", "raspberry_pi4"),
    ("cpu", "reference"),
    ("fpga", "pynq"),
    ("fpga", "ultra96"),
)

# Savings in per cent, computation and energy. Recalled, not verified.
PAPER = {
    ("resnet74", 0.2): (80.27, 84.64),
    ("resnet74", 0.4): (85.20, 88.72),
    ("resnet74", 0.6): (90.13, 92.81),
    ("resnet110", None): (83.40, 84.0),
    ("mobilenet_v2", 0.0): (75.34, None),
    ("resnet110", "stochastic depth"): (50.0, 46.03),
    ("resnet74", "8 bits"): (None, 38.62),
    ("resnet74", "signs"): (None, 63.28),
}

SIGNS = {"paper's predictor": SignPredict(preset="paper"), "no fallback": SignPredict(fallback="never")}


@dataclass(frozen=True)
class Row:
    """A variant on a table: shares of the plain run that are left. `macs` counts multiply-accumulates in any
    width, `bits` each by the product of its operands' widths over 32 x 32."""

    model: str
    variant: str
    skip: float
    table: str
    macs: float
    bits: float
    joules: float


def macs(work: Work, weights: dict[str, float]) -> float:
    totals = work.totals()
    return sum(amount * weights.get(q, 1.0) for q, amount in totals.items() if q.startswith("mac."))


def shares(work: Work, skip: float) -> dict[str, float]:
    return {name: 1 - skip if name.startswith("slu.") else 1.0 for name in work.symbols}


def rewritten(graph: TrainingGraph, joint: Sequence[Pass]) -> StepGraph:
    step = differentiated(graph)
    for item in joint:
        step = item(step).graph
    return outlined(step)


def variants(graph: TrainingGraph, gates: bool) -> Iterator[tuple[str, float, Sequence[float], StepGraph]]:
    """Name, executed steps, skips, graph."""
    yield "8 bits", 1.0, (0.0,), rewritten(graph, [Quantise()])
    if gates:
        yield "stochastic depth", 1.0, (0.5,), rewritten(graph.apply(LayerGate(first=True)), [])
    for name, signs in SIGNS.items():
        yield f"signs, {name}", 1.0, (0.0,), rewritten(graph, [signs])
        gated = graph.apply(LayerGate()) if gates else graph
        yield f"all, {name}", EXECUTED, SKIPS if gates else (0.0,), rewritten(gated, [signs])


def rows(model: str) -> Iterator[Row]:
    graph = e2compile.capture(nets.net(model), nets.batch(128))
    targets = {name: find(f"fpga:{name}" if target == "fpga" else target) for target, name in TABLES}
    tables = {name: prices.find(name, targets[name].prices) for _, name in TABLES}
    plain = quote(graph.captured, find("cpu"), tables["server"]).work
    quoted: dict[tuple[str, str], Quote] = {}
    for variant, executed, skips, step in variants(graph, model.startswith("resnet")):
        for target, name in TABLES:
            if target == "fpga":
                quoted[variant, name] = quote(step, targets[name], tables[name])
            else:
                known = quoted.get((variant, "server"))
                cashier = replace(known.cashier, table=tables[name]) if known else None
                quoted[variant, name] = (
                    Quote(known.work, cashier)
                    if known and cashier
                    else quote(step, targets[name], tables[name])
                )
            one = quoted[variant, name]
            base = replace(one.cashier, device={}).joules(plain)
            for skip in skips:
                work = one.work.at(shares(one.work, skip))
                yield Row(
                    model,
                    variant,
                    skip,
                    name,
                    executed * macs(work, {}) / macs(plain, {}),
                    executed * macs(work, {"mac.int8": 64 / 1024}) / macs(plain, {}),
                    executed * one.cashier.joules(work) / base,
                )


def show(found: Sequence[Row]) -> None:
    print(f"{'':44} savings in %: MACs  by bits  " + "  ".join(f"{name:>13}" for _, name in TABLES))
    for key in dict.fromkeys((row.model, row.variant, row.skip) for row in found):
        mine = [row for row in found if (row.model, row.variant, row.skip) == key]
        saved = "  ".join(f"{100 * (1 - row.joules):13.1f}" for row in mine)
        label = f"{key[0]}, {key[1]}, {key[2]:.0%} skipped"
        print(f"{label:58}{100 * (1 - mine[0].macs):6.1f}  {100 * (1 - mine[0].bits):7.1f}  {saved}")
    print("the paper's, recalled and not verified, computation and energy:")
    for (model, what), (computation, energy) in PAPER.items():
        print(f"  {model}, {what}: {computation}, {energy}")
    print("fewer epochs at equal joules: a plain run of 100 % less the energy saving, by definition")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ["resnet74", "resnet110", "mobilenet_v2"]
    parser.add_argument("--model", action="append", choices=[*models, "resnet20"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [row for model in options.model or models for row in rows(model)]
    show(found)
    if options.json:
        paper = [
            {"model": model, "what": what, "computation": c, "energy": e, "tag": "recalled, not verified"}
            for (model, what), (c, e) in PAPER.items()
        ]
        content = {"machine": machine.describe(), "rows": [asdict(row) for row in found], "paper": paper}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
