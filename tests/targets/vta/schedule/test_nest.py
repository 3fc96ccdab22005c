"""Nests run each of their products once, in an order that is safe, with no more micro-ops than there are."""

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.footprint import DISTANCE
from e2compile.targets.vta.schedule.nest import Axis, Nest, Plan, Step, plans

IDLE = 1000


def products(nest: Nest) -> Iterator[Step]:
    for point in nest.points:
        for steps in product(*(range(axis.extent) for axis in nest.axes)):
            moved = [n * np.array(axis.step) for n, axis in zip(steps, nest.axes, strict=True)]
            dst, src, wgt = map(int, sum(moved, np.array(point)))
            yield dst, src, wgt


def executed(plan: Plan) -> Iterator[Step]:
    outer, inner = plan.loops
    for i, j in product(range(outer.extent), range(inner.extent)):
        for uop in plan.uops + i * np.array(outer.step) + j * np.array(inner.step):
            dst, src, wgt = map(int, uop)
            yield dst, src, wgt


def is_safe(accumulators: list[int]) -> bool:
    return all(
        a != b for d in range(1, DISTANCE) for a, b in zip(accumulators, accumulators[d:], strict=False)
    )


@st.composite
def nests(draw: st.DrawFn) -> Nest:
    """Positions in a row, sums over two axes and points that share their accumulators, or have their own."""
    extent = st.integers(1, 6)
    rows, columns, outputs = draw(extent), draw(extent), draw(st.integers(1, 3))
    axes = (
        Axis(outputs, dst=rows * columns, wgt=50),
        Axis(rows, dst=columns, src=9),
        Axis(columns, dst=1, src=draw(st.integers(0, 2))),
        Axis(draw(extent), src=40, wgt=draw(st.integers(0, 9))),
        Axis(draw(extent), src=7),
    )
    sources = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True))
    own = rows * columns * outputs if draw(st.booleans()) else 0
    return Nest(axes, tuple((i * own, source, i) for i, source in enumerate(sources)), IDLE)


@settings(deadline=None)
@given(nest=nests(), most=st.sampled_from([8, 16, 8192]))
def test_every_product_runs_once_and_no_accumulator_returns_too_early(nest: Nest, most: int) -> None:
    found = plans(nest, most)
    assert all(0 < len(plan.uops) <= most for plan in found)
    runs = [list(executed(plan)) for plan in found]
    done = Counter(step for run in runs for step in run if step[0] < IDLE)
    assert done == Counter(products(nest))
    assert all(is_safe([dst for dst, _, _ in run]) for run in runs)


def test_a_convolution_takes_two_loops_and_few_micro_ops() -> None:
    taps = tuple((0, 34 * i + j, 3 * i + j) for i in range(3) for j in range(3))
    image = Nest((Axis(32, dst=32, src=34), Axis(32, dst=1, src=1)), taps, IDLE)
    (plan,) = plans(image, 8192)
    assert len(plan.uops) <= 36


def test_a_buffer_of_too_few_micro_ops_is_refused() -> None:
    with pytest.raises(UsageError, match="too small"):
        plans(Nest((Axis(2, dst=1), Axis(5, src=1)), ((0, 0, 0),), IDLE), 2)


@pytest.mark.parametrize("long", [Axis(17_000, src=1), Axis(17_000, dst=3, src=1)])
def test_a_loop_longer_than_a_field_holds_becomes_several(long: Axis) -> None:
    nest = Nest((Axis(3, dst=1, wgt=1), long), ((IDLE, 0, 0),), 0)
    found = plans(nest, 8192)
    assert all(axis.extent < 1 << 14 for plan in found for axis in plan.loops)
    assert all(len(plan.uops) <= 8192 for plan in found)
    assert Counter(step for plan in found for step in executed(plan)) == Counter(products(nest))
