"""Views: ATen calls that move no data, as maps from an index of the result to an index of the source."""

# ruff: noqa: ARG001 - all maps take the same arguments

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from e2compile.ops import GUARD

aten = torch.ops.aten

# An index is a list of Python integers or of TIR expressions: the maps use + * // % only.
Index = list[Any]
Shape = tuple[int, ...]
Arguments = tuple[Any, ...]
Map = Callable[[Index, Shape, Shape, Arguments], Index]


def _reshape(index: Index, out: Shape, source: Shape, _: Arguments) -> Index:
    linear: Any = 0
    for i, size in zip(index, out, strict=True):
        linear = linear * size + i if size != 1 else linear
    result: Index = []
    for size in reversed(source):
        result.append(0 if size == 1 else linear % size)
        linear = linear // size
    return result[::-1]


def _squeezing(index: Index, out: Shape, source: Shape, _: Arguments) -> Index:
    kept = iter([i for i, size in zip(index, out, strict=True) if size != 1])
    return [0 if size == 1 else next(kept) for size in source]


def _view(index: Index, out: Shape, source: Shape, arguments: Arguments) -> Index:
    same = [s for s in out if s != 1] == [s for s in source if s != 1]
    return (_squeezing if same else _reshape)(index, out, source, arguments)


def _expand(index: Index, out: Shape, source: Shape, _: Arguments) -> Index:
    tail = index[len(out) - len(source) :]
    return [0 if size == 1 else i for i, size in zip(tail, source, strict=True)]


def _permute(index: Index, out: Shape, source: Shape, arguments: Arguments) -> Index:
    result: Index = [0] * len(source)
    for i, d in zip(index, arguments[0], strict=True):
        result[d] = i
    return result


def _t(index: Index, out: Shape, source: Shape, _: Arguments) -> Index:
    return index[::-1]


def _transpose(index: Index, out: Shape, source: Shape, arguments: Arguments) -> Index:
    result = list(index)
    a, b = arguments
    result[a], result[b] = result[b], result[a]
    return result


def _select(index: Index, out: Shape, source: Shape, arguments: Arguments) -> Index:
    dim, position = arguments
    dim, position = dim % len(source), position % source[dim]
    return [*index[:dim], position, *index[dim:]]


def _slice(index: Index, out: Shape, source: Shape, arguments: Arguments) -> Index:
    given: tuple[Any, ...] = (*arguments, *(0, None, None, 1)[len(arguments) :])
    dim, start, _, step = given
    start = min(max(start + source[dim] if (start or 0) < 0 else start or 0, 0), source[dim])
    return [start + i * step if d == dim % len(source) else i for d, i in enumerate(index)]


def _repeat(index: Index, out: Shape, source: Shape, _: Arguments) -> Index:
    tail = index[len(out) - len(source) :]
    return [i % size for i, size in zip(tail, source, strict=True)]


def _flip(index: Index, out: Shape, source: Shape, arguments: Arguments) -> Index:
    flipped = {d % len(source) for d in arguments[0]}
    return [source[d] - 1 - i if d in flipped else i for d, i in enumerate(index)]


def _guard(index: Index, out: Shape, source: Shape, _: Arguments) -> Index:
    return index


VIEWS: dict[OpOverload, Map] = {
    GUARD: _guard,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten.unsqueeze.default: _squeezing,
    aten.squeeze.default: _squeezing,
    aten.squeeze.dim: _squeezing,
    aten.squeeze.dims: _squeezing,
    aten.expand.default: _expand,
    aten.permute.default: _permute,
    aten.t.default: _t,
    aten.transpose.int: _transpose,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.repeat.default: _repeat,
    aten.flip.default: _flip,
}


def squeezed(shape: Sequence[int]) -> Shape:
    """A shape without its dimensions of one."""
    return tuple(s for s in shape if s != 1)


def shape_of(node: fx.Node) -> Shape:
    return tuple(node.meta["val"].shape)


def apply(view: fx.Node, index: Index) -> Index:
    """The index of the view's source that an index of its result reads."""
    source = view.args[0]
    return VIEWS[view.target](index, shape_of(view), shape_of(source), tuple(view.args[1:]))  # type: ignore


def broadcast(index: Index, shape: Shape) -> Index:
    """The index of an operand of `shape` that an element-wise result reads at `index`."""
    return _expand(index, tuple(index), shape, ())


def is_identity(view: fx.Node) -> bool:
    """Whether a view keeps every element's place, dimensions of one aside."""
    out, source = shape_of(view), shape_of(view.args[0])  # type: ignore[arg-type]
    if squeezed(out) != squeezed(source):
        return False
    for position in [None, *(d for d, size in enumerate(out) if size != 1)]:
        index = [int(d == position) for d in range(len(out))]
        read = [i for i, size in zip(apply(view, index), source, strict=True) if size != 1]
        if read != [i for i, size in zip(index, out, strict=True) if size != 1]:
            return False
    return True


def source_of(node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """The node that holds the data behind a chain of views, and the chain, outermost first."""
    chain: list[fx.Node] = []
    while node.op == "call_function" and node.target in VIEWS:
        chain.append(node)
        node = node.args[0]  # type: ignore[assignment]
    return node, tuple(chain)
