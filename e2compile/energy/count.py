"""Counting: the work of every call of a step graph, before anything is built.

At the *analytic* level each call reads its operands from DRAM and writes its results there, once. At the
*planned* level kernels do, as the lowering fuses them; operations are the same, and those of activations that
the backward pass computes again. Caches and scratchpads are not seen: bytes are an upper bound of what a
program moves. Views and constants are free. Not counted: instruction fetch, addresses, cheap values that more
than one kernel computes because none stores them, the loading of data, leakage.
"""

import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from e2compile.energy.arithmetic import operations
from e2compile.energy.traffic import Fused, Traffic, Unfused
from e2compile.energy.work import STEP, Amounts, Condition, Item, Work, together
from e2compile.graph import Kind, StepGraph, entry_points, live_first, targets, where
from e2compile.guards.batch_axis import Axis, batch_axes
from e2compile.lower.fit import fitted
from e2compile.lower.inline import inlined, live_of, origin
from e2compile.lower.kinds import CONSTANTS, check
from e2compile.lower.layout import state_orders
from e2compile.lower.recompute import recomputed
from e2compile.lower.views import VIEWS
from e2compile.ops import GUARD

aten = torch.ops.aten

EVALUATION = "evaluation"

# The work of each call, what grows with its live samples apart from what does not.
ByNode = dict[fx.Node, tuple[Item, ...]]

_FREE = (*VIEWS, *CONSTANTS, operator.getitem)


def count(step: StepGraph, planned: bool = False) -> Work:
    """The work of a scheduled step.

    Its conditions are `step`, where steps may be dropped, the name of a guard, like `slu.0`, and that of a
    predicted layer, like `psg.conv1`, for the product that it falls back to.

    Raises CompileError for operators of which no work is known.
    """
    return total(count_nodes(step, planned))


def count_nodes(step: StepGraph, planned: bool = False, memory_bytes: int | None = None) -> ByNode:
    """The same work by the call that it is of, in the graph itself or in a branch of it.

    With what fitting a step into `memory_bytes` makes it run again.
    """
    entries = entry_points(step)
    found = _count(inlined(entries.step), planned, memory_bytes)
    if entries.keep is None:
        return found
    # the guard's own graph is a copy under the same names
    outer = {node.name: node for node in step.graph.nodes}
    guard = {outer[node.name]: items for node, items in _count(entries.keep, planned).items()}
    return guard | {node: Work(items).under(Condition(STEP)).items for node, items in found.items()}


def total(found: ByNode) -> Work:
    """The work of all calls, those of one place added up."""
    return together(map(Work, found.values())).merged()


def count_evaluation(step: StepGraph, planned: bool = False) -> Work:
    """The work of one batch's evaluation."""
    work = total(_count(inlined(step), planned))
    return Work(tuple(replace(item, phase=EVALUATION) for item in work.items))


def _count(flat: StepGraph, planned: bool, memory_bytes: int | None = None) -> ByNode:
    """Work by the call that a node of the graph without conditionals stands for.

    What is planned computes some calls twice.
    """
    found: ByNode = {}
    if planned:
        check(flat.graph)
        flat = recomputed(flat)
        if memory_bytes is not None:
            flat = fitted(flat, state_orders(flat), memory_bytes)
    for node, items in _Counter(flat, Fused(flat) if planned else Unfused()).items():
        found[node] = (*found.get(node, ()), *items)
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
