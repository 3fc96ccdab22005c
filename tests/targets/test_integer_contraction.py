"""Integer contraction kernels against torch in float64, bit for bit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2compile.errors import CompileError
from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.integer_gather import integer_convolution, integer_input_gradient
from e2compile.targets.llvm.integer_gradient import integer_weight_gradient
from e2compile.targets.llvm.machine import Dot, Machine, host, named
from e2compile.targets.llvm.scaled_gather import (
    planes_input_gradient,
    scaled_convolution,
    scaled_input_gradient,
)
from tests.targets.contractions import built, gate, only, reference, run, same
from tests.targets.test_contraction import GATED, NETWORKS, convolutions

SENTINEL = 12345
INT32 = torch.iinfo(torch.int32)
PLAIN = replace(host(), dots=Dot.NONE)
# The kernels of a CPU with NEON and SDOT, as this one can run them.
ARM = named("aarch64-linux-gnu:cortex-a76").emulated()
# Those of a CPU with AVX2 alone, likewise.
AVX2 = named("x86_64-linux-gnu:x86-64-v3").emulated()
MACHINES = {"host": host(), "plain": PLAIN, "narrow": Machine(8, 16, 2), "arm": ARM, "avx2": AVX2}


def draw(shape: Sequence[int], signed: bool, generator: torch.Generator) -> torch.Tensor:
    low, high, dtype = (-128, 128, torch.int8) if signed else (0, 256, torch.uint8)
    return torch.randint(low, high, tuple(shape), generator=generator).to(dtype)


def operands(conv: Convolution, signed: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((conv.x_shape, signed), (conv.weight_shape, True), (conv.y_shape, True))
    x, weight, dy = (draw(*shape, generator) for shape in shapes)
    return x, weight, dy


STEP = torch.tensor(0.0123)


def scaled(exact: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Exact sums as e2.scaled_convolution has them."""
    return (exact.to(torch.float32) * STEP).to(dtype)


