"""Layout: in which order each buffer's dimensions lie in memory. Activations NHWC, weights HWIO."""

from collections.abc import Sequence

import torch
from torch import fx

from e2compile.graph import Kind, StepGraph
from e2compile.lower.fuse import Fusion, Group, aligned, holder, producer
from e2compile.lower.kinds import Work, is_elementwise, work
from e2compile.lower.views import Shape, shape_of, squeezed
from e2compile.ops import INTEGER_CONVOLUTION, INTEGER_WEIGHT_GRADIENT, SCALED_CONVOLUTION

aten = torch.ops.aten

Order = tuple[int, ...]

_NHWC = (0, 2, 3, 1)
_HWIO = (2, 3, 1, 0)


def squeeze_order(shape: Shape, order: Sequence[int]) -> Order:
    """An order of all dimensions as one of those that are not one, counted without the others."""
    kept = [d for d, size in enumerate(shape) if size != 1]
    return tuple(kept.index(d) for d in order if d in kept)


def natural(shape: Shape) -> Order:
    """Row-major, as PyTorch hands tensors over."""
    return squeeze_order(shape, range(len(shape)))


def default(shape: Shape) -> Order:
    """NHWC for four dimensions, row-major otherwise."""
    return squeeze_order(shape, _NHWC) if len(shape) == 4 else natural(shape)


def weight(shape: Shape) -> Order:
    return squeeze_order(shape, _HWIO)


class Layout:
    """The order of every holder of a fused graph.

    State keeps one order between steps: HWIO for what a convolution takes as its weight and the
    optimizer state beside it, row-major for the rest. Loops take over the order of what they read.
    """

    def __init__(self, graph: StepGraph, fusion: Fusion, states: dict[str, Order] | None = None) -> None:
        self.fusion = fusion
        self.order: dict[fx.Node, Order] = {}
        self.states = states if states is not None else state_orders(graph)
        for slot, node in zip(graph.inputs, graph.placeholders, strict=True):
            known = self.states.get(slot.target) if slot.kind.is_state else None
            self.order[node] = known if known is not None else natural(shape_of(node))
        self.data = {n for s, n in zip(graph.inputs, graph.placeholders, strict=True) if s.kind is Kind.DATA}
        self.loops: dict[Group, Order] = {}
        for group in sorted(fusion.groups, key=lambda g: g.ancestors.bit_count()):
            if group.shape is not None:
                self.loops[group] = self._loop(group, group.shape)
            for node in group.nodes:
                self._place(node, group)

    def __getitem__(self, node: fx.Node) -> Order:
        if node not in self.order:
            maker = producer(node)
            self._place(maker, self.fusion.of[maker])
            self.order.setdefault(node, self.order.get(maker, default(shape_of(node))))
        return self.order[node]

    def _loop(self, group: Group, shape: Shape) -> Order:
        for node in group.nodes:
            for operand in node.all_input_nodes:
                source = holder(operand)
                is_outside = self.fusion.of.get(producer(source)) is not group
                if (
                    is_outside
                    and source not in self.data
                    and aligned(operand, shape)
                    and source in self.order
                ):
                    return self.order[source]
        first = group.nodes[0]
        full: fx.Node = first.args[0] if work(first) is Work.REDUCE else first  # type: ignore[assignment]
        return default(shape_of(full))

    def _place(self, node: fx.Node, group: Group) -> None:
        if work(node) is Work.ELEMENTWISE:
            self.order[node] = self.loops[group]
            return
        results = [node] if work(node) is not Work.ITEM else []
        results += [use for use in node.users if use.op == "call_function" and work(use) is Work.ITEM]
        for result in results:
            if isinstance(result.meta["val"], torch.Tensor):
                self.order[result] = self._result(node, result, group)

    def _result(self, node: fx.Node, result: fx.Node, group: Group) -> Order:
        shape = shape_of(result)
        if work(node) is Work.REDUCE:
            dims = group.dims or ()
            kept = sorted(set(self.loops[group]) - set(dims))
            return tuple(kept.index(d) for d in self.loops[group] if d not in dims)
        is_gradient = node.target is aten.convolution_backward.default and result.args[1] == 1
        if is_gradient or node.target is INTEGER_WEIGHT_GRADIENT:
            return weight(shape)
        return default(shape)


def state_orders(graph: StepGraph) -> dict[str, Order]:
    """The order of each state input of a graph without conditionals, by name."""
    slots = dict(zip(graph.placeholders, graph.inputs, strict=True))
    sources = (
        _unrounded(call.args[1])
        for target in (aten.convolution.default, INTEGER_CONVOLUTION, SCALED_CONVOLUTION)
        for call in graph.graph.find_nodes(op="call_function", target=target)
    )
    weights = {slots[node].target for node in sources if node in slots}
    orders = {}
    for node, slot in slots.items():
        if not slot.kind.is_state:
            continue
        shape = shape_of(node)
        owner = slot.target if slot.kind is not Kind.OPTIMIZER else slot.target.rpartition(".")[0]
        orders[slot.target] = weight(shape) if owner in weights and len(shape) == 4 else natural(shape)
    return orders


def _unrounded(node: fx.Node) -> fx.Node:
    """What the codes of a weight are rounded from."""
    while node.op == "call_function" and is_elementwise(node):
        alike = [n for n in node.all_input_nodes if shape_of(n) == shape_of(node)]
        if len(alike) != 1:
            break
        node = alike[0]
    return node


def physical(shape: Shape, order: Order) -> Shape:
    """The sizes of a buffer in memory order, dimensions of one left out."""
    kept = squeezed(shape)
    return tuple(kept[d] for d in order)
