"""The work of a training graph's stages, as its Program keeps it, and what of it is expected to run."""

from dataclasses import dataclass
from typing import Any

from e2compile.energy.cashier import Share
from e2compile.energy.count import ByNode, count, count_evaluation, count_nodes, total
from e2compile.energy.prices import Tag
from e2compile.energy.work import STEP, Item, Work, to_rows
from e2compile.graph import StepGraph, entry_points
from e2compile.passes import BatchDrop, LayerGate
from e2compile.pipeline import TrainingGraph

SCHEMA = 1


@dataclass(frozen=True)
class Counted:
    """What `report/work.json` holds, and for each stage that is a step the work of its calls."""

    content: dict[str, Any]
    calls: dict[int, ByNode]


def counted(graph: TrainingGraph, memory_bytes: int | None = None) -> Counted:
    """The step before the passes and after them, phases of each stage, calls by the number of their stage.

    The step after them is the one that runs: it fits into `memory_bytes`.
    """
    calls = _by_stage(graph, memory_bytes)
    steps = {i: graph.stages[i] for i in calls}
    numbers = {id(stage.graph): i for i, stage in steps.items()}
    own = numbers.get(id(graph.captured))
    before = count(graph.captured, planned=True) if own is None else total(calls[own])
    works = {i: total(found) for i, found in calls.items()}
    after = works[numbers[id(graph.step)]]
    stages = [("captured", before), *((steps[i].name, work) for i, work in works.items() if i != own)]
    evaluation = count_evaluation(graph.evaluation_step, planned=True)
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


def _by_stage(graph: TrainingGraph, memory_bytes: int | None) -> dict[int, ByNode]:
    """The work of each stage's calls. A root guard changes nothing inside, so that is counted once."""
    numbers = [i for i, stage in enumerate(graph.stages) if isinstance(stage.graph, StepGraph)]
    steps = {i: stage.graph for i, stage in enumerate(graph.stages) if isinstance(stage.graph, StepGraph)}
    last = numbers[-1]
    calls = {last: count_nodes(steps[last], planned=True, memory_bytes=memory_bytes)}
    inner = entry_points(steps[last])
    if inner.keep is not None and len(numbers) > 1:
        bare = steps[numbers[-2]]
        copies = dict(zip(inner.step.graph.nodes, bare.graph.nodes, strict=True))
        calls[numbers[-2]] = {
            copies.get(node, node): Work(items).inside(STEP).items
            for node, items in calls[last].items()
            if Work(items).inside(STEP).items
        }
    return {i: calls[i] if i in calls else count_nodes(steps[i], planned=True) for i in numbers}


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
