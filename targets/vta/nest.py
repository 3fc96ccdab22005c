"""Loop nests of products, and how an instruction runs one: two hardware loops, micro-ops for the rest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError

# An accumulation is lost where an accumulator returns within fewer micro-ops, as the hardware's RTL shows.
DISTANCE = 3
_MOST_ITERATIONS = (1 << 14) - 1

Step = tuple[int, int, int]  # of an accumulator, an input and a weight index
Points = NDArray[np.int64]  # [points, 3]


@dataclass(frozen=True)
class Axis:
    """A loop, and what one iteration adds to the index of each operand."""

    extent: int
    dst: int = 0
    src: int = 0
    wgt: int = 0

    @property
    def step(self) -> Step:
        return self.dst, self.src, self.wgt

    @property
    def reduces(self) -> bool:
        return self.dst == 0


@dataclass(frozen=True)
class Nest:
    """A product for each iteration of the axes and each point, an offset. The order is free.

    No two iterations of axes that do not reduce share an accumulator; points share all or none.
    """

    axes: tuple[Axis, ...]
    points: tuple[Step, ...] = ((0, 0, 0),)


@dataclass(frozen=True)
class Plan:
    """`uops` [n, 3] from index 0, run by two loops, the outer first."""

    loops: tuple[Axis, Axis]
    uops: Points


def padded(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Axes that also multiply into idle accumulators behind their own, if those are too few to be safe."""
    positions = prod(axis.extent for axis in axes if not axis.reduces)
    if positions >= DISTANCE:
        return axes
    return (*axes, Axis(-(-DISTANCE // positions), dst=positions))


@lru_cache(maxsize=4096)
def plans(nest: Nest, most: int) -> tuple[Plan, ...]:
    """Instructions of at most `most` micro-ops each. Raises UsageError where there is none that is safe."""
    axes = [axis for axis in nest.axes if axis.extent > 1]
    rest, grid = _grid(nest.points)
    found = min(
        (
            (count, i, pair, inner)
            for i, split in enumerate(_splits([*axes, *grid]))
            for count, pair, inner in _pairs(split, rest)
        ),
        key=lambda entry: entry[:2],
        default=None,
    )
    if found is None:
        raise UsageError(f"no order keeps an accumulator {DISTANCE} micro-ops apart: {nest}")
    count, _, loops, inner = found
    if count > most:
        return tuple(plan for half in _halves(nest, inner) for plan in plans(half, most))
    reductions = _offsets(np.zeros((1, 3), np.int64), [axis for axis in inner if axis.reduces])
    bases = (reductions[:, None] + np.array(rest, np.int64)).reshape(-1, 3)
    return (Plan(loops, _offsets(bases, [axis for axis in inner if not axis.reduces])),)


def _pairs(axes: list[Axis], rest: tuple[Step, ...]) -> Iterator[tuple[int, tuple[Axis, Axis], list[Axis]]]:
    """Choices of two loops that are safe: their number of micro-ops, the loops, and what is left."""
    choices = [*range(len(axes)), None]
    for outer, inner in product(choices, repeat=2):
        if outer == inner and outer is not None:
            continue
        left = [axis for i, axis in enumerate(axes) if i not in (outer, inner)]
        pair = tuple(Axis(1) if i is None else axes[i] for i in (outer, inner))
        if max(pair[0].extent, pair[1].extent) > _MOST_ITERATIONS or not _is_safe(pair, left, rest):
            continue
        yield len(rest) * prod(axis.extent for axis in left), (pair[0], pair[1]), left


def _is_safe(pair: tuple[Axis, ...], left: list[Axis], rest: tuple[Step, ...]) -> bool:
    scatter = len({point[0] for point in rest})
    distance = scatter * prod(axis.extent for axis in left if not axis.reduces)
    if distance >= DISTANCE:
        return True
    if scatter < len(rest) or any(axis.reduces for axis in left):
        return False
    for axis in reversed(pair):
        if axis.reduces and axis.extent > 1:
            return distance >= DISTANCE
        distance *= axis.extent
    return True


def _splits(axes: list[Axis]) -> Iterator[list[Axis]]:
    """The axes, and with one of them as two."""
    yield axes
    for i, axis in enumerate(axes):
        for inner in range(2, axis.extent if not axis.reduces else 0):
            if axis.extent % inner == 0:
                outer = Axis(axis.extent // inner, *(inner * step for step in axis.step))
                yield [*axes[:i], outer, replace(axis, extent=inner), *axes[i + 1 :]]


def _grid(points: tuple[Step, ...]) -> tuple[tuple[Step, ...], list[Axis]]:
    """Points as fewer points and axes, where steps are even and not negative."""
    array = np.array(points, np.int64)
    for count in range(len(points), 1, -1):
        if len(points) % count:
            continue
        rows = array.reshape(-1, count, 3)
        step = rows[0, 1] - rows[0, 0]
        if step.min() >= 0 and np.array_equal(rows, rows[:, :1] + np.arange(count)[:, None] * step):
            rest, axes = _grid(points[::count])
            return rest, [*axes, Axis(count, *map(int, step))]
    return points, []


def _offsets(points: Points, axes: list[Axis]) -> Points:
    """All sums of a point and a step of each axis, the last axis fastest."""
    result = points
    for axis in axes:
        steps = np.arange(axis.extent)[:, None] * np.array(axis.step, np.int64)
        result = (result[:, None] + steps).reshape(-1, 3)
    return result


def _halves(nest: Nest, inner: list[Axis]) -> Iterator[Nest]:
    """Two nests that do the work of one: with less of the reduction for micro-ops to enumerate, if any."""
    points = Axis(len(nest.points), dst=len({point[0] for point in nest.points}) - 1)
    axes = [axis for axis in nest.axes if axis in inner] or nest.axes
    axis = max((points, *axes), key=lambda a: (a.reduces and a.extent > 1, a.extent))
    if axis is points:
        middle = len(nest.points) // 2
        yield replace(nest, points=nest.points[:middle])
        yield replace(nest, points=nest.points[middle:])
        return
    at = nest.axes.index(axis)
    first = axis.extent // 2
    for begin, extent in ((0, first), (first, axis.extent - first)):
        halved = (*nest.axes[:at], replace(axis, extent=extent), *nest.axes[at + 1 :])
        shift = tuple(begin * step for step in axis.step)
        points_from = (tuple(np.add(point, shift).tolist()) for point in nest.points)
        yield Nest(halved, tuple((d, s, w) for d, s, w in points_from))
