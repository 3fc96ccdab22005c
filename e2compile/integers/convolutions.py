"""Convolutions of a step graph: each with its gradients, and where its weight's gradient goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from e2compile.graph import Kind, Slot, StepGraph, live_first
from e2compile.ops import INTEGER_CONVOLUTION, MOST_TERMS

aten = torch.ops.aten


@dataclass(frozen=True)
class Site:
    """One convolution and its gradients.

    `name` is its module's, [k] added for the k-th further use of one weight. `input_gradient` (None where
    nothing needs it) and `weight_gradient` are calls of convolution_backward, of one result each. `root` is
    the gradient that the optimizer's update reads: the weight gradient's own result, or a sum it is part of.
    """

    name: str
    forward: fx.Node
    input_gradient: fx.Node | None
    weight_gradient: fx.Node
    root: fx.Node

    @property
    def x(self) -> fx.Node:
        return self.forward.args[0]  # type: ignore[return-value]

    @property
    def weight(self) -> fx.Node:
        return self.forward.args[1]  # type: ignore[return-value]

    @property
    def gradient(self) -> fx.Node:
        """The gradient of the convolution's output."""
        return self.weight_gradient.args[0]  # type: ignore[return-value]

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups, as the integer operators take them."""
        *_, stride, padding, dilation, _, _, groups = self.forward.args
        return list(stride), list(padding), list(dilation), groups  # type: ignore[arg-type]

    @property
    def is_alone(self) -> bool:
        """Whether the weight's gradient is this convolution's alone."""
        return result(self.weight_gradient) is self.root


def result(gradient: fx.Node) -> fx.Node:
    """The one result of a convolution_backward of one result."""
    (item,) = gradient.users
    return item


def sites(step: StepGraph, stem: bool = True, pointwise: bool = True) -> tuple[list[Site], list[str]]:
    """The convolutions of a step that can run in integers, in its order, and a line for each other one.

    Left alone, too, are those that no convolution precedes where `stem` is off, and 1 x 1 convolutions where
    `pointwise` is.
    """
    found, notes = list[Site](), list[str]()
    names = _names(step)
    gradients = step.graph.find_nodes(op="call_function", target=aten.convolution_backward.default)
    by_key: dict[Any, list[fx.Node]] = {}
    for node in gradients:
        _, x, w, _, *geometry, _ = node.args
        by_key.setdefault((x, w, str(geometry)), []).append(node)
    for node in step.graph.find_nodes(op="call_function", target=aten.convolution.default):
        x, w, _, *geometry = node.args
        site = _site(names[node], node, by_key.get((x, w, str(geometry)), []))
        why = _why_not(step, node, site, stem, pointwise)
        if why is None and site is not None:
            found.append(site)
        else:
            notes.append(f"{names[node]}: left alone, {why}")
    return found, notes


def _names(step: StepGraph) -> dict[fx.Node, str]:
    slots = dict(zip(step.placeholders, step.inputs, strict=True))
    names: dict[fx.Node, str] = {}
    for node in step.graph.find_nodes(op="call_function", target=aten.convolution.default):
        slot = slots.get(node.args[1])
        known = slot.target.removesuffix(".weight") if slot is not None else node.meta["module"] or node.name
        taken = sum(name.partition("[")[0] == known for name in names.values())
        names[node] = f"{known}[{taken}]" if taken else known
    return names


def _site(name: str, forward: fx.Node, gradients: Sequence[fx.Node]) -> Site | None:
    """The convolution with its gradients; None where no weight gradient reaches an update."""
    of_input = next((n for n in gradients if n.args[-1][0]), None)  # type: ignore[index]
    of_weight = next((n for n in gradients if n.args[-1][1]), None)  # type: ignore[index]
    root = _root(result(of_weight)) if of_weight is not None else None
    if of_weight is None or root is None:
        return None
    return Site(name, forward, of_input, of_weight, root)


def _root(gradient: fx.Node) -> fx.Node | None:
    """What the update reads of a gradient: itself, or the sum over all uses of its weight."""
    while True:
        users = list(gradient.users)
        if any(user.meta["phase"] == "update" for user in users):
            return gradient
        if len(users) != 1 or users[0].target is not aten.add.Tensor:
            return None
        gradient = users[0]


def _why_not(step: StepGraph, node: fx.Node, site: Site | None, stem: bool, pointwise: bool) -> str | None:
    x, w, _, _, _, _, transposed, _, groups = cast(tuple[Any, ...], node.args)
    inputs: dict[Any, Slot] = dict(zip(step.placeholders, step.inputs, strict=True))
    if w not in inputs or inputs[w].kind is not Kind.PARAMETER:
        return "its weight is computed, not a parameter"
    if site is None:
        return "its weight is not trained, or its gradient goes elsewhere than to the update"
    if transposed or x.meta["val"].dim() != 4:
        return "it is transposed" if transposed else "it is not two-dimensional"
    if x.meta["val"].dtype != torch.float32 or w.meta["val"].dtype != torch.float32:
        return "it is not in float32"
    out, channels, *window = w.meta["val"].shape
    if tuple(x.meta["val"].shape[2:]) == (1, 1):
        return "its input is one position: it is a linear layer"
    area = window[0] * window[1]
    if max(channels, out // groups) * area > MOST_TERMS:
        return f"a sum of more than {MOST_TERMS} products may leave int32"
    if not pointwise and area == 1:
        return "it is 1 x 1 (psg.pointwise)"
    return "it is the stem (psg.stem)" if not stem and _is_first(node) else None


def _is_first(node: fx.Node) -> bool:
    before = live_first(node.all_input_nodes)
    return all(n.target not in (aten.convolution.default, INTEGER_CONVOLUTION) for n in before)
