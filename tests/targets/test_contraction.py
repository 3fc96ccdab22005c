"""Contraction kernels against torch in float64."""

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
import tvm
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.gather import forward, input_gradient
from e2compile.targets.llvm.machine import Machine, host
from e2compile.targets.llvm.weight_gradient import weight_gradient

Kernel = Callable[..., tvm.tirx.PrimFunc]

SENTINEL = 12345.0
# An fp32 sum of n products errs by at most n * 2**-24 of sum |x w|, and by about sqrt(n) * 2**-24 of the
# result in the norm when signs are random, as here; n is below 2**14 in these tests, so 2e-6 leaves a
# third of that bound, and a lost or doubled term (1 / sqrt(n) or more) is a thousand times larger.
TOLERANCE = 2e-6


def same(batch: int, size: int, inner: int, outer: int, stride: int = 1, groups: int = 1) -> Convolution:
    return Convolution(batch, size, size, inner, outer, (3, 3), (stride, stride), (1, 1), groups=groups)


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


@cache
def built(kernel: Kernel, conv: Convolution, machine: Machine, **options: bool) -> Callable[..., None]:
    return tvm.compile(kernel(conv, machine, name="main", **options), tvm_target())["main"]


def run(function: Callable[..., None], out: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    function(*(tvm.runtime.from_dlpack(tensor.contiguous()) for tensor in (*inputs, out)))
    return out


def operands(conv: Convolution, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (conv.x_shape, conv.weight_shape, conv.y_shape)
    x, weight, dy = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, dy


def reference(
    conv: Convolution, x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, the input gradient and the weight gradient."""
    x, dy = x.double().permute(0, 3, 1, 2), dy.double().permute(0, 3, 1, 2)
    weight = weight.double().permute(3, 2, 0, 1)
    how = (conv.stride, conv.padding, conv.dilation)
    y = torch.nn.functional.conv2d(x, weight, None, *how, conv.groups)
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, *how, False, [0, 0], conv.groups, [True, True, False]
    )
    return y.permute(0, 2, 3, 1), dx.permute(0, 2, 3, 1), dweight.permute(2, 3, 1, 0)


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert not result.isnan().any()
    assert (result - expected).norm() <= TOLERANCE * expected.norm()


def blank(shape: Sequence[int]) -> torch.Tensor:
    return torch.full(tuple(shape), torch.nan)


def check(conv: Convolution, machine: Machine) -> None:
    x, weight, dy = operands(conv)
    y, dx, dweight = reference(conv, x, weight, dy)
    bias = torch.linspace(-1, 1, conv.out_channels)
    start = run(built(forward, conv, machine, bias=True), blank(conv.y_shape), x, weight, bias)
    assert_close(start, y + bias)
    assert_close(run(built(input_gradient, conv, machine), blank(conv.x_shape), dy, weight), dx)
    assert_close(run(built(weight_gradient, conv, machine), blank(conv.weight_shape), x, dy), dweight)


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_torch_does(name: str) -> None:
    check(NETWORKS[name], host())


@pytest.mark.parametrize("machine", [Machine(8, 16, 2), Machine(4, 32, 4), Machine(4, 16, 1)])
def test_computes_the_same_with_other_registers(machine: Machine) -> None:
    check(same(3, 9, 10, 20), machine)
    check(same(2, 7, 20, 20, 2, 20), machine)


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
    check(conv, host())


GATED = {
    "images": same(7, 8, 12, 20),
    "strided images": same(7, 8, 12, 20, 2),
    "one row": Convolution(7, 7, 7, 24, 40),
    "depthwise": same(7, 6, 24, 24, 1, 24),
    "linear": Convolution(7, 1, 1, 64, 10),
    "many positions": same(7, 20, 3, 5),
}


def gate(live: Sequence[int], batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.zeros(batch, dtype=torch.int32)
    index[: len(live)] = torch.tensor(live, dtype=torch.int32)
    return index, torch.tensor([len(live)], dtype=torch.int32)


def only(tensor: torch.Tensor, live: Sequence[int], rest: float) -> torch.Tensor:
    """The live samples as they are, the others filled."""
    result = torch.full_like(tensor, rest)
    result[list(live)] = tensor[list(live)]
    return result


def check_gated(
    kernel: Kernel, conv: Convolution, live: Sequence[int],
    inputs: Sequence[torch.Tensor], expected: torch.Tensor, per_sample: bool,
) -> None:  # fmt: skip
    out = torch.full(tuple(expected.shape), SENTINEL)
    run(built(kernel, conv, host(), gated=True), out, *inputs, *gate(live, conv.batch))
    if not per_sample:
        expected = expected if live else torch.full_like(expected, SENTINEL)
    assert_close(out, only(expected, live, SENTINEL) if per_sample else expected)
    if per_sample:
        skipped = [sample for sample in range(conv.batch) if sample not in live]
        assert (out[skipped] == SENTINEL).all()


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
@pytest.mark.parametrize("name", GATED)
def test_touches_live_samples_only(name: str, live: list[int]) -> None:
    conv = GATED[name]
    x, weight, dy = operands(conv)
    y, dx, dweight = reference(conv, only(x, live, 0.0), weight, only(dy, live, 0.0))
    x, dy = only(x, live, torch.nan), only(dy, live, torch.nan)
    check_gated(forward, conv, live, (x, weight), y, True)
    check_gated(input_gradient, conv, live, (dy, weight), dx, True)
    check_gated(weight_gradient, conv, live, (x, dy), dweight, False)


@pytest.mark.parametrize("kernel", [forward, input_gradient, weight_gradient])
def test_number_of_threads_changes_no_bit(kernel: Kernel) -> None:
    conv = NETWORKS["resnet20 64"]
    x, weight, dy = operands(conv)
    inputs, shape = {
        forward: ((x, weight), conv.y_shape),
        input_gradient: ((dy, weight), conv.x_shape),
        weight_gradient: ((x, dy), conv.weight_shape),
    }[kernel]
    configure = tvm.get_global_func("runtime.config_threadpool")
    results = []
    for threads in (1, 2, 0):  # 0 is TVM's own choice, and restores it
        configure(1, threads)
        results.append(run(built(kernel, conv, host()), blank(shape), *inputs))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
