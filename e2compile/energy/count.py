"""Counting: the work of every call of a step graph, before anything is built.

At the *analytic* level each call reads its operands from DRAM and writes its results there, once. At the
*planned* level kernels do, as the lowering fuses them; operations are the same, and those of activations that
the backward pass computes again. Caches and scratchpads are not seen: bytes are an upper bound of what a
program moves. Views and constants are free. Not counted: instruction fetch, addresses, cheap values that more
than one kernel computes because none stores them, the loading of data, leakage.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from e2compile.energy.arithmetic import operations
from e2compile.energy.traffic import Fused, Traffic, Unfused
from e2compile.energy.work import STEP, Amounts, Condition, Item, Work, together
from e2compile.graph import Kind, StepGraph, entry_points, live_first, targets, where
from e2compile.guards.batch_axis import Axis, batch_axes
from e2compile.lower.flat import fused
from e2compile.lower.fuse import Fusion
from e2compile.lower.inline import inlined, live_of, origin
from e2compile.lower.kinds import CONSTANTS
from e2compile.lower.views import VIEWS
from e2compile.ops import GUARD

aten = torch.ops.aten

EVALUATION = "evaluation"

# The work of each call, what grows with its live samples apart from what does not.
ByNode = dict[fx.Node, tuple[Item, ...]]

_FREE = (*VIEWS, *CONSTANTS, operator.getitem)


# The fused graphs of a step's functions, by name, where they are known.
Fusions = Mapping[str, Fusion]


def count(step: StepGraph, planned: bool = False, scales: bool = False) -> Work:
    """The work of a scheduled step.

    Its conditions are `step`, where steps may be dropped, the name of a guard, like `slu.0`, and that of a
    predicted layer, like `psg.conv1`, for the product that it falls back to. `scales` is the target's, for
    `planned` work.

    Raises CompileError for operators of which no work is known.
    """
    return total(count_nodes(step, planned, scales))


def count_nodes(
    step: StepGraph, planned: bool = False, scales: bool = False, fusions: Fusions | None = None
) -> ByNode:
    """The same work by the call that it is of, in the graph itself or in a branch of it.

    `fusions` may hold the step's, `step` and `keep`, as a build has made them.
    """
    entries, known = entry_points(step), fusions or {}
    found = _count(entries.step, planned, scales, known.get("step"))
    if entries.keep is None:
        return found
    # the guard's own graph is a copy under the same names
    outer = {node.name: node for node in step.graph.nodes}
    keep = _count(entries.keep, planned, scales, known.get("keep"))
    guard = {outer[node.name]: items for node, items in keep.items()}
    return guard | {node: Work(items).under(Condition(STEP)).items for node, items in found.items()}


def count_stages(
    steps: Sequence[StepGraph], planned: bool = False, scales: bool = False, fusions: Fusions | None = None
) -> list[ByNode]:
    """The work of a graph's steps, each made from the one before; `fusions` are the last one's.

    A root guard changes nothing inside of it, so that is counted once.
    """
    *others, last = steps
    found = [count_nodes(last, planned, scales, fusions)]
    if others and entry_points(last).keep is not None:
        before, copied = others.pop(), entry_points(last).step.graph.nodes
        inner = {node: Work(items).inside(STEP).items for node, items in found[0].items()}
        copies = zip(copied, before.graph.nodes, strict=True)
        # calls in branches are the same nodes in both
        renamed = dict(copies)
        found.insert(0, {renamed.get(node, node): items for node, items in inner.items() if items})
    return [count_nodes(step, planned, scales) for step in others] + found


def total(found: ByNode) -> Work:
    """The work of all calls, those of one place added up."""
    return together(map(Work, found.values())).merged()


def count_evaluation(
    step: StepGraph, planned: bool = False, scales: bool = False, fusion: Fusion | None = None
) -> Work:
    """The work of one batch's evaluation."""
    work = total(_count(step, planned, scales, fusion))
    return Work(tuple(replace(item, phase=EVALUATION) for item in work.items))


def _count(step: StepGraph, planned: bool, scales: bool, fusion: Fusion | None = None) -> ByNode:
    """Work by the call that a node of the graph without conditionals stands for."""
    if planned:
        fusion = fusion or fused(step, scales=scales)
        counter = _Counter(fusion.step, Fused(fusion))
    else:
        counter = _Counter(inlined(step), Unfused())
    found: ByNode = {}
    for node, items in counter.items():
        found[node] = found.get(node, ()) + items
    return found


class _Counter:
    def __init__(self, flat: StepGraph, traffic: Traffic) -> None:
        self.traffic = traffic
        self.graph = flat.graph
        self.names = _fallbacks(flat)
        is_guarded = any(live_of(node) for node in self.graph.nodes)
        self.axes: dict[fx.Node, Axis] = batch_axes(flat) if is_guarded else {}

    def items(self) -> Iterator[tuple[fx.Node, tuple[Item, ...]]]:
        needed = live_first([self.graph.output_node()])
        for node in self.graph.nodes:
            if node.op == "call_function" and node.target not in _FREE and node in needed:
                yield origin(node), tuple(self._of(node))

    def _of(self, node: fx.Node) -> Iterator[Item]:
        """What grows with the live samples, and what is done once for all of them."""
        reads = self.traffic.reads(node)
        of_batch = {n: size for n, size in reads.items() if self.axes.get(n) is None}
        by_sample = any(map(self._is_by_sample, [node, *node.all_input_nodes]))
        written = self.traffic.writes(node)
        rows: Amounts = dict(operations(node))
        whole: Amounts = {"read.dram": sum(of_batch.values())}
        rows["read.dram"] = sum(reads.values()) - whole["read.dram"]
        (rows if self._is_by_sample(node) else whole)["write.dram"] = written
        yield self._item(node, rows, by_sample)
        yield self._item(node, whole, False)

    def _is_by_sample(self, node: fx.Node) -> bool:
        return self.axes.get(node) is not None

    def _item(self, node: fx.Node, amounts: Amounts, by_sample: bool) -> Item:
        when = tuple(self._condition(live, by_sample) for live in live_of(node))
        meta = node.meta
        given = {quantity: amount for quantity, amount in amounts.items() if amount}
        return Item(meta["phase"], meta.get("module") or "", where(node), targets(node), given, when)

    def _condition(self, live: fx.Node, by_sample: bool) -> Condition:
        if live.target is not GUARD:
            return Condition(self.names[live])
        return Condition(str(live.args[1]), 0 if by_sample else live.meta["val"].shape[0])


def _fallbacks(flat: StepGraph) -> dict[fx.Node, str]:
    """The names of predicates, by the counters that say how often each held."""
    names = {}
    for slot, node in zip(flat.outputs, flat.results, strict=True):
        if slot.kind is Kind.COUNTER and slot.target.endswith(".fallback"):
            while node.target in (aten.where.self, aten._to_copy.default):
                arguments: Any = node.args
                node = arguments[1 if node.target is aten.where.self else 0]
            names[node] = slot.target.removesuffix(".fallback")
    return names
