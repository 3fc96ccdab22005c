"""Recompute: activations that the backward pass computes again from what it keeps anyway.

A ReLU's output is an operand of the next convolution's weight gradient, so that it would be kept beside the
convolution's output that batch norm's gradient reads. It is elementwise in the latter: a loop of the
backward pass computes it again, and between the two passes one buffer is held instead of two. Of a value that
only comparisons read there, flags of a byte are kept.
"""

from collections.abc import Iterable
from itertools import chain

from torch import fx

from e2compile.graph import StepGraph
from e2compile.lower.fuse import aligned, holder, takes_much
from e2compile.lower.inline import live_of, origin
from e2compile.lower.kinds import COMPARISONS, EXPENSIVE, Work, is_constant, is_elementwise, loop_shape, work

# Less than what starting a kernel costs.
LEAST_BYTES = 1 << 16
# Large buffers that one value may be computed from: a chain of residual blocks is cut where it has more.
_MOST_BUFFERS = 4
_MOST_CALLS = 64
_COMPARISONS = tuple(target for target in COMPARISONS if target._overloadname == "Scalar")

Leaves = frozenset[fx.Node]


def recomputed(step: StepGraph) -> StepGraph:
    """The graph with own calls in the backward pass for floats that contractions there read.

    Only those that are cheap to compute from buffers which the backward pass reads in any case: memory falls
    and no contraction runs twice. Codes are never computed again: products of integers stay what they were.
    """
    plan = _Recompute(step)
    if not plan.chosen and not plan.compared:
        return step
    graph = copied(step)
    plan = _Recompute(graph)
    for value, readers in plan.chosen.items():
        plan.replace(value, readers)
    for reader in plan.compared:
        plan.compare_at_once(reader)
    graph.graph.eliminate_dead_code()
    return graph


def copied(step: StepGraph) -> StepGraph:
    """A copy whose calls know what they stand for, and whose conditions are its own."""
    graph = step.copy()
    mapping = dict(zip(step.graph.nodes, graph.graph.nodes, strict=True))
    for old, new in mapping.items():
        new.meta |= {"origin": origin(old), "live": tuple(mapping[n] for n in live_of(old))}
    return graph


class _Recompute:
    """`chosen` are the values to compute again, with the backward pass's reads of each, (reader, operand).

    `compared` are comparisons of the backward pass with numbers, of values that would be kept for them alone.
    """

    def __init__(self, step: StepGraph) -> None:
        self.graph = step.graph
        self.places = {node: place for place, node in enumerate(step.graph.nodes)}
        self._leaves: dict[fx.Node, tuple[Leaves, int]] = {}
        reads: dict[fx.Node, list[tuple[fx.Node, fx.Node]]] = {}
        for node in step.graph.nodes:
            if node.op == "call_function" and _is_backward(node) and work(node) is not Work.VIEW:
                for operand in node.all_input_nodes:
                    source = holder(operand)
                    if source.op == "call_function" and not _is_backward(source) and not is_constant(source):
                        reads.setdefault(source, []).append((node, operand))
        stored = {value for value, found in reads.items() if any(_is_forced(*read) for read in found)}
        kept = set(chain.from_iterable(self.leaves(value)[0] for value in reads.keys() - stored))
        kept |= {value for value in stored if not self._is_cheap(value)}
        self.chosen: dict[fx.Node, list[tuple[fx.Node, fx.Node]]] = {}
        self._leaves.clear()
        for value in sorted(stored - kept, key=self.places.__getitem__):
            leaves, calls = self.leaves(value)
            if leaves <= kept and len(leaves) <= _MOST_BUFFERS and calls <= _MOST_CALLS:
                self.chosen[value] = reads[value]
            else:
                kept.add(value)
                self._leaves[value] = (frozenset([value]), 0)

        self.compared = [
            reader
            for value in sorted(reads.keys() - stored, key=self.places.__getitem__)
            if all(reader.target in _COMPARISONS for reader, _ in reads[value]) and self._is_chain(value)
            for reader, _ in reads[value]
        ]

    def _is_chain(self, value: fx.Node) -> bool:
        """Whether no loop would compute a value again from what it is made of."""
        return self._is_cheap(value) and takes_much(self.leaves(value)[0])

    def _is_cheap(self, value: fx.Node) -> bool:
        found = value.meta["val"]
        return (
            is_elementwise(value)
            and value.target not in EXPENSIVE
            and found.dtype.is_floating_point
            and found.nbytes >= LEAST_BYTES
        )

    def leaves(self, value: fx.Node) -> tuple[Leaves, int]:
        """The buffers that computing a value again reads, small ones aside, and the calls that takes."""
        if value not in self._leaves:
            self._leaves[value] = self._find_leaves(value)
        return self._leaves[value]

    def _find_leaves(self, value: fx.Node) -> tuple[Leaves, int]:
        if not is_elementwise(value) or value.target in EXPENSIVE:
            return frozenset([value]), 0
        found, calls = Leaves(), 1
        for source in _aligned_sources(value):
            leaves, operations = self.leaves(source)
            found, calls = found | leaves, calls + operations
        return found, calls

    def replace(self, value: fx.Node, readers: Iterable[tuple[fx.Node, fx.Node]]) -> None:
        """Own calls for the contractions that read a value, and for the loops, which need not store it."""
        leaves = self.leaves(value)[0]
        is_single = len(leaves) == 1
        groups: dict[bool, list[tuple[fx.Node, fx.Node]]] = {}
        for read in readers:
            groups.setdefault(is_single and not _is_forced(*read), []).append(read)
        for found in groups.values():
            first = min((reader for reader, _ in found), key=self.places.__getitem__)
            new = {leaf: leaf for leaf in leaves}
            with self.graph.inserting_before(first):
                for reader, operand in found:
                    reader.replace_input_with(operand, self._again(operand, new, not is_single))

    def compare_at_once(self, reader: fx.Node) -> None:
        """A comparison in the forward pass, its result kept."""
        operand: fx.Node = reader.args[0]  # type: ignore[assignment]
        with self.graph.inserting_after(operand):
            new = self.graph.node_copy(reader)
        new.meta = reader.meta | {"phase": "forward", "origin": origin(reader), "stored": True}
        reader.replace_all_uses_with(new)

    def _again(self, node: fx.Node, new: dict[fx.Node, fx.Node], postponed: bool) -> fx.Node:
        """A copy of a call, with copies of what it computes from leaves."""
        if node not in new:
            is_view = work(node) is Work.VIEW
            inner = {holder(node)} if is_view else set(_aligned_sources(node))
            for operand in node.all_input_nodes:
                if holder(operand) in inner:
                    self._again(operand, new, postponed)
            new[node] = self.graph.node_copy(node, lambda n: new.get(n, n))
            new[node].meta = node.meta | {"phase": "backward", "origin": origin(node), "postponed": postponed}
        return new[node]


def _aligned_sources(value: fx.Node) -> list[fx.Node]:
    """The buffers that a call reads element by element, constants aside."""
    shape = loop_shape(value)
    operands = [operand for operand in value.all_input_nodes if aligned(operand, shape)]
    return [source for source in map(holder, operands) if not is_constant(source)]


def _is_backward(node: fx.Node) -> bool:
    return bool(node.meta["phase"] == "backward")


def _is_forced(reader: fx.Node, operand: fx.Node) -> bool:
    """Whether a call reads an operand from memory whatever is fused."""
    if work(reader) not in (Work.ELEMENTWISE, Work.REDUCE):
        return True
    return not aligned(operand, loop_shape(reader))
