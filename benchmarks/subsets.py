"""Every set of passes on four networks, verified, with the gates drawn and forced: one result a case.

    python benchmarks/subsets.py [--net resnet20] [--batch 8] [--json FILE]

`drawn` leaves the gates as they are. The others let a given number of samples run each block: none, one,
numbers that differ from gate to gate, and all. A case is verified as every compiled program is; where
blocks are gated its outlined graph runs once more with NaN in place of all that a skipped block gives, and
must come out the same to the bit. A case is skipped when the file has it, so the script may be stopped and
started again.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import machine
import nets
import torch
from torch import fx

import e2compile
from e2compile.errors import VerificationError
from e2compile.forward import ForwardGraph
from e2compile.graph import StepGraph, entry_points, insert
from e2compile.ops import GUARD
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Change, Level, Pass, TrainingGraph
from e2compile.runtime.program import Program
from e2compile.verification.replay import Start, graph_step
from e2compile.verification.verify import state_of

aten = torch.ops.aten

RESULTS = Path(__file__).parent / "results" / "subsets.json"
NETS = ("functional_net", "resnet20", "preact_resnet20", "mobilenet_v2")
# so low a limit that some layers' full products run
PASSES: dict[str, Pass] = {
    "smd": BatchDrop(),
    "slu": LayerGate(first=True),
    "psg": SignPredict(fallback="layer", unsure_limit=0.2),
}
SUBSETS = [names for count in (1, 2, 3) for names in combinations(PASSES, count)]
FORCED = ("none", "one", "mixed", "all")


@dataclass(frozen=True)
class Forced:
    """A gate's draw  ->  the first so many samples, or for every second gate the last."""

    masks: str
    name: ClassVar[str] = "forced"
    level: ClassVar[Level] = Level.FORWARD

    def count(self, gate: int, samples: int) -> int:
        mixed = (5 * gate + 3) % (samples + 1)
        return {"none": 0, "one": 1, "mixed": mixed, "all": samples}[self.masks]

    def __call__(self, forward: ForwardGraph) -> Change:
        if not forward.training:
            return Change(forward, 0)
        forward = forward.copy()
        guards = forward.graph.find_nodes(op="call_function", target=GUARD)
        for i, guard in enumerate(guards):
            draws = guard.args[0].args[0]
            samples = len(draws.meta["val"])
            with forward.graph.inserting_before(guard), draws.meta["val"].fake_mode:
                places = insert(forward.graph, aten.arange.start_step, 0, samples, 1, blame=guard)
                none = insert(forward.graph, aten.mul.Scalar, draws, 0.0, blame=guard)
                places = insert(forward.graph, aten.add.Tensor, none, places, blame=guard)
                count = self.count(i, samples)
                first = (aten.ge.Scalar, samples - count) if i % 2 else (aten.lt.Scalar, count)
                mask = insert(forward.graph, first[0], places, first[1], blame=guard)
            guard.replace_input_with(guard.args[0], mask)
        return Change(forward, len(guards))


def cases() -> Iterator[tuple[tuple[str, ...], str]]:
    """Sets of passes with what the gates do; BatchDrop, a choice around the step, leaves them as they are."""
    for names in SUBSETS:
        yield names, "drawn"
    for names in (("slu",), ("slu", "psg")):
        for masks in FORCED:
            yield names, masks


def run(net: str, names: tuple[str, ...], masks: str, size: int) -> dict[str, Any]:
    began = time.perf_counter()
    chosen = [PASSES[name] for name in names]
    forced = [Forced(masks)] if masks != "drawn" else []
    graph = e2compile.capture(nets.net(net), nets.batch(size)).apply(*chosen, *forced)
    try:
        program = e2compile.compile(graph, cache=False)
    except VerificationError as error:
        return {"passed": False, "error": str(error), "seconds": time.perf_counter() - began}
    report = json.loads((program.folder / "verify" / "verify.json").read_text())
    bounded = {check: row for check, row in report["worst"].items() if row["bound"]}
    check, worst = max(bounded.items(), key=lambda item: item[1]["error"] / item[1]["bound"])
    row = {
        "passed": report["passed"],
        "error_over_bound": worst["error"] / worst["bound"],
        "closest": f"{check} {worst['target']}",
        "tensors": report["tensors"],
    }
    if "slu" in names:
        executed = _executed(program, graph)
        row |= {"executed": executed, "poison_unread": _ignores_poison(program, graph)}
        wanted = [item.count(i, size) for item in forced for i in range(len(executed))]
        row["passed"] = row["passed"] and row["poison_unread"] and wanted in ([], executed)
    return row | {"seconds": time.perf_counter() - began}


def _executed(program: Program, graph: TrainingGraph) -> list[int]:
    """For how many samples each gated block ran in a step."""
    counters = Program(program.folder).execute([t.numpy() for t in graph.task.batch]).counters
    return [int(value) for name, value in counters.items() if name.endswith(".executed")]


def _ignores_poison(program: Program, graph: TrainingGraph) -> bool:
    step = entry_points(graph.step).step
    start = Start(state_of(program), graph.task.batch, program.seed, 0, program.rate(0))
    plain = graph_step(step, start, torch.float32)
    _poison(step)
    found = graph_step(step, start, torch.float32)
    return all(torch.equal(found[key], value) for key, value in plain.items())


def _poison(step: StepGraph) -> None:
    """NaN for all that a block gives which does not run, but for state that it keeps."""
    for name, child in step.module.named_children():
        if not (name.startswith("slu_") and name.endswith("_skip")):
            continue
        assert isinstance(child, fx.GraphModule)
        for fill in child.graph.find_nodes(op="call_function", target=aten.full.default):
            if fill.kwargs["dtype"] is torch.float32:
                fill.args = (fill.args[0], math.nan)
        child.recompile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=NETS, action="append")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())["rows"] if options.json.is_file() else {}
    for net in options.net or NETS:
        for names, masks in cases():
            key = f"{net} {','.join(names)} {masks}"
            if key in rows:
                continue
            rows[key] = run(net, names, masks, options.batch) | {"batch": options.batch}
            print(key, rows[key], flush=True)
            described = machine.describe() | {"command": f"benchmarks/subsets.py --batch {options.batch}"}
            options.json.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")
    failed = [key for key, row in rows.items() if not row["passed"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} cases passed", *failed, sep="\n")


if __name__ == "__main__":
    main()