def combined(high: torch.Tensor, low: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Exact sums of the two planes as e2.planes_input_gradient has them."""
    return ((256 * high.to(torch.float32) + low.to(torch.float32)) * STEP).to(dtype)


def planes_of(conv: Convolution, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.randint(-32639, 32640, conv.y_shape, generator=generator)
    high = (q + 128) // 256
    return high.to(torch.int8), (q - 256 * high).to(torch.int8)


def blank(shape: Sequence[int]) -> torch.Tensor:
    return torch.full(tuple(shape), SENTINEL, dtype=torch.int32)


def clamped(exact: torch.Tensor) -> torch.Tensor:
    return exact.clamp(INT32.min, INT32.max).to(torch.int32)


def check(conv: Convolution, machine: Machine, signed: bool) -> None:
    x, weight, dy = operands(conv, signed)
    y, dx, dweight = (clamped(exact) for exact in reference(conv, x, weight, dy))
    kernel = built(integer_convolution, conv, machine, signed=signed)
    assert torch.equal(run(kernel, blank(conv.y_shape), x, weight), y)
    kernel = built(integer_weight_gradient, conv, machine, signed=signed)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), dweight)
    if signed:
        kernel = built(integer_input_gradient, conv, machine)
        assert torch.equal(run(kernel, blank(conv.x_shape), dy, weight), dx)


def check_scaled(conv: Convolution, machine: Machine, signed: bool, dtype: torch.dtype) -> None:
    x, weight, dy = operands(conv, signed)
    y, dx, _ = reference(conv, x, weight, dy)
    held = torch.float32 if dtype is torch.float32 else torch.uint16
    name = str(held).removeprefix("torch.")

    def found(kernel: Any, shape: Sequence[int], *inputs: torch.Tensor) -> torch.Tensor:
        return run(kernel, blank(shape).to(held), *inputs, weight, STEP).view(dtype)

    kernel = built(scaled_convolution, conv, machine, signed=signed, dtype=name)
    assert torch.equal(found(kernel, conv.y_shape, x), scaled(y, dtype))
    kernel = built(scaled_input_gradient, conv, machine, dtype=name)
    assert torch.equal(found(kernel, conv.x_shape, dy), scaled(dx, dtype))
    high, low = planes_of(conv, torch.Generator().manual_seed(1))
    dx = combined(*(reference(conv, x, weight, plane)[1] for plane in (high, low)), dtype)
    kernel = built(planes_input_gradient, conv, machine, dtype=name)
    assert torch.equal(found(kernel, conv.x_shape, high, low), dx)


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_torch_does(name: str) -> None:
    check(NETWORKS[name], host(), signed=name.startswith("mobilenet"))


@pytest.mark.parametrize("machine", ["plain", "narrow", "arm", "avx2"])
def test_computes_the_same_on_other_machines(machine: str) -> None:
    check(same(5, 6, 7, 13), MACHINES[machine], signed=True)
    check(same(3, 7, 10, 21, 2), MACHINES[machine], signed=False)
    check(same(2, 7, 21, 21, 2, 21), MACHINES[machine], signed=True)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conv=convolutions(), machine=st.sampled_from(["host", "plain", "arm", "avx2"]), signed=st.booleans())
def test_computes_what_torch_does_at_any_shape(conv: Convolution, machine: str, signed: bool) -> None:
    check(conv, MACHINES[machine], signed)


TYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("machine", MACHINES)
def test_scales_as_torch_does(machine: str, dtype: torch.dtype) -> None:
    check_scaled(same(5, 6, 7, 13), MACHINES[machine], True, dtype)
    check_scaled(same(3, 7, 10, 21, 2), MACHINES[machine], False, dtype)
    check_scaled(same(2, 7, 21, 21, 2, 21), MACHINES[machine], True, dtype)
    check_scaled(Convolution(2, 5, 5, 16, 8), MACHINES[machine], False, dtype)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conv=convolutions(), machine=st.sampled_from(["host", "plain", "arm", "avx2"]), signed=st.booleans())
def test_scales_as_torch_does_at_any_shape(conv: Convolution, machine: str, signed: bool) -> None:
    check_scaled(conv, MACHINES[machine], signed, torch.bfloat16)


def test_what_is_no_number_stays_none_in_bfloat16() -> None:
    x, weight, _ = operands(conv := same(2, 6, 8, 16), False)
    kernel = built(scaled_convolution, conv, host(), dtype="uint16")
    out = run(kernel, blank(conv.y_shape).to(torch.uint16), x, weight, torch.tensor(torch.nan))
    assert out.view(torch.bfloat16).isnan().all()


EXTREMES = {
    "unsigned": ((255, torch.uint8), -128),
    "signed": ((-128, torch.int8), -128),
    "mixed": ((-128, torch.int8), 127),
}


@pytest.mark.parametrize("machine", ["host", "plain", "arm", "avx2"])
@pytest.mark.parametrize("name", EXTREMES)
def test_is_exact_at_the_ends_of_the_range(name: str, machine: str) -> None:
    (value, dtype), other = EXTREMES[name]
    conv = Convolution(6, 6, 6, 1024, 5, (3, 3), (1, 1), (1, 1))
    x = torch.full(conv.x_shape, value, dtype=dtype)
    weight, dy = (torch.full(shape, other, dtype=torch.int8) for shape in (conv.weight_shape, conv.y_shape))
    y, _, dweight = (clamped(exact) for exact in reference(conv, x, weight, dy))
    signed = name != "unsigned"
    kernel = built(integer_convolution, conv, MACHINES[machine], signed=signed)
    assert torch.equal(run(kernel, blank(conv.y_shape), x, weight), y)
    kernel = built(integer_weight_gradient, conv, MACHINES[machine], signed=signed)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), dweight)


@pytest.mark.parametrize("machine", ["host", "plain", "arm", "avx2"])
@pytest.mark.parametrize("channels", [57, 58, 1024], ids=["one sum", "just two", "two sums"])
@pytest.mark.parametrize("byte", [127, -127])
def test_planes_are_exact_at_the_ends_of_the_range(byte: int, channels: int, machine: str) -> None:
    """Of 513 products int32 holds the sum of both planes at once, of 522 it does not."""
    conv = Convolution(3, 6, 6, 5, channels, (3, 3), (1, 1), (1, 1))
    high = low = torch.full(conv.y_shape, byte, dtype=torch.int8)
    weight = torch.full(conv.weight_shape, -128, dtype=torch.int8)
    _, exact, _ = reference(conv, torch.zeros(conv.x_shape), weight, high)
    kernel = built(planes_input_gradient, conv, MACHINES[machine])
    out = run(kernel, blank(conv.x_shape).float(), high, low, weight, STEP)
    assert torch.equal(out, combined(exact, exact))


LONG_SUMS = {
    "many images": Convolution(128, 32, 32, 2, 3, (3, 3), (1, 1), (1, 1)),
    "large image": Convolution(1, 600, 230, 2, 3, (3, 3), (1, 1), (1, 1)),
    "many rows of pixels": Convolution(5, 9000, 3, 1, 2),
}


@pytest.mark.parametrize("machine", ["host", "plain", "arm", "avx2"])
@pytest.mark.parametrize("name", LONG_SUMS)
def test_clamps_a_weight_gradient_beyond_int32(name: str, machine: str) -> None:
    conv = LONG_SUMS[name]
    x = torch.full(conv.x_shape, 255, dtype=torch.uint8)
    dy = torch.full(conv.y_shape, -128, dtype=torch.int8)
    dy[..., 1] = 127
    x[..., 1:] = 3
    _, _, exact = reference(conv, x, torch.zeros(conv.weight_shape), dy)
    assert name == "many rows of pixels" or (exact.min() < INT32.min and exact.max() > INT32.max)
    kernel = built(integer_weight_gradient, conv, MACHINES[machine], signed=False)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), clamped(exact))
    half = (x >> 1).to(torch.int8)
    _, _, exact = reference(conv, half, torch.zeros(conv.weight_shape), dy)
    kernel = built(integer_weight_gradient, conv, MACHINES[machine], signed=True)
    assert torch.equal(run(kernel, blank(conv.weight_shape), half, dy), clamped(exact))


def test_refuses_sums_that_may_overflow() -> None:
    with pytest.raises(CompileError, match="66564 products"):
        integer_convolution(Convolution(1, 258, 258, 1, 1, (258, 258)), host())
    with pytest.raises(CompileError, match="40000 positions"):
        integer_weight_gradient(Convolution(1, 1, 40000, 1, 1), host())


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
@pytest.mark.parametrize("name", GATED)
def test_touches_live_samples_only(name: str, live: list[int]) -> None:
    conv, signed = GATED[name], name != "images"
    machine = PLAIN if name == "one row" else host()
    x, weight, dy = operands(conv, signed)
    y, dx, dweight = (clamped(e) for e in reference(conv, only(x, live, 0), weight, only(dy, live, 0)))
    kernel = built(integer_convolution, conv, machine, signed=signed, gated=True)
    out = run(kernel, blank(conv.y_shape), x, weight, *gate(live, conv.batch))
    assert torch.equal(out, only(y, live, SENTINEL))
    kernel = built(integer_input_gradient, conv, machine, gated=True)
    out = run(kernel, blank(conv.x_shape), dy, weight, *gate(live, conv.batch))
    assert torch.equal(out, only(dx, live, SENTINEL))
    kernel = built(planes_input_gradient, conv, machine, gated=True)
    high = dy.clamp_min(-127)
    out = run(kernel, blank(conv.x_shape).float(), high, dy, weight, STEP, *gate(live, conv.batch))
    of_high = reference(conv, x, weight, only(high, live, 0))[1]
    assert torch.equal(out, only(combined(of_high, dx), live, float(SENTINEL)))
    kernel = built(scaled_convolution, conv, machine, signed=signed, gated=True)
    out = run(kernel, blank(conv.y_shape).float(), x, weight, STEP, *gate(live, conv.batch))
    assert torch.equal(out, only(scaled(y), live, float(SENTINEL)))
    kernel = built(integer_weight_gradient, conv, machine, signed=signed, gated=True)
    out = run(kernel, blank(conv.weight_shape), x, dy, *gate(live, conv.batch))
    assert torch.equal(out, dweight if live else blank(conv.weight_shape))
