"""Products of single pixels' channels against torch in float64."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import product_gather_plan
from e2compile.targets.llvm.machine import Machine, host
from e2compile.targets.llvm.product_gather import forward, input_gradient
from e2compile.targets.llvm.product_gradient import weight_gradient
from tests.targets.contractions import Kernels, built, check, check_live, check_threads

PRODUCT = Kernels(forward, input_gradient, weight_gradient)
NETWORKS = {
    "mobilenet expand": Convolution(2, 14, 14, 24, 144),
    "mobilenet project": Convolution(3, 7, 7, 144, 24),
    "mobilenet last": Convolution(5, 4, 4, 320, 1280),
    "resnet50 middle": Convolution(2, 8, 8, 256, 64),
    "several blocks": Convolution(2, 32, 32, 16, 20),
    "few channels": Convolution(9, 7, 9, 3, 5),
    "one channel": Convolution(2, 7, 7, 1, 1),
    "linear": Convolution(37, 1, 1, 64, 10),
    "linear, one sample": Convolution(1, 1, 1, 33, 100),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_torch_does(name: str) -> None:
    check(PRODUCT, NETWORKS[name], host())


@pytest.mark.parametrize("machine", [Machine(8, 16, 2), Machine(4, 32, 4), Machine(4, 16, 1)])
def test_computes_the_same_with_other_registers(machine: Machine) -> None:
    check(PRODUCT, Convolution(3, 9, 9, 20, 30), machine)
    check(PRODUCT, Convolution(3, 9, 9, 70, 6), machine)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    size, channels = st.integers(1, 12), st.integers(1, 70)
    return Convolution(draw(st.integers(1, 5)), draw(size), draw(size), draw(channels), draw(channels))


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conv=convolutions())
def test_computes_what_torch_does_at_any_shape(conv: Convolution) -> None:
    check(PRODUCT, conv, host())


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
@pytest.mark.parametrize("conv", [Convolution(7, 1, 1, 64, 10), Convolution(7, 12, 12, 24, 40)], ids=str)
def test_touches_live_samples_only(conv: Convolution, live: list[int]) -> None:
    check_live(PRODUCT, conv, live)


def test_number_of_threads_changes_no_bit() -> None:
    check_threads(PRODUCT, Convolution(20, 8, 8, 64, 40))


@pytest.mark.parametrize("live", [[6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
def test_large_targets_go_past_the_caches(monkeypatch: pytest.MonkeyPatch, live: list[int]) -> None:
    monkeypatch.setattr(product_gather_plan, "_STREAMED_BYTES", 0)
    conv = Convolution(7, 3, 5, 32, 48)
    assert product_gather_plan.product_plan(conv, host(), False).is_streamed
    built.cache_clear()
    check(PRODUCT, conv, host())
    check_live(PRODUCT, conv, live)
