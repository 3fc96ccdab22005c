"""Loop nests of products, and how an instruction runs one: two hardware loops, micro-ops for the rest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.footprint import DISTANCE

IDLE = DISTANCE - 1  # accumulators that one needs beside it
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

    No two iterations of axes that do not reduce share an accumulator; points share all or none. From `idle`
    there are accumulators that nobody reads, for the case that those of the nest are too few to be safe.
    """

    axes: tuple[Axis, ...]
    points: tuple[Step, ...]
    idle: int

    @property
    def positions(self) -> int:
        """Accumulators."""
        return prod(axis.extent for axis in self.axes if not axis.reduces) * _scatter(self.points)

    def relative(self) -> "Nest":
        """The same from the first point on."""
        base = np.array(self.points[0], np.int64)
        points = tuple((d, s, w) for d, s, w in (np.array(self.points, np.int64) - base).tolist())
        return Nest(self.axes, points, self.idle - int(base[0]) if self.positions < DISTANCE else 0)


@dataclass(frozen=True)
class Plan:
    """`uops` [n, 3] from index 0, run by two loops, the outer first."""

    loops: tuple[Axis, Axis]
    uops: Points


_Choice = tuple[int, tuple[Axis, Axis], list[Axis]]


@lru_cache(maxsize=4096)
def plans(nest: Nest, most: int) -> tuple[Plan, ...]:
    """Instructions of at most `most` micro-ops each. Raises UsageError where that is too few."""
    if most < DISTANCE:
        raise UsageError(f"a UOP buffer of {most} micro-ops is too small: {DISTANCE} at least")
    rest, grid = _grid(nest.points)
    axes = [axis for axis in (*nest.axes, *grid) if axis.extent > 1]
    is_idle = nest.positions < DISTANCE
    candidates = [axes] if is_idle else _splits(axes)
    choices = (choice for split in candidates for choice in _choices(split, rest, is_idle))
    count, loops, inner = min(choices, key=lambda choice: choice[0])
    if count > most:
        return tuple(plan for half in _halves(nest, inner) for plan in plans(half, most))
    return (Plan(loops, _enumerated(nest, rest, inner)),)


def _choices(axes: list[Axis], rest: tuple[Step, ...], is_idle: bool) -> Iterator[_Choice]:
    """Pairs of loops that are safe, with how many micro-ops they need, and the axes that are left."""
    numbers = [*range(len(axes)), None]
    for outer, inner in product(numbers, repeat=2):
        if outer == inner and outer is not None:
            continue
        left = [axis for i, axis in enumerate(axes) if i not in (outer, inner)]
        pair = (Axis(1) if outer is None else axes[outer], Axis(1) if inner is None else axes[inner])
        count = len(rest) * prod(axis.extent for axis in left)
        if max(axis.extent for axis in pair) > _MOST_ITERATIONS:
            continue
        if is_idle and all(axis.reduces for axis in pair):
            yield count * DISTANCE, pair, left
        elif not is_idle and _is_safe(pair, left, rest):
            yield count, pair, left


def _is_safe(pair: tuple[Axis, Axis], left: list[Axis], rest: tuple[Step, ...]) -> bool:
    """Whether no accumulator returns too early: what is innermost does not reduce, and is long enough."""
    distance = _scatter(rest) * prod(axis.extent for axis in left if not axis.reduces)
    if distance >= DISTANCE:
        return True
    if _scatter(rest) < len(rest) or any(axis.reduces for axis in left):
        return False
    for axis in reversed(pair):
        if axis.reduces and axis.extent > 1:
            return distance >= DISTANCE
        distance *= axis.extent
    return True


def _scatter(points: tuple[Step, ...]) -> int:
    """Accumulators of points."""
    return len({point[0] for point in points})


def _enumerated(nest: Nest, rest: tuple[Step, ...], inner: list[Axis]) -> Points:
    """Micro-ops of some axes and points: what reduces outermost, idle ones after each round of the rest."""
    reductions = _offsets(np.zeros((1, 3), np.int64), [axis for axis in inner if axis.reduces])
    bases = (reductions[:, None] + np.array(rest, np.int64)).reshape(-1, 3)
    uops = _offsets(bases, [axis for axis in inner if not axis.reduces])
    if nest.positions >= DISTANCE:
        return uops
    rounds = uops.reshape(-1, nest.positions, 3)
    idle = np.repeat(rounds[:, :1], DISTANCE - nest.positions, axis=1)
    idle[:, :, 0] = nest.idle + np.arange(DISTANCE - nest.positions)
    return np.concatenate([rounds, idle], axis=1).reshape(-1, 3)


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
    points = Axis(len(nest.points), dst=_scatter(nest.points) - 1)
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
        yield Nest(halved, tuple((d, s, w) for d, s, w in points_from), nest.idle)
