"""What is known of a graph's values where a block runs for no sample, or for all that it is looked at for."""

import operator
from collections import ChainMap
from collections.abc import MutableMapping
from copy import copy
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import torch
from torch import fx

from e2compile.graph import type_text
from e2compile.guards.batch_axis import Axis
from e2compile.lower.kinds import ARITHMETIC, COMPARISONS, POOLS, REDUCTIONS
from e2compile.lower.views import VIEWS
from e2compile.ops import (
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
    MOMENTS,
)

aten = torch.ops.aten

_COND = torch.ops.higher_order.cond


@dataclass(frozen=True)
class Constant:
    """Every element has this value."""

    value: bool | int | float


# A node stands for "the same as that node"; of what nothing is known, a node is the same as itself.
Fact = Any

ZERO = Constant(0)

_ELEMENTWISE = {*ARITHMETIC, *COMPARISONS, aten._to_copy.default}
_FILLS = {aten.full.default: 1, aten.full_like.default: 1, aten.scalar_tensor.default: 0}
_ADDITIONS = (aten.add.Tensor, aten.sub.Tensor)
_PRODUCTS = (aten.mul.Tensor, aten.bitwise_and.Tensor, aten.logical_and.default)
# Linear in each of the first two operands.
_BILINEAR = (
    aten.convolution.default,
    aten.mm.default,
    INTEGER_CONVOLUTION,
    INTEGER_INPUT_GRADIENT,
    INTEGER_WEIGHT_GRADIENT,
)


