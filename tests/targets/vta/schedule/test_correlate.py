"""Streams of correlations: exact, within VTA's rules, and close to what the array can do."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.instructions import AluOp, Memory, Transfer
from e2compile.targets.vta.schedule.correlate import Schedule
from e2compile.targets.vta.schedule.correlate_tile import Tile
from e2compile.targets.vta.schedule.scheduler import emitted, streams
from e2compile.targets.vta.schedule.work import Correlation, Taps
from tests.targets.vta.works import assert_exact, kernel, operands, run, small, sums

PYNQ, FOUR = config.named("pynq"), config.named("pynq-4x8")


def convolution(
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    taps: Taps,
    stride: int = 1,
    images: int = 1,
    planes: int = 3,
) -> Correlation:
    """With just the border that it needs."""
    height, width = size
    down, right = map(max, zip(*taps, strict=True))
    high, wide = (height - 1) * stride + down + 1, (width - 1) * stride + right + 1
    return Correlation(inputs, outputs, images, high, wide, height, width, taps, (stride, stride), planes)


WORKS = {
    "one product": convolution(1, 1, (1, 1), kernel(1)),
    "two products": convolution(2, 1, (1, 1), kernel(1)),
    "two positions": convolution(3, 1, (1, 2), kernel(1)),
    "matrix": convolution(9, 7, (1, 1), kernel(1), images=16),
    "row times matrix": convolution(32, 32, (1, 1), kernel(1)),
    "single pixel": convolution(2, 2, (1, 1), kernel(3)),
    "pointwise": convolution(2, 4, (7, 9), kernel(1), images=3),
    "pointwise, every second": convolution(2, 4, (8, 8), kernel(1), stride=2, images=3),
    "every third": convolution(1, 2, (5, 3), kernel(3), stride=3, images=2),
    "odd": convolution(3, 3, (11, 13), kernel(3), images=5, planes=4),
    "five": convolution(2, 1, (9, 9), kernel(5), stride=2),
    "seven": convolution(1, 2, (12, 12), kernel(7), stride=2, images=2),
    "tall": convolution(1, 1, (150, 2), kernel(3)),
    "wide": convolution(1, 1, (2, 700), kernel(3)),
    "wider than a scratchpad": convolution(1, 1, (1, 2100), kernel(1, 3), planes=1),
    "many blocks": convolution(32, 20, (3, 3), kernel(3), planes=2),
    "more weights than fit": convolution(12, 12, (4, 4), kernel(3), images=2, planes=1),
    "even rows, odd columns": convolution(2, 2, (8, 8), ((0, 0), (0, 1)), images=2),
    "some taps": convolution(2, 2, (6, 6), ((0, 2), (1, 0), (1, 1), (2, 2), (3, 0)), images=2, planes=1),
    "four planes": convolution(1, 1, (16, 16), kernel(3), images=4, planes=4),
}


@pytest.mark.parametrize("vta", [PYNQ, FOUR], ids=lambda vta: vta.name)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_is_exact(work: Correlation, vta: config.Config) -> None:
    assert_exact(work, streams(work, vta), vta)


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize("name", ["one product", "matrix", "odd", "five", "more weights than fit"])
def test_is_exact_with_inputs_of_several_bytes(name: str, passes: int) -> None:
    work = replace(WORKS[name], passes=passes, planes=4)
    assert_exact(work, streams(work, PYNQ), PYNQ)


SMALL = small(PYNQ, uop=6, inp=9, wgt=12, acc=10)


@settings(max_examples=25, deadline=None)
@given(
    work=st.builds(
        convolution,
        inputs=st.integers(1, 4),
        outputs=st.integers(1, 4),
        size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        taps=st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6, unique=True
        ).map(tuple),
        stride=st.integers(1, 3),
        images=st.integers(1, 3),
        planes=st.integers(2, 4),
    ),
    passes=st.integers(1, 2),
)
def test_is_exact_in_small_scratchpads(work: Correlation, passes: int) -> None:
    work = replace(work, passes=passes)
    assert_exact(work, streams(work, SMALL), SMALL)


def test_reads_what_lies_in_a_border() -> None:
    work = Correlation(2, 1, 2, 9, 8, 4, 5, ((2, 1), (2, 3), (4, 1)), (1, 1), 3)
    assert_exact(work, streams(work, PYNQ), PYNQ)


def test_micro_ops_that_do_not_fit_are_loaded_again() -> None:
    work = convolution(4, 4, (8, 8), kernel(3), images=2)
    few = small(PYNQ, uop=7)
    (stream,) = streams(work, few)
    loads = [i for i in stream.instructions if isinstance(i, Transfer) and i.memory is Memory.UOP]
    assert len([i for i in loads if not i.is_idle]) > 1
    assert_exact(work, [stream], few)


def test_a_scratchpad_without_room_for_any_part_is_refused() -> None:
    with pytest.raises(UsageError, match="too small"):
        streams(WORKS["odd"], small(PYNQ, acc=6))


def test_runs_a_tile_and_an_epilogue_that_are_given() -> None:
    work = convolution(2, 4, (10, 9), kernel(3), planes=1)
    tile = Tile(outputs=2, images=1, height=4, width=9, inputs=1, taps=9)
    epilogue = ((AluOp.SHR, 8), (AluOp.ADD, 3), (AluOp.MAX, 0), (AluOp.MIN, 127))
    inp, wgt = operands(work, PYNQ)
    begin = partial(Schedule, work, PYNQ, tile)
    out = run(emitted(begin, epilogue), PYNQ, inp, wgt, work.out_shape)
    assert (out[0] == ((sums(work, inp, wgt) >> 8) + 3).clip(0, 127)).all()


LAYERS = {
    "16 channels": convolution(1, 1, (32, 32), kernel(3), images=16),
    "16 to 32": convolution(1, 2, (16, 16), kernel(3), stride=2, images=16),
    "32 channels": convolution(2, 2, (16, 16), kernel(3), images=16),
    "32 to 64": convolution(2, 4, (8, 8), kernel(3), stride=2, images=16),
    "64 channels": convolution(4, 4, (8, 8), kernel(3), images=16, planes=4),
}


@pytest.mark.parametrize("work", LAYERS.values(), ids=LAYERS)
def test_compute_rarely_waits_in_layers_of_resnet20(work: Correlation) -> None:
    (stream,) = streams(work, PYNQ)
    found = timing(stream.instructions, PYNQ)
    assert found.total < 1.07 * found.bound


@pytest.mark.parametrize("work", LAYERS.values(), ids=LAYERS)
def test_compute_rarely_waits_between_two_passes(work: Correlation) -> None:
    twice = replace(work, passes=2, planes=4)
    (stream,) = streams(twice, PYNQ)
    found = timing(stream.instructions, PYNQ)
    assert found.total < 1.08 * found.bound
