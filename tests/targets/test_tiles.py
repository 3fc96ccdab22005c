"""Integer contractions by tiles against torch in float64, bit for bit: emulated, and by AMX where it is."""

import math
from dataclasses import replace

import pytest
import torch

from e2compile.errors import CompileError
from e2compile.lower.workload import Contraction, Convolution
from e2compile.runtime.host import TILES, available
from e2compile.targets.llvm import choices, tile_gradient_plan, tile_plan
from e2compile.targets.llvm.kernels import LlvmKernels
from e2compile.targets.llvm.machine import Machine, host, named
from e2compile.targets.llvm.tile_gather import integer_convolution, integer_input_gradient
from e2compile.targets.llvm.tile_gradient import integer_weight_gradient
from e2compile.targets.llvm.tile_scaled import (
    planes_input_gradient,
    scaled_convolution,
    scaled_input_gradient,
)
from tests.targets.contractions import built, gate, only, reference, run, same
from tests.targets.test_integer_contraction import (
    EXTREMES,
    SENTINEL,
    STEP,
    blank,
    clamped,
    combined,
    operands,
    scaled,
)

EMULATED = named("x86_64-linux-gnu:sapphirerapids").emulated()
LACKING = sorted(TILES - available())
NATIVE = pytest.param(
    host(), marks=pytest.mark.skipif(bool(LACKING), reason=f"the CPU lacks {', '.join(LACKING)}"), id="native"
)
MACHINES = [pytest.param(EMULATED, id="emulated"), NATIVE]

SHAPES = {
    "resnet20 16": same(3, 32, 16, 16),
    "resnet20 32": same(5, 16, 32, 32),
    "resnet20 64": same(9, 8, 64, 64),
    "odd size": same(2, 21, 16, 32),
    "narrow": Convolution(3, 6, 5, 48, 16, (3, 3), (1, 1), (1, 1)),
    "pointwise": Convolution(3, 8, 8, 32, 48),
    "pointwise, odd size": Convolution(2, 7, 7, 16, 96),
    "no padding": Convolution(2, 9, 8, 32, 16, (3, 3)),
    "even kernel": Convolution(2, 8, 9, 16, 32, (2, 2), (1, 1), (1, 0)),
    "wide kernel": Convolution(2, 6, 11, 16, 16, (1, 5), (1, 1), (0, 2)),
    "bands": same(1, 64, 32, 16),
}


def draws(conv: Convolution, signed: bool) -> tuple[torch.Tensor, ...]:
    x, weight, dy = operands(conv, signed)
    return x, weight, dy, dy.flip(0)


def check(conv: Convolution, machine: Machine, signed: bool) -> None:
    x, weight, dy, low = draws(conv, signed)
    y, dx, dweight = (clamped(exact) for exact in reference(conv, x, weight, dy))
    _, dx_low, _ = (clamped(exact) for exact in reference(conv, x, weight, low))
    kernel = built(integer_convolution, conv, machine, signed=signed)
    assert torch.equal(run(kernel, blank(conv.y_shape), x, weight), y)
    kernel = built(integer_weight_gradient, conv, machine, signed=signed)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), dweight)
    kernel = built(scaled_convolution, conv, machine, signed=signed, dtype="uint16")
    out = run(kernel, torch.zeros(conv.y_shape, dtype=torch.uint16), x, weight, STEP)
    assert torch.equal(out.view(torch.bfloat16), scaled(y, torch.bfloat16))
    if signed:
        kernel = built(integer_input_gradient, conv, machine)
        assert torch.equal(run(kernel, blank(conv.x_shape), dy, weight), dx)
        kernel = built(scaled_input_gradient, conv, machine)
        assert torch.equal(run(kernel, torch.empty(conv.x_shape), dy, weight, STEP), scaled(dx))
        kernel = built(planes_input_gradient, conv, machine)
        result = run(kernel, torch.empty(conv.x_shape), dy, low, weight, STEP)
        assert torch.equal(result, combined(dx, dx_low))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("name", SHAPES)
def test_computes_what_torch_does(name: str, signed: bool, machine: Machine) -> None:
    check(SHAPES[name], machine, signed)


