"""Streams of both kinds of work: exact, within VTA's rules, and close to what the array can do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.schedule.scheduler import streams
from e2compile.targets.vta.schedule.work import Accumulation, Correlation, Work
from tests.targets.vta.works import assert_exact, convolution, gradient, kernel, small

PYNQ, FOUR = config.named("pynq"), config.named("pynq-4x8")

CONVOLUTIONS = {
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

GRADIENTS = {
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

WORKS: dict[str, Work] = {
    **{f"convolution, {name}": work for name, work in CONVOLUTIONS.items()},
    **{f"gradient, {name}": work for name, work in GRADIENTS.items()},
    "convolution, a border": Correlation(2, 1, 2, 9, 8, 4, 5, ((2, 1), (2, 3), (4, 1)), (1, 1), 3),
    "gradient, a border": Accumulation(5, 2, 12, 9, 7, 5, ((2, 1), (2, 3), (4, 1)), (1, 1), 3),
}


@pytest.mark.parametrize("vta", [PYNQ, FOUR], ids=lambda vta: vta.name)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_is_exact(work: Work, vta: config.Config) -> None:
    assert_exact(work, streams(work, vta), vta)


SMALL = small(PYNQ, uop=6, inp=9, wgt=12, acc=10)
NUMBERS = st.integers(1, 4)
PLACES = {
    "outputs": NUMBERS,
    "size": st.tuples(st.integers(1, 6), st.integers(1, 6)),
    "taps": st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6, unique=True
    ).map(tuple),
    "stride": st.integers(1, 3),
    "planes": st.integers(2, 4),
}


@settings(max_examples=50, deadline=None)
@given(
    work=st.builds(convolution, inputs=NUMBERS, images=st.integers(1, 3), **PLACES)
    | st.builds(gradient, channels=st.integers(1, 6), **PLACES)
)
def test_is_exact_in_small_scratchpads(work: Work) -> None:
    assert_exact(work, streams(work, SMALL), SMALL)


@pytest.mark.parametrize("work", [CONVOLUTIONS["odd"], GRADIENTS["odd"]], ids=["convolution", "gradient"])
def test_a_scratchpad_without_room_for_any_part_is_refused(work: Work) -> None:
    with pytest.raises(UsageError, match="too small"):
        streams(work, small(PYNQ, acc=6))


# The most that layers of ResNet-20 take of the compute stage's own cycles.
LAYERS: dict[str, tuple[Work, float]] = {
    "convolution, 16 channels": (convolution(1, 1, (32, 32), kernel(3), images=16), 1.07),
    "convolution, 16 to 32": (convolution(1, 2, (16, 16), kernel(3), stride=2, images=16), 1.07),
    "convolution, 32 channels": (convolution(2, 2, (16, 16), kernel(3), images=16), 1.07),
    "convolution, 32 to 64": (convolution(2, 4, (8, 8), kernel(3), stride=2, images=16), 1.07),
    "convolution, 64 channels": (convolution(4, 4, (8, 8), kernel(3), images=16, planes=4), 1.07),
    "gradient, 16 channels": (gradient(16, 1, (32, 32), kernel(3)), 1.08),
    # Its loads take longer than its products.
    "gradient, 16 to 32": (gradient(16, 2, (16, 16), kernel(3), stride=2), 1.26),
    "gradient, 32 channels": (gradient(32, 2, (16, 16), kernel(3)), 1.05),
    "gradient, 32 to 64": (gradient(32, 4, (8, 8), kernel(3), stride=2), 1.12),
    "gradient, 64 channels": (gradient(64, 4, (8, 8), kernel(3)), 1.08),
}


@pytest.mark.parametrize(("work", "most"), LAYERS.values(), ids=LAYERS)
def test_compute_rarely_waits_in_layers_of_resnet20(work: Work, most: float) -> None:
    (stream,) = streams(work, PYNQ)
    found = timing(stream.instructions, PYNQ)
    assert found.total < most * found.bound
