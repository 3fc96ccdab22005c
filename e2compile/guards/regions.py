"""Regions: what of a step dies where a block runs for no sample.

A region is not marked by whoever inserts a gate: it is found by specialising the graph. What is needed of
the graph as it stands, and not of the graph in which the guard lets no sample live, is the block's region:
its forward, its backward, its statistics and the update of its weights.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch
from torch import fx

from e2compile.graph import StepGraph, where
from e2compile.guards.batch_axis import LOST, Axis, batch_axes
from e2compile.guards.facts import Fact, Facts
from e2compile.integers.ranges import is_non_negative
from e2compile.ops import GUARD, INTEGER_WEIGHT_GRADIENT, MOMENTS

aten = torch.ops.aten

_COND = torch.ops.higher_order.cond
# Sums over the batch to which a sample whose row of one operand is zero adds nothing.
_SUMS = (
    aten.mm.default,
    aten.convolution_backward.default,
    INTEGER_WEIGHT_GRADIENT,
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.mean.default,
)


@dataclass(frozen=True)
class Region:
    """The calls of one guard's block.

    `fallback` is what each of them is the same as where the block does not run: for a sample's row where the
    value has rows, for no sample at all where not; None where nothing outside needs to know.
    """

    guard: fx.Node
    nodes: frozenset[fx.Node]
    fallback: dict[fx.Node, Fact] = field(hash=False)

    @property
    def name(self) -> str:
        return str(self.guard.args[1])

    @property
    def frozen(self) -> bool:
        return bool(self.guard.args[2])


@dataclass(frozen=True)
class Found:
    """The regions of a graph, the batch dimension of its values, and why guards have none."""

    regions: tuple[Region, ...]
    axes: dict[fx.Node, Axis]
    notes: tuple[str, ...]


def find_regions(step: StepGraph) -> Found:
    """The region of each guard, no call in two of them: the first takes it."""
    axes = batch_axes(step)
    plain, plain_rows = Facts(step.graph, axes), Facts(step.graph, axes, by_row=True)
    reads = _reads(plain, step.results)
    taken: set[fx.Node] = set()
    regions, notes = [], []
    for guard in step.graph.find_nodes(op="call_function", target=GUARD):
        whole, rows = plain.given(guard), plain_rows.given(guard)
        dead = _dying(reads, plain, whole, guard, step.results) - taken - _of_alone(guard)
        region = _region(guard, dead, whole, rows, axes)
        why = _why_not(region, rows, axes)
        if why is not None or not dead:
            notes.append(f"{guard.args[1]} runs for all samples: {why or 'nothing depends on it alone'}")
            continue
        regions.append(region)
        taken |= dead
    return Found(tuple(regions), axes, tuple(notes))


def guard_of(step: StepGraph) -> dict[fx.Node, fx.Node]:
    """The guard whose block each call belongs to."""
    return {node: region.guard for region in find_regions(step).regions for node in region.nodes}


def _reads(facts: Facts, needed: Iterable[fx.Node]) -> Counter[fx.Node]:
    """How often each node is read by what some values need, each value replaced by what it is the same as."""
    reads: Counter[fx.Node] = Counter()
    _add(reads, facts, needed)
    return reads


def _add(reads: Counter[fx.Node], facts: Facts, needed: Iterable[fx.Node]) -> None:
    stack = list(needed)
    while stack:
        fact = facts.of[stack.pop()]
        if isinstance(fact, fx.Node):
            reads[fact] += 1
            if reads[fact] == 1:
                stack.extend(fact.all_input_nodes)


def _dying(
    reads: Counter[fx.Node], plain: Facts, whole: Facts, guard: fx.Node, results: Sequence[fx.Node]
) -> set[fx.Node]:
    """The calls that are read, and no longer are where the guard lets no sample live.

    Counts the reads that changed facts turn away from one value and to another, and follows those that are
    then read by nothing: the rest of the graph is not looked at.
    """
    left, outputs = reads.copy(), Counter(results)
    changed = [
        node
        for node in whole.changed
        for _ in range(outputs[node] + sum(user in reads for user in node.users))
    ]
    _add(left, whole, [*guard.all_input_nodes, *changed])
    dying: set[fx.Node] = set()
    stack = [plain.of[node] for node in changed]
    while stack:
        fact = stack.pop()
        if isinstance(fact, fx.Node):
            left[fact] -= 1
            if left[fact] == 0:
                dying.add(fact)
                stack.extend(whole.of[n] for n in fact.all_input_nodes)
    return {node for node in dying if node.op == "call_function" and node in reads}


def _of_alone(guard: fx.Node) -> set[fx.Node]:
    """The guard and what is computed from nothing else: masks, counts."""
    found, stack = {guard}, list(guard.users)
    while stack:
        node = stack.pop()
        if node.op == "call_function" and node not in found and found.issuperset(node.all_input_nodes):
            found.add(node)
            stack.extend(node.users)
    return found


def _region(
    guard: fx.Node, nodes: Iterable[fx.Node], whole: Facts, rows: Facts, axes: dict[fx.Node, Axis]
) -> Region:
    inside = frozenset(nodes)
    fallback: dict[fx.Node, Fact] = {}
    for node in inside:
        fact = (whole if axes[node] is None else rows).of[node]
        fallback[node] = None if fact is node or fact in inside else fact
    return Region(guard, inside, fallback)


def _why_not(region: Region, rows: Facts, axes: dict[fx.Node, Axis]) -> str | None:
    """Why a region cannot run on the live samples alone; None if it can."""
    for node in sorted(region.nodes):
        if axes[node] == LOST:
            return f"{node.target} mixes samples with another dimension, {where(node)}"
        is_sum = axes[node] is None and any(axes.get(n) is not None for n in node.all_input_nodes)
        if is_sum and not _ignores_dead_rows(node, region.guard, rows, axes):
            return f"{node.target} takes all samples together, {where(node)}"
        is_needed = any(user not in region.nodes for user in node.users)
        if is_needed and region.fallback[node] is None and isinstance(node.meta["val"], torch.Tensor):
            return f"what {node.target} gives is used outside of it, {where(node)}"
    return None


def _ignores_dead_rows(node: fx.Node, guard: fx.Node, rows: Facts, axes: dict[fx.Node, Axis]) -> bool:
    """Whether rows of samples that do not live add nothing to a value of the whole batch."""
    if node.target is MOMENTS:
        return _is_view_of(node.args[1], guard)
    if node.target is _COND:
        return _is_sum_of_dead_rows(node, rows)
    operands = [n for n in node.all_input_nodes if axes.get(n) is not None]
    is_maximum = node.target is aten.amax.default and is_non_negative(operands[0])
    return (is_maximum or node.target in _SUMS) and any(rows.zero(n) for n in operands)


def _is_sum_of_dead_rows(call: fx.Node, rows: Facts) -> bool:
    """Whether all that a conditional runs is sums to which dead rows add nothing."""
    branch, operands = call.args[1], call.args[3]
    module: fx.GraphModule = getattr(call.graph.owning_module, branch.target)  # type: ignore[union-attr, arg-type]
    outer = dict(zip(module.graph.find_nodes(op="placeholder"), operands, strict=True))  # type: ignore[arg-type]
    calls = module.graph.find_nodes(op="call_function", target=INTEGER_WEIGHT_GRADIENT)
    others = [n for n in module.graph.nodes if n.op == "call_function" and n not in calls]
    return not others and all(any(rows.zero(outer[n]) for n in call.all_input_nodes) for call in calls)


def _is_view_of(node: object, guard: fx.Node) -> bool:
    while isinstance(node, fx.Node) and node is not guard and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node is guard


def levels(region: Region) -> dict[int, list[fx.Node]]:
    """The region's calls by how often the way to them leaves the region: forward 0, backward and update 1."""
    level: dict[fx.Node, int] = {}
    result: dict[int, list[fx.Node]] = {}
    waiting, queued = sorted(region.nodes), set(region.nodes)
    while waiting:
        node = heappop(waiting)
        is_inside = node in region.nodes
        steps = [level.get(n, 0) + int(n in region.nodes and not is_inside) for n in node.all_input_nodes]
        level[node] = max(steps, default=0)
        if is_inside:
            result.setdefault(level[node], []).append(node)
        for user in node.users.keys() - queued:
            heappush(waiting, user)
            queued.add(user)
    return result
