"""Streams of accumulations: exact, within VTA's rules, and close to what the array can do."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.schedule.accumulate import Schedule
from e2compile.targets.vta.schedule.accumulate_tile import Tile
from e2compile.targets.vta.schedule.scheduler import emitted, streams
from e2compile.targets.vta.schedule.work import Accumulation, Taps
from tests.targets.vta.works import assert_exact, kernel, small

PYNQ, FOUR = config.named("pynq"), config.named("pynq-4x8")


def gradient(
    channels: int, outputs: int, size: tuple[int, int], taps: Taps, stride: int = 1, planes: int = 4
) -> Accumulation:
    """Of a convolution's weights, with just the border that it needs."""
    height, width = size
    down, right = map(max, zip(*taps, strict=True))
    high, wide = (height - 1) * stride + down + 1, (width - 1) * stride + right + 1
    return Accumulation(channels, outputs, high, wide, height, width, taps, (stride, stride), planes)


WORKS = {
    "one product": gradient(1, 1, (1, 1), kernel(1)),
    "two channels": gradient(2, 1, (3, 2), kernel(1)),
    "matrix": gradient(100, 3, (1, 1), kernel(1)),
    "single column": gradient(3, 1, (40, 1), kernel(3, 1)),
    "pointwise": gradient(20, 2, (7, 9), kernel(1)),
    "pointwise, every second": gradient(16, 2, (8, 8), kernel(1), stride=2),
    "every third": gradient(4, 2, (5, 3), kernel(3), stride=3),
    "odd": gradient(19, 3, (11, 13), kernel(3), planes=2),
    "five": gradient(5, 2, (9, 9), kernel(5), stride=2, planes=3),
    "seven": gradient(3, 4, (12, 12), kernel(7), stride=2),
    "tall": gradient(2, 1, (300, 2), kernel(3)),
    "wide": gradient(2, 1, (2, 400), kernel(3)),
    "wider than a scratchpad": gradient(1, 1, (1, 2100), kernel(1, 3)),
    "more sums than accumulators": gradient(64, 8, (3, 3), kernel(3), planes=1),
    "many channels": gradient(512, 1, (2, 2), kernel(1), planes=1),
    "some taps": gradient(6, 2, (6, 6), ((0, 2), (1, 0), (1, 1), (2, 2), (3, 0)), planes=1),
}


@pytest.mark.parametrize("vta", [PYNQ, FOUR], ids=lambda vta: vta.name)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_is_exact(work: Accumulation, vta: config.Config) -> None:
    assert_exact(work, streams(work, vta), vta)


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize("name", ["one product", "matrix", "odd", "five", "more sums than accumulators"])
def test_is_exact_with_gradients_of_several_bytes(name: str, passes: int) -> None:
    work = replace(WORKS[name], passes=passes, planes=4)
    assert_exact(work, streams(work, PYNQ), PYNQ)


SMALL = small(PYNQ, uop=6, inp=9, wgt=12, acc=10)


@settings(max_examples=25, deadline=None)
@given(
    work=st.builds(
        gradient,
        channels=st.integers(1, 6),
        outputs=st.integers(1, 3),
        size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        taps=st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6, unique=True
        ).map(tuple),
        stride=st.integers(1, 3),
        planes=st.integers(2, 4),
    ),
    passes=st.integers(1, 2),
)
def test_is_exact_in_small_scratchpads(work: Accumulation, passes: int) -> None:
    work = replace(work, passes=passes)
    assert_exact(work, streams(work, SMALL), SMALL)


def test_reads_what_lies_in_a_border() -> None:
    work = Accumulation(5, 2, 12, 9, 7, 5, ((2, 1), (2, 3), (4, 1)), (1, 1), 3)
    assert_exact(work, streams(work, PYNQ), PYNQ)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("outputs_first", [False, True])
def test_runs_a_tile_that_is_given(keeps: bool, outputs_first: bool) -> None:
    work = gradient(8, 3, (10, 9), kernel(3))
    tile = Tile(9, 4, 2, 4, 3, 9, keeps, 2, outputs_first, inp_slots=6, wgt_slots=3)
    assert_exact(work, emitted(partial(Schedule, work, PYNQ, tile)), PYNQ)


def test_a_scratchpad_without_room_for_any_part_is_refused() -> None:
    with pytest.raises(UsageError, match="too small"):
        streams(WORKS["odd"], small(PYNQ, acc=6))


LAYERS = {
    "16 channels": (gradient(16, 1, (32, 32), kernel(3)), 1.08),
    "16 to 32": (gradient(16, 2, (16, 16), kernel(3), stride=2), 1.26),  # loads take longer than products
    "32 channels": (gradient(32, 2, (16, 16), kernel(3)), 1.05),
    "32 to 64": (gradient(32, 4, (8, 8), kernel(3), stride=2), 1.12),
    "64 channels": (gradient(64, 4, (8, 8), kernel(3)), 1.08),
}


@pytest.mark.parametrize(("work", "most"), LAYERS.values(), ids=LAYERS)
def test_compute_rarely_waits_in_layers_of_resnet20(work: Accumulation, most: float) -> None:
    (stream,) = streams(work, PYNQ)
    found = timing(stream.instructions, PYNQ)
    assert found.total < most * found.bound
