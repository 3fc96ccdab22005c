"""Access: where in memory the instructions of a loop read and write."""

from functools import cache
from typing import Any

import torch

from e2compile.lower.kinds import ASSEMBLIES
from e2compile.lower.loop import Compute, Load, Loop, View
from e2compile.lower.views import VIEWS, Index, Shape, broadcast, squeezed
from e2compile.ops import UNIFORM

aten = torch.ops.aten

_RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
_POSITIONAL = (UNIFORM, aten.scatter.value, aten.arange.start_step, *ASSEMBLIES)


def full(index: Index, shape: Shape) -> Index:
    """An index over all dimensions from one over those that are not one."""
    rest = iter(index)
    return [0 if size == 1 else next(rest) for size in shape]


def source_index(load: Load, index: Index) -> Index:
    """The buffer index that a load reads at a loop index."""
    place = full(index, load.out)
    for window in load.windows:
        place[window.dim] = (place[window.dim] - window.start) // window.step
    return held_index(load, broadcast(place, load.shape))


def held_index(load: Load, place: Index) -> Index:
    """The buffer index behind a place of what the load's views show."""
    for view in load.views:
        place = VIEWS[view.op](place, view.out, view.source, view.arguments)
    return [i for i, size in zip(place, load.source, strict=True) if size != 1]


def is_affine(instruction: Load | Compute) -> bool:
    """Whether an instruction needs only linear addresses, not the place along each dimension."""
    if isinstance(instruction, Compute):
        return instruction.op not in _POSITIONAL
    if instruction.computed is not None or instruction.windows:
        return False
    return all(_is_affine_view(view) for view in instruction.views)


def _is_affine_view(view: View) -> bool:
    if view.op in _RESHAPES:
        return squeezed(view.out) == squeezed(view.source)
    return view.op is not aten.repeat.default


def probe(address: Any, rank: int) -> tuple[int, tuple[int, ...]]:
    """Offset and stride of each dimension of a linear address, found by asking it."""
    offset = int(address([0] * rank))
    units = ([int(d == k) for d in range(rank)] for k in range(rank))
    return offset, tuple(int(address(unit)) - offset for unit in units)


@cache
def strides(loop: Loop, load: Load) -> tuple[int, tuple[int, ...]]:
    """Offset and strides of an affine load over the loop's dimensions."""
    buffer = loop.buffers[load.buffer]
    return probe(lambda index: buffer.address(source_index(load, index)), len(loop.shape))