class Facts:
    """Facts of every node; `given` adds what follows where a guard has one `value` everywhere.

    With `by_row` they hold for the rows of those samples where the guard has the value, whatever it is for
    the others: of sums over the batch nothing is known then. With `value` True they hold where the block
    runs, so that some sample runs.
    """

    def __init__(
        self, graph: fx.Graph, axes: dict[fx.Node, Axis], value: bool = False, by_row: bool = False
    ) -> None:
        self.axes, self.value, self.by_row = axes, value, by_row
        self.module = graph.owning_module
        self.changed: dict[fx.Node, Fact] = {}
        self.of: MutableMapping[fx.Node, Fact] = {}
        for node in graph.nodes:
            self.of[node] = self._derive(node)

    def given(self, guard: fx.Node) -> "Facts":
        """These facts and the guard's, `changed` where they differ: only their readers are looked at."""
        found = copy(self)
        found.changed = {guard: Constant(self.value)}
        found.of = ChainMap(found.changed, self.of)
        waiting, queued = sorted(guard.users), set(guard.users)
        while waiting:
            node = heappop(waiting)
            fact = found._derive(node)
            if fact == self.of[node]:
                continue
            found.changed[node] = fact
            for user in node.users.keys() - queued:
                heappush(waiting, user)
                queued.add(user)
        return found

    def zero(self, node: fx.Node) -> bool:
        fact = self.of[node]
        return isinstance(fact, Constant) and fact.value == 0

    def _derive(self, node: fx.Node) -> Fact:
        if node.op != "call_function":
            return node
        if node.target in _FILLS:
            value: Any = node.args[_FILLS[node.target]]
            return Constant(value) if isinstance(value, (bool, int, float)) else node
        operands = [self.of[n] for n in node.all_input_nodes]
        if not any(isinstance(f, (Constant, tuple)) for f in operands):
            return node
        if self.by_row and self._mixes(node):
            return Constant(True) if self._is_any(node) and self.value else node
        fact = self._of_call(node)
        return node if fact is None else fact

    def _is_any(self, node: fx.Node) -> bool:
        return node.target is aten.any.default and self.of[node.args[0]] == Constant(True)  # type: ignore[index]

    def _mixes(self, node: fx.Node) -> bool:
        """Whether a call takes values of several samples together."""
        return self.axes[node] is None and any(self.axes.get(n) is not None for n in node.all_input_nodes)

    def _of_call(self, node: fx.Node) -> Fact:
        target: Any = node.target
        args: Any = node.args
        if target is operator.getitem:
            facts = self.of[args[0]]
            return facts[args[1]] if isinstance(facts, tuple) else None
        if target in VIEWS:
            return self._constant(args[0])
        if target is aten.where.self:
            return self._of_where(node)
        if target in _ADDITIONS and self._is_zero(args[1]):
            return self._same(args[0], node)
        if target is aten.add.Tensor and self._is_zero(args[0]) and "alpha" not in node.kwargs:
            return self._same(args[1], node)
        if target in _PRODUCTS:
            return self._of_product(node)
        if target is aten.div.Tensor and self._is_zero(args[0]):
            return ZERO
        if target is _COND:
            return self._of_conditional(node)
        if target in _ELEMENTWISE:
            return self._evaluated(node)
        return self._of_contraction(node)

    def _constant(self, value: Any) -> Constant | None:
        fact = self.of.get(value) if isinstance(value, fx.Node) else None
        return fact if isinstance(fact, Constant) else None

    def _is_zero(self, value: Any) -> bool:
        constant = self._constant(value)
        return constant is not None and constant.value == 0

    def _same(self, operand: Any, node: fx.Node) -> Fact:
        """What an operand is, if it has the result's type."""
        fact = self.of.get(operand) if isinstance(operand, fx.Node) else None
        if isinstance(fact, Constant):
            return self._evaluated(node)
        alike = fact is not None and type_text(fact.meta["val"]) == type_text(node.meta["val"])
        return fact if alike else None

    def _of_where(self, node: fx.Node) -> Fact:
        condition, yes, no = node.args
        chosen = self._constant(condition)
        if chosen is None:
            a, b = self._constant(yes), self._constant(no)
            return a if a is not None and a == b else None
        operand = yes if chosen.value else no
        return self._constant(operand) or self._same(operand, node)

    def _of_product(self, node: fx.Node) -> Fact:
        for one, other in (node.args[:2], node.args[1::-1]):
            if self._is_zero(one):
                return ZERO
            constant = self._constant(one)
            if constant is not None and constant.value == 1 and node.target is aten.mul.Tensor:
                return self._same(other, node)
        return self._evaluated(node)

    def _evaluated(self, node: fx.Node) -> Constant | None:
        """A call whose tensor operands are constants, run on single elements."""
        if any(self._constant(n) is None for n in node.all_input_nodes):
            return None

        def element(operand: fx.Node) -> torch.Tensor:
            return torch.tensor(self.of[operand].value, dtype=operand.meta["val"].dtype)

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), element)
        return Constant(node.target(*args, **kwargs).item())  # type: ignore[operator]

    def _of_contraction(self, node: fx.Node) -> Fact:
        """Sums of products, reductions and poolings."""
        target, args = node.target, node.args
        if target in _BILINEAR:
            bias = args[2] if target is aten.convolution.default else None
            return ZERO if bias is None and any(map(self._is_zero, args[:2])) else None
        if target is aten.convolution_backward.default:
            return (ZERO, ZERO, ZERO) if self._is_zero(args[0]) else None
        if target is MOMENTS:
            return (ZERO, ZERO) if self._is_zero(args[1]) else None
        constant = self._constant(args[0])
        if constant is None or target not in (*REDUCTIONS, *POOLS):
            return None
        if isinstance(node.meta["val"], tuple):
            return (ZERO, constant) if target is aten.var_mean.correction else (constant, None)
        if target is aten.sum.dim_IntList and constant.value:
            return self._total(node, constant)
        is_extreme = target in (aten.amax.default, aten.amin.default)
        return constant if is_extreme or (constant.value == 0 and target is not aten.argmax.default) else None

    def _total(self, node: fx.Node, constant: Constant) -> Constant | None:
        """A sum of one whole number, where it is exact whatever the order."""
        terms = node.args[0].meta["val"].numel() // node.meta["val"].numel()  # type: ignore[union-attr]
        total = constant.value * terms
        return Constant(total) if total == int(total) and abs(total) < 2**24 else None

    def _of_conditional(self, node: fx.Node) -> Fact:
        """What a branch gives that is known to be taken, as far as it is constants of its own."""
        condition, *branches, _ = node.args
        chosen = self._constant(condition)
        if chosen is None:
            return None
        branch: Any = branches[0] if chosen.value else branches[1]
        results = getattr(self.module, branch.target).graph.output_node().args[0]
        filled = [r.args[1] if r.target is aten.full.default else None for r in results]
        return tuple(Constant(value) if isinstance(value, (bool, int, float)) else None for value in filled)
