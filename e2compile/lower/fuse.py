"""Fusion: element-wise calls and reductions over one shape become groups, each one kernel."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from math import prod

import torch
from torch import fx

from e2compile.graph import StepGraph
from e2compile.guards.batch_axis import LOST, Axis, batch_axes
from e2compile.lower.inline import Live, live_of
from e2compile.lower.kinds import (
    ASSEMBLIES,
    EXPENSIVE,
    REDUCTIONS,
    Work,
    is_constant,
    is_elementwise,
    loop_shape,
    reduced_dims,
    work,
)
from e2compile.lower.views import is_identity, shape_of, source_of, squeezed
from e2compile.ops import MOMENTS

aten = torch.ops.aten

# Bytes for each element: a float32 stored and loaded.
_MOST_READ = 8
_MOST_CALLS = 16
# Elements of a loop from which on it is worth sharing a pass over what it reads.
_LEAST_SHARED = 4096


@dataclass(eq=False)
class Group:
    """The calls of one kernel. `shape` is None for a kernel that is a single contraction or pooling.

    They run where `live` holds; `batch` is then the loop's dimension that counts samples, if it has one.
    """

    number: int
    phase: str
    shape: tuple[int, ...] | None
    live: Live = ()
    batch: int | None = None
    nodes: list[fx.Node] = field(default_factory=list)
    ancestors: int = 0
    is_read: bool = False

    @property
    def dims(self) -> tuple[int, ...] | None:
        """What its reductions reduce; None without one."""
        return next((reduced_dims(n) for n in self.nodes if work(n) is Work.REDUCE), None)


def holder(node: fx.Node) -> fx.Node:
    """The node whose buffer a node is read from, views taken off."""
    return source_of(node)[0]


def producer(node: fx.Node) -> fx.Node:
    """The call that fills a holder's buffer."""
    return node.args[0] if node.op == "call_function" and work(node) is Work.ITEM else node  # type: ignore


def aligned(operand: fx.Node, shape: tuple[int, ...]) -> bool:
    """Whether an operand of a loop over `shape` is its holder's buffer, element by element."""
    node, chain = source_of(operand)
    return squeezed(shape_of(node)) == shape and all(is_identity(v) for v in chain)


def buffered_operands(node: fx.Node) -> set[fx.Node]:
    """Operands that must lie in memory whatever is fused: those read at computed places."""
    if node.target in ASSEMBLIES:
        return {holder(operand) for operand in node.all_input_nodes}
    return {holder(node.args[0])} if node.target is aten.gather.default else set()  # type: ignore[arg-type]


def running(node: fx.Node) -> Live:
    """What must hold for a call's kernel to run; moments are taken of live samples wherever they are used."""
    if node.target is MOMENTS and not live_of(node):
        return (node.args[1],)  # type: ignore[return-value]
    return live_of(node)


def takes_much(leaves: Iterable[fx.Node]) -> bool:
    """Whether reading these for a value of them moves more bytes than to store the value and load it."""
    read: int = sum(leaf.meta["val"].dtype.itemsize for leaf in leaves)
    return read > _MOST_READ


def is_postponed(node: fx.Node) -> bool:
    """Whether a call is to run just before its reader, so that it shares no pass over what it reads."""
    return bool(node.meta.get("postponed"))


def has_live(graph: fx.Graph) -> bool:
    return any(node.op == "call_function" and running(node) for node in graph.nodes)


