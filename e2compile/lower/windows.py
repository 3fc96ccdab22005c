"""Assemblies: where in the result of a concatenation, a padding or a slice's update each operand lies."""

from itertools import accumulate
from typing import Any

import torch
from torch import fx

from e2compile.lower.loop import Window
from e2compile.lower.views import shape_of

aten = torch.ops.aten

Part = tuple[fx.Node, tuple[Window, ...]]


def windows(node: fx.Node) -> tuple[list[Part], Any]:
    """Operands with their windows, and what is elsewhere: an operand as large as the result, or a number."""
    if node.target is aten.cat.default:
        return _concatenated(*node.args)  # type: ignore[arg-type]
    if node.target is aten.constant_pad_nd.default:
        return _padded(*node.args)  # type: ignore[arg-type]
    return _updated(*node.args)  # type: ignore[arg-type]


def _concatenated(operands: list[fx.Node], dim: int = 0) -> tuple[list[Part], Any]:
    sizes = [shape_of(operand)[dim] for operand in operands]
    starts = [0, *accumulate(sizes)]
    dim = dim % len(shape_of(operands[0]))
    places = [(Window(dim, start, size),) for start, size in zip(starts, sizes, strict=False)]
    return list(zip(operands, places, strict=True)), 0


def _padded(x: fx.Node, padding: list[int], value: float = 0) -> tuple[list[Part], Any]:
    """`padding` holds low and high of the last dimension, then of the one before."""
    shape = shape_of(x)
    lows = {len(shape) - 1 - i: low for i, low in enumerate(padding[::2])}
    return [(x, tuple(Window(d, low, shape[d]) for d, low in lows.items()))], value


def _updated(x: fx.Node, source: fx.Node, dim: int = 0, *bounds: int) -> tuple[list[Part], Any]:
    given: tuple[Any, ...] = (*bounds, *(None, None, 1)[len(bounds) :])
    start, _, step = given
    dim, size = dim % len(shape_of(x)), shape_of(x)[dim]
    start = min(max(start + size if (start or 0) < 0 else start or 0, 0), size)
    return [(source, (Window(dim, start, shape_of(source)[dim], step),))], x
