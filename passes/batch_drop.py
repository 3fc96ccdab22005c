"""BatchDrop (SMD): a guard over the whole step."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from e2compile.errors import CompileError, UsageError
from e2compile.graph import Kind, Slot, StepGraph, conditional, entry_points, graph_module, insert
from e2compile.ops import UNIFORM
from e2compile.pipeline import Change, Level

aten = torch.ops.aten

# Captured draws count their sites from one.
SITE = 0


@dataclass(frozen=True)
class BatchDrop:
    """step(state, batch)  ->  cond(uniform(seed, step) >= p, step(state, batch), state)

    Stochastic mini-batch dropping (E2-Train, section 3.1): each scheduled step is dropped with
    probability `p`, independently. A dropped step is the identity on weights, optimizer state and
    batch-norm statistics, its loss and metrics are zero; the counter `executed` says which it was.
    The official code still steps the optimizer on a dropped batch; the paper counts it as no work, and
    so does this. Lowering takes the guard apart into an entry point `keep` and the bare step, so that a
    dropped batch is not even loaded. Left alone: a step with p = 0.
    """

    name: ClassVar[str] = "smd"
    level: ClassVar[Level] = Level.STEP

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise UsageError(f"smd.p is the probability of dropping a batch, 0 <= p < 1, not {self.p}")

    def __call__(self, step: StepGraph) -> Change:
        if self.p == 0:
            return Change(step, 0, ("p = 0 drops nothing",))
        if entry_points(step).keep is not None:
            raise CompileError("the step is guarded already: apply BatchDrop once")
        graph = fx.Graph()
        places = [_placeholder(graph, node) for node in step.placeholders]
        keep = self._keep(graph, step, places)
        values = [node.meta["val"] for node in step.results]
        items = conditional(graph, keep, places, values)
        with keep.meta["val"].fake_mode:
            executed = insert(graph, aten._to_copy.default, keep, dtype=torch.int64, blame=keep)
        graph.output([*items, executed])
        module = graph_module({"execute": step.copy().module, "skip": _skip(step)}, graph)
        slots = (*step.outputs, Slot(Kind.COUNTER, "executed"))
        return Change(StepGraph(module, step.inputs, slots), 1)

    def _keep(self, graph: fx.Graph, step: StepGraph, places: list[fx.Node]) -> fx.Node:
        of = dict(zip((slot.kind for slot in step.inputs), places, strict=True))
        mode = places[0].meta["val"].fake_mode
        with mode:
            draw = insert(graph, UNIFORM, of[Kind.SEED], of[Kind.STEP], SITE, [], blame=places[0])
            return insert(graph, aten.ge.Scalar, draw, self.p, blame=draw)


def _placeholder(graph: fx.Graph, node: fx.Node) -> fx.Node:
    new = graph.placeholder(node.name)
    new.meta = dict(node.meta)
    return new


def _skip(step: StepGraph) -> fx.GraphModule:
    """State as it was, zeros for all else."""
    graph = fx.Graph()
    places = [_placeholder(graph, node) for node in step.placeholders]
    state = {
        slot.target: place for slot, place in zip(step.inputs, places, strict=True) if slot.kind.is_state
    }
    results = []
    for slot, node in zip(step.outputs, step.results, strict=True):
        if slot.kind.is_state:
            results.append(state[slot.target])
            continue
        value = node.meta["val"]
        with value.fake_mode:
            zeros = insert(graph, aten.full.default, list(value.shape), 0, dtype=value.dtype, blame=places[0])
        results.append(zeros)
    graph.output(results)
    return graph_module({}, graph)
