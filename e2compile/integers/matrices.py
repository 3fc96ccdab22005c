"""Matrix products of a step graph: linear layers and their gradients, told as rows times rows."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from e2compile.gates.network import PREFIX
from e2compile.graph import Kind, StepGraph, where
from e2compile.integers.quantise import Writer
from e2compile.ops import MOST_TERMS

aten = torch.ops.aten


@dataclass(frozen=True)
class Rows:
    """A matrix [rows, terms]: `node`, or its transpose."""

    node: fx.Node
    is_transposed: bool

    def of(self, write: Writer, code: fx.Node) -> fx.Node:
        """Codes of `node` as rows, in the shape of images of one pixel, or of 1 x 1 kernels."""
        rows = write(aten.permute.default, code, [1, 0]) if self.is_transposed else code
        return write(aten.view.default, rows, [*rows.meta["val"].shape, 1, 1])


@dataclass(frozen=True)
class MatrixProduct:
    """`node`, an mm: result[i, j] = sum over k of values[i, k] * others[j, k], or the transpose of that.

    In the backward pass `others` are an output gradient; in the forward pass they are the weight. `name` is
    that of the layer.
    """

    name: str
    node: fx.Node
    values: Rows
    others: Rows
    is_transposed: bool

    @property
    def is_backward(self) -> bool:
        return bool(self.others.node.meta["phase"] == "backward")


def matrix_products(step: StepGraph, guarded: Container[fx.Node]) -> tuple[list[MatrixProduct], list[str]]:
    """The linear layers of a step that can run in integers, each followed by its gradients, and a line for
    each other one. Gates and what a guard decides about are left as they are."""
    slots = {n: s for s, n in zip(step.inputs, step.placeholders, strict=True) if s.kind is Kind.PARAMETER}
    names: dict[fx.Node, str] = {}
    found, notes = list[MatrixProduct](), list[str]()
    for node in step.graph.find_nodes(op="call_function", target=aten.mm.default):
        left, right = _rows(node.args[0], False), _rows(node.args[1], True)
        slot = slots.get(right.node)
        if node.meta["phase"] == "forward" and slot is not None and not slot.target.startswith(PREFIX):
            name = slot.target.removesuffix(".weight")
            why = _why_not(node, guarded)
            if why is not None:
                notes.append(f"{where(node)}: {name} left alone, {why}")
                continue
            names |= {left.node: name, right.node: name}
            found.append(MatrixProduct(name, node, left, right, False))
        elif node.meta["phase"] == "backward" and right.node in names and left.node not in names:
            found.append(MatrixProduct(names[right.node], node, right, left, True))
        elif node.meta["phase"] == "backward" and left.node in names:
            found.append(MatrixProduct(names[left.node], node, left, right, False))
    return found, notes


def _rows(operand: Any, is_right: bool) -> Rows:
    """An operand of mm, its transpositions taken off."""
    is_transposed = is_right
    while operand.target is aten.permute.default:
        operand, is_transposed = operand.args[0], not is_transposed
    return Rows(operand, is_transposed)


def _why_not(node: fx.Node, guarded: Container[fx.Node]) -> str | None:
    left: Any = node.args[0]
    samples, terms = left.meta["val"].shape
    if node.meta["val"].dtype != torch.float32:
        return "it is not in float32"
    if node in guarded:
        return "a guard decides about it"
    terms = max(samples, terms, node.meta["val"].shape[1])
    return f"a sum of {terms} products may leave int32" if terms > MOST_TERMS else None