STRIDED = {
    "resnet20 32": same(5, 32, 16, 32, 2),
    "resnet20 64": same(9, 16, 32, 64, 2),
    "shortcut": Convolution(6, 16, 16, 32, 64, (1, 1), (2, 2)),
    "odd size": same(3, 11, 16, 16, 2),
    "oblong": Convolution(4, 11, 17, 32, 16, (3, 2), (3, 1), (1, 0)),
    "wide": Convolution(2, 8, 14, 16, 48, (2, 5), (1, 2), (0, 2)),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", STRIDED)
def test_takes_any_stride(name: str, machine: Machine) -> None:
    conv = STRIDED[name]
    x, weight, dy = operands(conv, True)
    assert tile_plan.serves(conv, False, EMULATED) is (name != "shortcut")
    assert not tile_plan.serves(conv, True, EMULATED)
    assert tile_gradient_plan.serves(conv, EMULATED)
    y, _, dweight = (clamped(exact) for exact in reference(conv, x, weight, dy))
    kernel = built(integer_weight_gradient, conv, machine, signed=True)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), dweight)
    kernel = built(integer_convolution, conv, machine, signed=True)
    assert torch.equal(run(kernel, blank(conv.y_shape), x, weight), y)
    kernel = built(scaled_convolution, conv, machine, signed=True, dtype="uint16")
    out = run(kernel, torch.zeros(conv.y_shape, dtype=torch.uint16), x, weight, STEP)
    assert torch.equal(out.view(torch.bfloat16), scaled(y, torch.bfloat16))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", EXTREMES)
def test_is_exact_at_the_ends_of_the_range(name: str, machine: Machine) -> None:
    (value, dtype), other = EXTREMES[name]
    conv, signed = same(3, 8, 64, 16), name != "unsigned"
    x = torch.full(conv.x_shape, value, dtype=dtype)
    weight, dy = (torch.full(shape, other, dtype=torch.int8) for shape in (conv.weight_shape, conv.y_shape))
    y, dx, dweight = (clamped(exact) for exact in reference(conv, x, weight, dy))
    kernel = built(integer_convolution, conv, machine, signed=signed)
    assert torch.equal(run(kernel, blank(conv.y_shape), x, weight), y)
    kernel = built(integer_weight_gradient, conv, machine, signed=signed)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), dweight)
    kernel = built(planes_input_gradient, conv, machine)
    assert torch.equal(run(kernel, torch.empty(conv.x_shape), dy, dy, weight, STEP), combined(dx, dx))


def test_planes_are_rounded_one_by_one() -> None:
    conv = Convolution(1, 4, 4, 16, 2048, (3, 3), (1, 1), (1, 1))
    weight = torch.full(conv.weight_shape, 127, dtype=torch.int8)
    weight[0, 0, :, 0] = 126
    high = torch.full(conv.y_shape, 127, dtype=torch.int8)
    low = torch.full(conv.y_shape, -127, dtype=torch.int8)
    dx, dx_low = (clamped(reference(conv, torch.zeros(conv.x_shape), weight, dy)[1]) for dy in (high, low))
    assert not torch.equal(dx.float().to(torch.int32), dx)
    kernel = built(planes_input_gradient, conv, EMULATED)
    result = run(kernel, torch.empty(conv.x_shape), high, low, weight, STEP)
    assert torch.equal(result, combined(dx, dx_low))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("step", [1e-40, -3e-41, 1.2e-38, -0.0, 1e38, math.inf, math.nan])
def test_scales_by_any_step(step: float, machine: Machine) -> None:
    conv, factor = same(2, 8, 16, 32), torch.tensor(step)
    x, weight, dy, low = draws(conv, True)
    x[:, 0] = 0
    y, dx, _ = (clamped(exact) for exact in reference(conv, x, weight, dy))
    _, dx_low, _ = (clamped(exact) for exact in reference(conv, x, weight, low))
    out = torch.zeros(conv.y_shape, dtype=torch.uint16)
    run(built(scaled_convolution, conv, machine, signed=True, dtype="uint16"), out, x, weight, factor)
    assert_equal(out.view(torch.bfloat16), (y.to(torch.float32) * factor).to(torch.bfloat16))
    out = torch.zeros(conv.x_shape, dtype=torch.uint16)
    run(built(planes_input_gradient, conv, machine, dtype="uint16"), out, dy, low, weight, factor)
    sums = 256 * dx.to(torch.float32) + dx_low.to(torch.float32)
    assert_equal(out.view(torch.bfloat16), (sums * factor).to(torch.bfloat16))


