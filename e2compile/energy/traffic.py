"""Which bytes each call moves to and from DRAM: all of its operands and results, or what fusion leaves."""

import operator
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from e2compile.lower.fuse import Fusion, Group, holder, producer
from e2compile.lower.kinds import CONSTANTS
from e2compile.lower.places import is_place, place_dtype

aten = torch.ops.aten

Bytes = dict[fx.Node, int]


class Traffic(Protocol):
    def reads(self, node: fx.Node) -> Bytes:
        """The bytes that a call reads, by the value that they are of."""

    def writes(self, node: fx.Node) -> int:
        """The bytes that a call writes."""


class Unfused:
    """Each call reads its operands and writes its results."""

    def reads(self, node: fx.Node) -> Bytes:
        return {operand: _shown(operand) for operand in operands(node)}

    def writes(self, node: fx.Node) -> int:
        return sum(_held(result) for result in _results(node))


class Fused:
    """The calls of a kernel hand values to each other; what is computed anew elsewhere is not stored.

    A kernel's first call to read a value reads it for all.
    """

    def __init__(self, fusion: Fusion) -> None:
        self.fusion = fusion
        sources = {group: self._sources(group) for group in self.fusion.groups}
        self.stored = set(self.fusion.outputs).union(
            *(found for each in sources.values() for found in each.values())
        )
        self._reads: dict[fx.Node, Bytes] = {}
        for group in self.fusion.groups:
            self._assign(group, sources[group])

    def reads(self, node: fx.Node) -> Bytes:
        return self._reads.get(node, {})

    def writes(self, node: fx.Node) -> int:
        return sum(_held(result) for result in _results(node) if result in self.stored)

    def _sources(self, group: Group) -> dict[fx.Node, set[fx.Node]]:
        """For each call, the values of other kernels that it reads."""
        return {
            node: {source for operand in operands(node) for source in self._behind(operand, group)}
            for node in group.nodes
        }

    def _behind(self, operand: fx.Node, group: Group) -> frozenset[fx.Node]:
        source = holder(operand)
        if source.target in CONSTANTS or self.fusion.of.get(producer(source)) is group:
            return frozenset()
        if producer(source) in self.fusion.of and self.fusion.is_recomputed(source):
            return self.fusion.leaves(source)[0]
        return frozenset([source])

    def _assign(self, group: Group, sources: dict[fx.Node, set[fx.Node]]) -> None:
        """Bytes of what the stored results of a kernel need, each once."""
        needed: set[fx.Node] = set()
        for node in reversed(group.nodes):
            if node in needed or any(result in self.stored for result in _results(node)):
                needed |= {node, *(producer(holder(operand)) for operand in operands(node))}
        seen: set[fx.Node] = set()
        for node in group.nodes:
            if node in needed:
                shown = {holder(operand): _shown(operand) for operand in operands(node)}
                self._reads[node] = {s: shown.get(s, _held(s)) for s in sources[node] - seen}
                seen |= sources[node]


def operands(node: fx.Node) -> list[fx.Node]:
    """What a call reads of its arguments: gradients take some of them for their shapes alone."""
    arguments: Any = node.args
    if node.target is aten.convolution_backward.default:
        of_input, of_weight, _ = arguments[-1]
        read = [arguments[0], *[arguments[1]] * of_weight, *[arguments[2]] * of_input]
    elif node.target is aten.max_pool2d_with_indices_backward.default:
        read = [arguments[0], arguments[-1]]
    elif node.target in (aten.avg_pool2d_backward.default, aten._adaptive_avg_pool2d_backward.default):
        read = [arguments[0]]
    else:
        return node.all_input_nodes
    return list(dict.fromkeys(read))


def _results(node: fx.Node) -> list[fx.Node]:
    """A call's values: itself, or the items that are used of several."""
    if isinstance(node.meta["val"], Tensor):
        return [node]
    return [user for user in node.users if user.target is operator.getitem]


def _held(node: fx.Node) -> int:
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return 0
    dtype: torch.dtype = getattr(torch, place_dtype(node)) if is_place(node) else value.dtype
    return value.numel() * dtype.itemsize


def _shown(operand: fx.Node) -> int:
    """A view is read as what it shows of its source, or as the source where it shows some of it again."""
    source = holder(operand)
    return 0 if source.target in CONSTANTS else min(_held(operand), _held(source))
