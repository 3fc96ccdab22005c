"""The work of a training graph's stages, as its Program keeps it, and what of it is expected to run."""

from typing import Any

from e2compile.energy.cashier import Share
from e2compile.energy.count import count, count_evaluation
from e2compile.energy.prices import Tag
from e2compile.energy.work import STEP, Item, to_rows
from e2compile.graph import StepGraph
from e2compile.passes import BatchDrop, LayerGate
from e2compile.pipeline import TrainingGraph

SCHEMA = 1


def counted(graph: TrainingGraph) -> dict[str, Any]:
    """What `report/work.json` holds: the step before the passes and after them, and phases of each stage."""
    before = count(graph.captured, planned=True)
    after = before if graph.step is graph.captured else count(graph.step, planned=True)
    stages = [("captured", before)]
    steps = [(s.name, s.graph) for s in graph.stages if isinstance(s.graph, StepGraph)]
    for i, (name, step) in enumerate(steps):
        if step is graph.captured:
            continue
        if step is graph.step:
            stages.append((name, after))
        elif STEP in after.symbols and i == len(steps) - 2:  # a root guard changes nothing inside
            stages.append((name, after.inside(STEP)))
        else:
            stages.append((name, count(step, planned=True)))
    evaluation = count_evaluation(graph.evaluation_step, planned=True)
    symbols = evaluation.symbols.union(*(work.symbols for _, work in stages))
    return {
        "schema": SCHEMA,
        "before": to_rows(before),
        "after": to_rows(after),
        "stages": [[name, to_rows(work.merged(_phase))] for name, work in stages],
        "evaluation": to_rows(evaluation),
        "shares": {name: [s.value, s.tag, s.source] for name, s in shares_of(graph, symbols).items()},
    }


def _phase(item: Item) -> Item:
    """Without its place; what an accelerator may do keeps its name."""
    operator = item.operator if "mac.int8" in item.amounts else ""
    return Item(item.phase, "", "", operator, item.amounts, item.when)


def shares_of(graph: TrainingGraph, symbols: frozenset[str]) -> dict[str, Share]:
    """Each condition's expected share, how it is known, and from what."""
    drops = [item for item in graph.passes if isinstance(item, BatchDrop)]
    gates = [item for item in graph.passes if isinstance(item, LayerGate)]
    shares = {}
    for name in sorted(symbols):
        if name == STEP and drops:
            shares[name] = Share(1 - drops[0].p, Tag.MODELLED, "1 - smd.p")
        elif gates and name.startswith(f"{LayerGate.name}."):
            shares[name] = Share(1 - gates[0].target_skip, Tag.ASSUMED, "1 - slu.target_skip")
        else:
            shares[name] = Share(1.0, Tag.ASSUMED, "the most there can be")
    return shares
