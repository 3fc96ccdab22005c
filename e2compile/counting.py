"""The work of a training graph's stages, as its Program keeps it, and what of it is expected to run."""

from dataclasses import dataclass
from typing import Any

from e2compile.energy.cashier import Share
from e2compile.energy.count import ByNode, Fusions, count, count_evaluation, count_stages, total
from e2compile.energy.prices import Tag
from e2compile.energy.work import STEP, Item, to_rows
from e2compile.graph import StepGraph
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import TrainingGraph

SCHEMA = 1
# Of a layer's steps those in which more than half of its signs are unsure: the mean of five runs under
# benchmarks/results/study (psg_hardware_layer and all, two seeds each, psg_hardware_max). It was 41 % in
# the first 30 steps of a run (sign_predict_stats.json), and 2 to 97 % in single layers.
LAYER_FALLBACK = 0.2


@dataclass(frozen=True)
class Counted:
    """What `report/work.json` holds, and for each stage that is a step the work of its calls."""

    content: dict[str, Any]
    calls: dict[int, ByNode]


def counted(graph: TrainingGraph, scales: bool, fusions: Fusions) -> Counted:
    """The step before the passes and after them, phases of each stage, calls by the number of their stage.

    `fusions` are those of the functions that were lowered, for a target that `scales` or does not.
    """
    steps = {i: stage for i, stage in enumerate(graph.stages) if isinstance(stage.graph, StepGraph)}
    graphs = [stage.graph for stage in steps.values() if isinstance(stage.graph, StepGraph)]
    calls = dict(zip(steps, count_stages(graphs, planned=True, scales=scales, fusions=fusions), strict=True))
    numbers = {id(stage.graph): i for i, stage in steps.items()}
    own = numbers.get(id(graph.captured))
    before = count(graph.captured, planned=True, scales=scales) if own is None else total(calls[own])
    works = {i: total(found) for i, found in calls.items()}
    after = works[numbers[id(graph.step)]]
    stages = [("captured", before), *((steps[i].name, work) for i, work in works.items() if i != own)]
    evaluation = count_evaluation(graph.evaluation_step, planned=True, fusion=fusions["evaluate"])
    symbols = evaluation.symbols.union(*(work.symbols for _, work in stages))
    content = {
        "schema": SCHEMA,
        "before": to_rows(before),
        "after": to_rows(after),
        "stages": [[name, to_rows(work.merged(_phase))] for name, work in stages],
        "evaluation": to_rows(evaluation),
        "shares": {name: [s.value, s.tag, s.source] for name, s in shares_of(graph, symbols).items()},
    }
    return Counted(content, calls)


def _phase(item: Item) -> Item:
    """Without its place; what an accelerator may do keeps its name."""
    operator = item.operator if "mac.int8" in item.amounts else ""
    return Item(item.phase, "", "", operator, item.amounts, item.when)


def shares_of(graph: TrainingGraph, symbols: frozenset[str]) -> dict[str, Share]:
    """Each condition's expected share, how it is known, and from what."""
    drops = [item for item in graph.passes if isinstance(item, BatchDrop)]
    gates = [item for item in graph.passes if isinstance(item, LayerGate)]
    signs = [item for item in graph.passes if isinstance(item, SignPredict)]
    shares = {}
    for name in sorted(symbols):
        if name == STEP and drops:
            shares[name] = Share(1 - drops[0].p, Tag.MODELLED, "1 - smd.p")
        elif gates and name.startswith(f"{LayerGate.name}."):
            shares[name] = Share(1 - gates[0].target_skip, Tag.ASSUMED, "1 - slu.target_skip")
        elif any(map(_is_sure_enough, signs)) and name.startswith(f"{SignPredict.name}."):
            source = "16 to 24 % in short runs of ResNet-20: docs/study.md"
            shares[name] = Share(LAYER_FALLBACK, Tag.ASSUMED, source)
        else:
            shares[name] = Share(1.0, Tag.ASSUMED, "the most there can be")
    return shares


def _is_sure_enough(signs: SignPredict) -> bool:
    """Whether full products run no more often than where they were counted."""
    return signs.settings().unsure_limit >= SignPredict().settings().unsure_limit
