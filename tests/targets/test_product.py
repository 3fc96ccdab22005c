"""Products of single pixels' channels against torch in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm import product, product_gather_plan
from e2compile.targets.llvm.machine import Machine, host
from e2compile.targets.llvm.product_gather import forward, input_gradient
from e2compile.targets.llvm.product_gradient import weight_gradient
from tests.targets.contractions import (
    Kernels,
    assert_close,
    blank,
    built,
    check,
    check_gated,
    check_live,
    check_threads,
    only,
    operands,
    reference,
    run,
    same,
)

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


WINDOWS = {
    "vgg stem": same(2, 9, 3, 64),
    "resnet18 stem": Convolution(2, 20, 21, 3, 64, (7, 7), (2, 2), (3, 3)),
    "mobilenet stem": same(3, 12, 3, 32, 2),
    "no padding": Convolution(2, 9, 7, 4, 33, (2, 3)),
    "padding beyond the kernel": Convolution(2, 3, 4, 1, 40, (2, 2), (1, 1), (3, 3)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_sums_windows_of_few_channels(name: str) -> None:
    conv = WINDOWS[name]
    x, weight, dy = operands(conv)
    *_, dweight = reference(conv, x, weight, dy)
    for machine in (host(), Machine(8, 16, 2)):
        out = run(built(weight_gradient, conv, machine), blank(conv.weight_shape), x, dy)
        assert_close(out, dweight)


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2]], ids=len)
def test_sums_windows_of_live_samples_only(live: list[int]) -> None:
    conv = same(7, 9, 3, 40)
    x, weight, dy = operands(conv)
    *_, dweight = reference(conv, only(x, live, 0.0), weight, only(dy, live, 0.0))
    inputs = only(x, live, torch.nan), only(dy, live, torch.nan)
    check_gated(weight_gradient, conv, live, inputs, dweight, False)


@pytest.mark.parametrize(
    ("conv", "expected", "weights"),
    [
        (Convolution(8, 8, 8, 16, 24), True, True),
        (Convolution(128, 1, 1, 512, 10), True, True),
        (Convolution(8, 1, 1, 512, 10), False, False),
        (Convolution(8, 8, 8, 16, 24, stride=(2, 2)), False, False),
        (Convolution(8, 8, 8, 16, 24, groups=2), False, False),
        (Convolution(8, 8, 8, 16, 24, padding=(1, 1)), False, False),
        (same(8, 8, 3, 64), False, True),
        (same(8, 8, 3, 8), False, False),
        (same(8, 8, 16, 64), False, False),
        (same(8, 8, 4, 64, groups=4), False, False),
        (Convolution(8, 8, 8, 3, 64, (3, 3), dilation=(2, 2)), False, False),
    ],
    ids=str,
)
def test_serves_what_is_a_product(conv: Convolution, expected: bool, weights: bool) -> None:
    assert product.serves(conv) is expected
    assert product.serves_weights(conv, Machine(16, 32, 2)) is weights


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
@pytest.mark.parametrize(
    "conv",
    [Convolution(7, 1, 1, 64, 10), Convolution(7, 12, 12, 24, 40), Convolution(7, 5, 5, 24, 40)],
    ids=str,
)
def test_touches_live_samples_only(conv: Convolution, live: list[int]) -> None:
    check_live(PRODUCT, conv, live)


def test_number_of_threads_changes_no_bit() -> None:
    check_threads(PRODUCT, Convolution(20, 8, 8, 64, 40))


@pytest.mark.parametrize("live", [[6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
def test_large_targets_go_past_the_caches(monkeypatch: pytest.MonkeyPatch, live: list[int]) -> None:
    monkeypatch.setattr(product_gather_plan, "_STREAMED_BYTES", 0)
    conv = Convolution(7, 3, 5, 32, 48)
    assert product_gather_plan.product_plan(conv, host(), False, False).is_streamed
    built.cache_clear()
    check(PRODUCT, conv, host())
    check_live(PRODUCT, conv, live)
