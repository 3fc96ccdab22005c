"""Outline: each guard's region becomes conditionals, which run it where some sample lives."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import fx

from e2compile.graph import Kind, Slot, StepGraph, graph_module, insert
from e2compile.guards.facts import Constant, Facts
from e2compile.guards.regions import Region, find_regions, levels
from e2compile.ops import GUARD

aten = torch.ops.aten


def has_guards(step: StepGraph) -> bool:
    return bool(step.graph.find_nodes(op="call_function", target=GUARD))


@dataclass(frozen=True)
class Outlined:
    """A graph with conditionals, how many, and a note for each guard that has none."""

    graph: StepGraph
    changed: int
    notes: tuple[str, ...]


def outline(step: StepGraph) -> Outlined:
    """calls of a block  ->  where(mask, cond(any(mask), calls, fallbacks), fallback)

    The graph computes what it did. A value that has a row for each sample is taken from the block where the
    sample lives, else from what the row is then the same as; other values are the block's where any lives.
    State that the block keeps as it is otherwise is the conditional's result itself.
    """
    step = _frozen(step)
    found = find_regions(step)
    if not found.regions:
        return Outlined(step, 0, found.notes)
    outliner = _Outliner(step, found.regions, found.axes)
    return Outlined(outliner.run(), len(set(outliner.part.values())), found.notes)


def _frozen(step: StepGraph) -> StepGraph:
    """A block's weights and optimizer state keep their values where no sample ran it, if its guard says so.

    new  ->  where(any(mask), new, old), for those whose gradient is zero then.
    """
    step = step.copy()
    guards = [g for g in step.graph.find_nodes(op="call_function", target=GUARD) if g.args[2]]
    old = {s.target: n for s, n in zip(step.inputs, step.placeholders, strict=True) if s.kind.is_state}
    results = step.results
    kinds = (Kind.PARAMETER, Kind.OPTIMIZER)
    gradients = {i: _gradients(results[i]) for i, slot in enumerate(step.outputs) if slot.kind in kinds}
    gradients = {i: found for i, found in gradients.items() if found}
    plain = Facts(step.graph, {})
    for guard, facts in [(guard, plain.given(guard)) for guard in guards]:
        with step.graph.inserting_after(guard), guard.meta["val"].fake_mode:
            some = insert(step.graph, aten.any.default, guard, blame=guard)
        for i in list(gradients):
            if all(facts.zero(n) for n in gradients[i]):
                del gradients[i]
                slot, new = step.outputs[i], results[i]
                with step.graph.inserting_before(step.graph.output_node()), new.meta["val"].fake_mode:
                    results[i] = insert(step.graph, aten.where.self, some, new, old[slot.target], blame=new)
    step.graph.output_node().args = (results,)
    return step


def _gradients(new: fx.Node) -> set[fx.Node]:
    """The values of the backward that an update reads."""
    stack, found = [new], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node.op == "call_function" and node.meta["phase"] == "update":
            stack.extend(node.all_input_nodes)
        elif node.op == "call_function":
            found.add(node)
    return found


@dataclass(eq=False)
class _Part:
    """One level of a region, to become one conditional."""

    region: Region
    level: int
    nodes: list[fx.Node]

    @property
    def name(self) -> str:
        return f"{self.region.name.replace('.', '_')}_{self.level}"


class _Outliner:
    def __init__(self, step: StepGraph, regions: Sequence[Region], axes: dict[fx.Node, Any]) -> None:
        self.step, self.axes = step, axes
        self.part: dict[fx.Node, _Part] = {}
        for region in regions:
            for level, nodes in levels(region).items():
                part = _Part(region, level, nodes)
                self.part |= dict.fromkeys(nodes, part)
        self.graph = fx.Graph()
        self.children: dict[str, fx.GraphModule] = {}
        self.new: dict[fx.Node, fx.Node] = {}  # what others read of a node
        self.raw: dict[fx.Node, fx.Node] = {}  # what the region's other parts read
        self.masks: dict[Any, fx.Node] = {}
        self.slots: dict[fx.Node, list[Slot]] = {}
        for slot, node in self._outputs():
            self.slots.setdefault(node, []).append(slot)
        self.state = {
            (slot.target, node)
            for slot, node in zip(step.inputs, step.placeholders, strict=True)
            if slot.kind.is_state
        }

    def run(self) -> StepGraph:
        for node in self.step.placeholders:
            self.new[node] = self.graph.placeholder(node.name)
            self.new[node].meta = dict(node.meta)
        for unit in self._order():
            if isinstance(unit, _Part):
                self._conditional(unit)
            elif unit.op == "call_function" or any(user not in self.part for user in unit.users):
                self.new[unit] = self.graph.node_copy(unit, lambda n: self.new[n])
        self.graph.output([self._result(s, n) for s, n in self._outputs()])
        children = {n: c for n, c in self.step.module.named_children() if isinstance(c, fx.GraphModule)}
        module = graph_module({**children, **self.children}, self.graph)
        return StepGraph(module, self.step.inputs, self.step.outputs)

    def _outputs(self) -> list[tuple[Any, fx.Node]]:
        return list(zip(self.step.outputs, self.step.results, strict=True))

    def _result(self, slot: Any, node: fx.Node) -> fx.Node:
        """New state of a region needs no choice: where the block does not run it is the old."""
        return self.raw[node] if self._is_kept_state(slot, node) else self.new[node]

    def _is_kept_state(self, slot: Any, node: fx.Node) -> bool:
        part = self.part.get(node)
        return part is not None and (slot.target, part.region.fallback[node]) in self.state

    def _unit(self, node: fx.Node) -> "fx.Node | _Part":
        return self.part.get(node, node)

    def _order(self) -> list[Any]:
        """Calls and parts, each after what it reads, else in the graph's order."""
        waits: dict[Any, dict[Any, None]] = {}
        for node in self.step.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            unit = self._unit(node)
            mine = waits.setdefault(unit, {})
            sources = list(node.all_input_nodes)
            part = self.part.get(node)
            if part is not None:
                fact = part.region.fallback[node]
                sources += [part.region.guard, *([fact] if isinstance(fact, fx.Node) else [])]
            units = (self._unit(n) for n in sources if n.op != "placeholder")
            mine |= {other: None for other in units if other is not unit}
        return list(TopologicalSorter(waits).static_order())

    def _conditional(self, part: _Part) -> None:
        """One conditional, and the choices that its results need outside of it."""
        guard = self.new[part.region.guard]
        results = [n for n in part.nodes if self._is_read_outside(n, part)]
        some = self._some(guard)
        sources = list(dict.fromkeys(n for node in part.nodes for n in node.all_input_nodes))
        given = [n for n in sources if self.part.get(n) is not part and n.op != "get_attr"]
        fallbacks = [part.region.fallback[n] for n in results]
        given += [f for f in fallbacks if isinstance(f, fx.Node) and f not in given]
        operands = [self._operand(n, part) for n in given]
        names = (f"{part.name}_execute", f"{part.name}_skip")
        self.children[names[0]] = _executed(self.step.module, part.nodes, given, results)
        self.children[names[1]] = _skipped(given, results, fallbacks)
        call = self.graph.call_function(
            torch.ops.higher_order.cond, (some, *map(self.graph.get_attr, names), tuple(operands))
        )
        values = tuple(n.meta["val"] for n in results)
        blame = {key: part.nodes[0].meta[key] for key in ("phase", "where", "module")}
        call.meta = blame | {"val": values, "guard": guard}
        for i, node in enumerate(results):
            self.raw[node] = self.graph.call_function(operator.getitem, (call, i))
            self.raw[node].meta = dict(node.meta)
            if any(self._region(u) is not part.region for u in self._readers(node)):
                self.new[node] = self._chosen(node, part.region, guard, some)

    def _region(self, node: fx.Node) -> Region | None:
        part = self.part.get(node)
        return None if part is None else part.region

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        """Those that read a node's value, but for state that is the conditional's result itself."""
        readers = [u for u in node.users if u.op != "output"]
        plain = any(not self._is_kept_state(slot, node) for slot in self.slots.get(node, []))
        return [*readers, self.step.graph.output_node()] if plain else readers

    def _is_read_outside(self, node: fx.Node, part: _Part) -> bool:
        return any(self.part.get(user) is not part for user in node.users)

    def _operand(self, node: fx.Node, part: _Part) -> fx.Node:
        return self.raw[node] if self._region(node) is part.region else self.new[node]

    def _some(self, guard: fx.Node) -> fx.Node:
        if (guard, None) not in self.masks:
            with guard.meta["val"].fake_mode:
                self.masks[guard, None] = insert(self.graph, aten.any.default, guard, blame=guard)
        return self.masks[guard, None]

    def _chosen(self, node: fx.Node, region: Region, guard: fx.Node, some: fx.Node) -> fx.Node:
        """The block's value where it runs, its fallback elsewhere."""
        axis, value, fact = self.axes[node], node.meta["val"], region.fallback[node]
        with value.fake_mode:
            mask = some if axis is None else self._mask(guard, axis, value.dim())
            if isinstance(fact, Constant):
                other = insert(self.graph, aten.full.default, [], fact.value, blame=node, dtype=value.dtype)
            else:
                other = self.new[fact]
            return insert(self.graph, aten.where.self, mask, self.raw[node], other, blame=node)

    def _mask(self, guard: fx.Node, axis: int, rank: int) -> fx.Node:
        shape = [1] * rank
        shape[axis] = guard.meta["val"].shape[0]
        key = (guard, tuple(shape))
        if key not in self.masks:
            self.masks[key] = insert(self.graph, aten.view.default, guard, shape, blame=guard)
        return self.masks[key]


def _executed(
    module: fx.GraphModule, nodes: Sequence[fx.Node], given: Sequence[fx.Node], results: Sequence[fx.Node]
) -> fx.GraphModule:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in given:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    branches = [n for node in nodes for n in node.all_input_nodes if n.op == "get_attr"]
    for node in dict.fromkeys(branches):
        copies[node] = graph.node_copy(node)
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output([copies[n] for n in results])
    return graph_module(dict(module.named_children()) if branches else {}, graph)


def _skipped(given: Sequence[fx.Node], results: Sequence[fx.Node], fallbacks: Sequence[Any]) -> Any:
    """Fallbacks; zeros for what only the block's own other part reads, which does not run either."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in given}
    for node, copy in copies.items():
        copy.meta = dict(node.meta)
    values = []
    for node, fact in zip(results, fallbacks, strict=True):
        if isinstance(fact, fx.Node):
            values.append(copies[fact])
            continue
        value, number = node.meta["val"], fact.value if isinstance(fact, Constant) else 0
        with value.fake_mode:
            values.append(
                insert(graph, aten.full.default, list(value.shape), number, blame=node, dtype=value.dtype)
            )
    graph.output(values)
    return graph_module({}, graph)