def assert_equal(result: torch.Tensor, expected: torch.Tensor) -> None:
    """With what is no number in the same places."""
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("machine", MACHINES)
def test_clamps_a_weight_gradient_beyond_int32(machine: Machine) -> None:
    conv = same(128, 32, 16, 16)
    x = torch.full(conv.x_shape, 255, dtype=torch.uint8)
    dy = torch.full(conv.y_shape, -128, dtype=torch.int8)
    dy[..., 1] = 127
    x[..., 1:] = 3
    _, _, exact = reference(conv, x, torch.zeros(conv.weight_shape), dy)
    info = torch.iinfo(torch.int32)
    assert exact.min() < info.min
    assert exact.max() > info.max
    kernel = built(integer_weight_gradient, conv, machine, signed=False)
    assert torch.equal(run(kernel, blank(conv.weight_shape), x, dy), clamped(exact))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [5, 0, 1, 2, 6], [0, 1, 2, 3, 4, 5, 6]], ids=len)
@pytest.mark.parametrize("conv", [same(7, 8, 16, 32), Convolution(7, 4, 4, 32, 16)], ids=["image", "pixels"])
def test_touches_live_samples_only(conv: Convolution, live: list[int], machine: Machine) -> None:
    x, weight, dy, low = draws(conv, True)
    gated = gate(live, conv.batch)
    y, dx, dweight = (clamped(e) for e in reference(conv, only(x, live, 0), weight, only(dy, live, 0)))
    _, dx_low, _ = (clamped(e) for e in reference(conv, only(x, live, 0), weight, only(low, live, 0)))
    kernel = built(integer_convolution, conv, machine, signed=True, gated=True)
    assert torch.equal(run(kernel, blank(conv.y_shape), x, weight, *gated), only(y, live, SENTINEL))
    kernel = built(integer_input_gradient, conv, machine, gated=True)
    assert torch.equal(run(kernel, blank(conv.x_shape), dy, weight, *gated), only(dx, live, SENTINEL))
    kernel = built(planes_input_gradient, conv, machine, gated=True)
    out = run(kernel, torch.full(conv.x_shape, float(SENTINEL)), dy, low, weight, STEP, *gated)
    assert torch.equal(out, only(combined(dx, dx_low), live, SENTINEL))
    kernel = built(integer_weight_gradient, conv, machine, signed=True, gated=True)
    out = run(kernel, blank(conv.weight_shape), x, dy, *gated)
    assert torch.equal(out, dweight if live else blank(conv.weight_shape))


PLAIN = same(2, 8, 16, 16)


@pytest.mark.parametrize(
    "conv",
    [
        same(2, 8, 16, 24),
        same(2, 8, 32, 32, 1, 2),
        replace(PLAIN, dilation=(2, 2)),
        replace(PLAIN, kernel=(5, 7)),
        Convolution(64, 1, 1, 256, 16),
        same(1, 4, 512, 512),
    ],
)  # fmt: skip
def test_leaves_other_shapes_to_vectors(conv: Convolution) -> None:
    assert not tile_plan.serves(conv, False, EMULATED)
    assert not tile_plan.serves(conv, True, EMULATED)


def test_leaves_padding_beyond_the_kernel_to_vectors() -> None:
    conv = replace(PLAIN, padding=(3, 3))
    assert tile_plan.serves(conv, False, EMULATED)
    assert not tile_plan.serves(conv, True, EMULATED)


def test_leaves_other_weight_gradients_to_vectors() -> None:
    assert tile_gradient_plan.serves(PLAIN, EMULATED)
    for conv in (
        same(2, 8, 16, 24),
        Convolution(2, 9, 8, 16, 16, (2, 2), (2, 2)),
        same(1, 256, 16, 16),
        Convolution(64, 1, 1, 64, 16),
    ):
        assert not tile_gradient_plan.serves(conv, EMULATED)


@pytest.mark.parametrize(
    "method", ["integer_convolution", "integer_input_gradient", "integer_weight_gradient"]
)
def test_are_taken_by_machines_that_have_them(method: str) -> None:
    contraction = Contraction(method, PLAIN)
    assert choices.default(contraction, EMULATED) == choices.TILES
    assert choices.candidates(contraction, EMULATED)[0] == choices.TILES
    without = replace(EMULATED, tiles=False)
    assert choices.default(contraction, without) is None
    assert choices.TILES not in choices.candidates(contraction, without)
    options = {"signed": True} if method != "integer_input_gradient" else {}
    texts = [str(getattr(LlvmKernels(each), method)(PLAIN, **options)) for each in (EMULATED, without)]
    assert texts[0] != texts[1]


def test_refuses_sums_that_may_overflow() -> None:
    with pytest.raises(CompileError, match="82944 products"):
        integer_convolution(same(1, 4, 9216, 16), EMULATED)
