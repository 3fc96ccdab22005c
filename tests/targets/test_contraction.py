"""Direct contraction kernels against torch in float64."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.gather import forward, input_gradient
from e2compile.targets.llvm.machine import Machine, host
from e2compile.targets.llvm.weight_gradient import weight_gradient
from tests.targets.contractions import Kernels, check, check_live, check_threads, same

DIRECT = Kernels(forward, input_gradient, weight_gradient)

NETWORKS = {
    "resnet20 stem": same(2, 32, 3, 16),
    "resnet20 16": same(3, 32, 16, 16),
    "resnet20 16-32": same(2, 32, 16, 32, 2),
    "resnet20 32": same(2, 16, 32, 32),
    "resnet20 32-64": same(2, 16, 32, 64, 2),
    "resnet20 64": same(5, 8, 64, 64),
    "resnet20 shortcut": Convolution(2, 16, 16, 32, 64, (1, 1), (2, 2)),
    "resnet18 stem": Convolution(1, 56, 56, 3, 64, (7, 7), (2, 2), (3, 3)),
    "mobilenet depthwise": same(2, 14, 144, 144, 1, 144),
    "mobilenet depthwise s2": same(2, 14, 24, 24, 2, 24),
    "mobilenet depthwise 5x5": Convolution(1, 9, 11, 40, 40, (5, 5), (2, 2), (2, 2), groups=40),
    "mobilenet expand": Convolution(2, 14, 14, 24, 144),
    "mobilenet project": Convolution(3, 7, 7, 144, 24),
    "vgg 4x4": same(2, 4, 512, 512),
    "vgg 2x2": same(3, 2, 512, 512),
    "vgg 1x1": same(5, 1, 512, 512),
    "odd channels": same(2, 9, 7, 13),
    "channels 10-20": same(1, 6, 10, 20),
    "one channel": same(2, 7, 1, 1),
    "groups 4": same(2, 8, 40, 24, 1, 4),
    "channel multiplier": same(2, 8, 6, 18, 2, 6),
    "dilation 2": Convolution(2, 9, 9, 8, 12, (3, 3), (1, 1), (2, 2), (2, 2)),
    "dilation and stride": Convolution(2, 11, 8, 5, 7, (3, 2), (3, 2), (1, 0), (2, 3)),
    "kernel smaller than stride": Convolution(2, 7, 9, 4, 8, (2, 1), (3, 3)),
    "padding beyond the kernel": Convolution(1, 3, 3, 4, 8, (2, 2), (2, 2), (3, 3)),
    "wide image": same(1, 70, 3, 8),
    "linear": Convolution(37, 1, 1, 64, 10),
    "linear, one sample": Convolution(1, 1, 1, 33, 100),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_torch_does(name: str) -> None:
    check(DIRECT, NETWORKS[name], host())


@pytest.mark.parametrize("machine", [Machine(8, 16, 2), Machine(4, 32, 4), Machine(4, 16, 1)])
def test_computes_the_same_with_other_registers(machine: Machine) -> None:
    check(DIRECT, same(3, 9, 10, 20), machine)
    check(DIRECT, same(2, 7, 20, 20, 2, 20), machine)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    groups = draw(st.integers(1, 3))
    (inner, outer), (height, width) = draw(pairs(1, 20)), draw(pairs(1, 12))
    conv = Convolution(
        draw(st.integers(1, 5)), height, width, inner * groups, outer * groups,
        draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(0, 3)), draw(pairs(1, 2)), groups,
    )  # fmt: skip
    assume(conv.out_height > 0 and conv.out_width > 0)
    return conv


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conv=convolutions())
def test_computes_what_torch_does_at_any_shape(conv: Convolution) -> None:
    check(DIRECT, conv, host())


GATED = {
    "images": same(7, 8, 12, 20),
    "strided images": same(7, 8, 12, 20, 2),
    "one row": Convolution(7, 7, 7, 24, 40),
    "depthwise": same(7, 6, 24, 24, 1, 24),
    "linear": Convolution(7, 1, 1, 64, 10),
    "many positions": same(7, 20, 3, 5),
}


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
@pytest.mark.parametrize("name", GATED)
def test_touches_live_samples_only(name: str, live: list[int]) -> None:
    check_live(DIRECT, GATED[name], live)


def test_number_of_threads_changes_no_bit() -> None:
    check_threads(DIRECT, NETWORKS["resnet20 64"])
