"""Winograd's kernels against torch in float64."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import winograd
from e2compile.targets.llvm.machine import Machine, host
from e2compile.targets.llvm.winograd_gather import forward, input_gradient
from e2compile.targets.llvm.winograd_gradient import weight_gradient
from tests.targets.contractions import Kernels, check, check_live, check_threads, same

WINOGRAD = Kernels(forward, input_gradient, weight_gradient)
NETWORKS = {
    "resnet20 16": same(3, 32, 16, 16),
    "resnet20 32": same(2, 16, 32, 32),
    "resnet20 64": same(5, 8, 64, 64),
    "vgg 128-256": same(2, 8, 128, 256),
    "vgg 4x4": same(2, 4, 512, 512),
    "odd size": same(3, 9, 20, 24),
    "no padding": Convolution(2, 9, 8, 16, 36, (3, 3)),
    "wide padding": Convolution(2, 5, 6, 24, 16, (3, 3), (1, 1), (2, 0)),
    "one pixel": Convolution(3, 1, 1, 16, 16, (3, 3), (1, 1), (1, 1)),
    "few channels": same(2, 6, 3, 5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_torch_does(name: str) -> None:
    check(WINOGRAD, NETWORKS[name], host())


@pytest.mark.parametrize("machine", [Machine(8, 16, 2), Machine(4, 32, 4), Machine(4, 16, 1)])
def test_computes_the_same_with_other_registers(machine: Machine) -> None:
    check(WINOGRAD, same(3, 9, 18, 20), machine)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    size = st.tuples(st.integers(3, 9), st.integers(3, 9))
    (height, width), channels = draw(size), st.integers(1, 40)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return Convolution(
        draw(st.integers(1, 4)), height, width, draw(channels), draw(channels), (3, 3), (1, 1), padding
    )


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conv=convolutions())
def test_computes_what_torch_does_at_any_shape(conv: Convolution) -> None:
    check(WINOGRAD, conv, host())


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
def test_touches_live_samples_only(live: list[int]) -> None:
    check_live(WINOGRAD, same(7, 7, 16, 20), live)


def test_number_of_threads_changes_no_bit() -> None:
    check_threads(WINOGRAD, same(20, 8, 64, 64))


@pytest.mark.parametrize(
    ("conv", "expected", "weights"),
    [
        (same(8, 8, 16, 16), True, True),
        (same(1, 8, 16, 16), True, False),
        (same(1, 4, 16, 16), False, False),
        (same(64, 4, 16, 16), True, True),
        # 2 x 2 pixels: a direct convolution multiplies no padding, and so no more than the 16 products.
        (same(64, 2, 16, 16), False, False),
        (same(64, 1, 16, 16), False, False),
        (same(8, 8, 8, 16), False, False),
        (same(8, 8, 16, 16, stride=2), False, False),
        (same(8, 8, 32, 32, groups=2), False, False),
        (Convolution(8, 8, 8, 16, 16), False, False),
        (Convolution(8, 8, 8, 16, 16, (3, 3), (1, 1), (2, 2), (2, 2)), False, False),
        (Convolution(8, 8, 8, 16, 16, (5, 5), (1, 1), (2, 2)), False, False),
        (Convolution(8, 8, 8, 16, 16, (3, 3), (1, 1), (3, 3)), False, False),
    ],
)
def test_serves_where_transforms_pay(conv: Convolution, expected: bool, weights: bool) -> None:
    assert winograd.serves(conv) is expected
    assert winograd.serves_weights(conv) is weights