class Fusion:
    """Groups the calls of a graph without conditionals.

    `groups` are in an order in which each comes after what it reads.
    """

    def __init__(self, step: StepGraph) -> None:
        self.step, graph = step, step.graph
        self.axes: dict[fx.Node, Axis] = batch_axes(step) if has_live(graph) else {}
        self.groups: list[Group] = []
        self.of: dict[fx.Node, Group] = {}
        self._readers: dict[fx.Node, dict[int, Group]] = {}
        self.outputs = {holder(n) for n in graph.output_node().all_input_nodes}
        for node in graph.nodes:
            if node.op == "call_function" and work(node) not in (Work.VIEW, Work.CONSTANT, Work.ITEM):
                self._place(node)
        self.forced = self._forced()
        self._leaves: dict[fx.Node, tuple[frozenset[fx.Node], int]] = {}

    def _place(self, node: fx.Node) -> None:
        is_loop = work(node) in (Work.ELEMENTWISE, Work.REDUCE)
        group = (
            next((g for g in self._candidates(node) if self._may_join(node, g)), None) if is_loop else None
        )
        if group is None:
            shape = loop_shape(node) if is_loop else None
            batch = self.batch(node) if is_loop else None
            group = Group(len(self.groups), node.meta["phase"], shape, running(node), batch)
            self.groups.append(group)
        self._join(node, group)

    def _candidates(self, node: fx.Node) -> Iterator[Group]:
        """Groups that make an operand, the latest first; then groups that read one."""
        shape = loop_shape(node)
        operands = [holder(n) for n in node.all_input_nodes if aligned(n, shape)]
        makers = {self.of[producer(n)] for n in operands if producer(n) in self.of}
        # reductions of one shape share a pass over what they read
        yield from sorted(makers, key=lambda g: (g.dims is None, -g.number))
        if is_postponed(node):
            return
        readers = {number: group for n in operands for number, group in self._readers.get(n, {}).items()}
        is_small = prod(shape) < _LEAST_SHARED
        for number in sorted(readers, reverse=True):
            # a small read shared is not worth that anything waits for what it does not need
            if not is_small or self._behind(node) == readers[number].ancestors:
                yield readers[number]

    def _behind(self, node: fx.Node) -> int:
        """The groups that a call waits for, as bits."""
        makers = (self.of.get(producer(holder(n))) for n in node.all_input_nodes)
        return reduce(int.__or__, (m.ancestors | 1 << m.number for m in makers if m is not None), 0)

    def _may_join(self, node: fx.Node, group: Group) -> bool:
        if group.shape != loop_shape(node) or group.phase != node.meta["phase"]:
            return False
        if group.live != running(node) or group.batch != self.batch(node):
            return False
        calls = {n.target for n in (node, *group.nodes)}
        if aten.argmax.default in calls or (calls & set(ASSEMBLIES) and calls & set(REDUCTIONS)):
            return False
        if work(node) is Work.REDUCE and group.dims not in (None, reduced_dims(node)):
            return False
        buffered = buffered_operands(node)
        for operand in node.all_input_nodes:
            source = producer(holder(operand))
            maker = self.of.get(source)
            if maker is group:
                inside = is_elementwise(source) and aligned(operand, group.shape) and source not in buffered
                if not inside:
                    return False
            elif maker is not None and maker.ancestors >> group.number & 1:
                return False
        return True

    def batch(self, node: fx.Node) -> int | None:
        """The dimension, counted without those of one, that counts samples in a gated call's loop."""
        if not running(node):
            return None
        whole: fx.Node = node.args[0] if work(node) is Work.REDUCE else node  # type: ignore[assignment]
        axis, shape = self.axes[whole], shape_of(whole)
        if axis is None or axis == LOST or shape[axis] == 1:
            return None
        return sum(size != 1 for size in shape[:axis])

    def _join(self, node: fx.Node, group: Group) -> None:
        group.nodes.append(node)
        self.of[node] = group
        gained = 0
        for operand in node.all_input_nodes:
            source = holder(operand)
            if not is_postponed(node):
                self._readers.setdefault(source, {})[group.number] = group
            maker = self.of.get(producer(source))
            if maker is not None and maker is not group:
                gained |= maker.ancestors | 1 << maker.number
                maker.is_read = True
        if gained | group.ancestors == group.ancestors:
            return
        group.ancestors |= gained
        if not group.is_read:
            return
        for other in self.groups:
            if other.ancestors >> group.number & 1:
                other.ancestors |= gained

    def _forced(self) -> set[fx.Node]:
        """Holders that lie in memory anyway: read by kernels that are not loops over their own shape."""
        forced = self.outputs | {node for node in self.of if node.meta.get("stored")}
        for node, group in self.of.items():
            forced |= buffered_operands(node) | {holder(condition) for condition in group.live}
            for operand in node.all_input_nodes:
                if group.shape is None or not aligned(operand, group.shape):
                    forced.add(holder(operand))
        return forced

    def is_recomputed(self, node: fx.Node) -> bool:
        """Whether a value made in one group is computed again in another that reads it, and not stored.

        That is so where it takes no more bytes of large reads than a store and a load of it, which would keep
        it in memory meanwhile, and a few cheap operations.
        """
        return is_elementwise(node) and self.leaves(node)[0] != frozenset([node])

    def leaves(self, node: fx.Node) -> tuple[frozenset[fx.Node], int]:
        """The large holders that computing a value anew would read, and the operations that takes."""
        if node not in self._leaves:
            self._leaves[node] = self._find_leaves(node)
        return self._leaves[node]

    def _find_leaves(self, node: fx.Node) -> tuple[frozenset[fx.Node], int]:
        itself = (frozenset([node]), 0)
        if not is_elementwise(node) or node in self.forced or node.target in EXPENSIVE:
            return itself
        if node.meta["val"].dtype is torch.bfloat16:  # made to be kept
            return itself
        shape, calls, found = loop_shape(node), 1, frozenset[fx.Node]()
        for operand in node.all_input_nodes:
            source = holder(operand)
            if is_constant(source):
                continue
            if aligned(operand, shape):
                leaves, operations = self.leaves(source)
                found, calls = found | leaves, calls + operations
        if takes_much(found) or calls > _MOST_CALLS or not found:
            return itself
        return found, calls
