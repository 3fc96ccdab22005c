"""Codes, planes, signs and their scaling back: compiled, they equal ATen's bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from e2compile.ops import POWER_OF_TWO_ABOVE
from tests.lower.compiling import Case, results, traced

_random = torch.Generator().manual_seed(0)

SHAPES = [(4, 16, 8, 8), (8, 3, 32, 32), (2, 5, 7, 7), (16, 64, 16, 16), (3, 1, 6, 6)]
WEIGHTS = [(16, 3, 3, 3), (64, 64, 3, 3), (10, 6, 1, 1), (24, 1, 3, 3), (128, 70, 3, 3)]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_random)


def wide(*shape: int) -> Tensor:
    """int32 over its whole range."""
    return torch.randint(-(2**31), 2**31, shape, generator=_random, dtype=torch.int64).to(torch.int32)


def largest(x: Tensor) -> Tensor:
    return x.amax([0, 2, 3]).amax([0])


def held(old: Tensor) -> Tensor:
    return torch.where(old > 0, old, torch.full([], 8.0))


def power(maximum: Tensor, levels: int) -> Tensor:
    step: Tensor = POWER_OF_TWO_ABOVE(maximum.clamp_min(2.0**-100)) * (1 / levels)
    return step


def rounded(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    return torch.clamp(torch.floor(x / step + 0.5), low, high)


def bytes_of(codes: Tensor) -> tuple[Tensor, Tensor]:
    high = torch.floor((codes + 128) * (1 / 256))
    return high.to(torch.int8), (codes - high * 256).to(torch.int8)


def unsigned(x: Tensor, old: Tensor) -> Any:
    x = torch.relu(x)
    step = power(held(old), 256)
    return rounded(x, step, 0, 255).to(torch.uint8), largest(x), step


def signed(x: Tensor) -> Any:
    step = largest(x.abs()).clamp_min(2.0**-100) * (1 / 128)
    return rounded(x, step, -128, 127).to(torch.int8), step


def planes(g: Tensor, old: Tensor) -> Any:
    return *bytes_of(rounded(g, power(held(old), 2**15), -32639, 32639)), largest(g.abs())


def short_planes(g: Tensor) -> Any:
    step = largest(g.abs()).clamp_min(2.0**-100) * (1 / 2**15)
    codes = rounded(g, step, -32639, 32639)
    short = torch.floor((codes + 32) * (1 / 64)).clamp(-511, 511)
    return *bytes_of(codes), *bytes_of(short)


def masked(x: Tensor, mask: Tensor, old: Tensor) -> Tensor:
    live = torch.where(mask.view(-1, 1, 1, 1), x.abs(), torch.full([], 0.0))
    return torch.where(mask.amax([0]), largest(live), old)


def scaled_back(high: Tensor, low: Tensor, step: Tensor) -> Tensor:
    return (high.float() * 256.0 + low.float()) * step


def output(sums: Tensor, step: Tensor, bias: Tensor) -> Tensor:
    return sums.float() * step + bias.view(-1, 1, 1)


def total(flags: Tensor) -> Tensor:
    return flags.float().sum([1, 2, 3]).sum([0])


def signs(high: Tensor, low: Tensor) -> Any:
    magnitude = high.float().abs()
    sure = magnitude >= magnitude.amax([1, 2, 3]).amax([0]) * 0.05
    full, first = torch.sign(high.long() * 256 + low.long()), torch.sign(high.long())
    unsure = total(sure) < high.numel() * 0.5
    wrong = total(torch.ne(first, full))
    return (
        sure,
        total(sure),
        full.float(),
        torch.where(sure, first, full).float(),
        wrong,
        unsure,
        unsure.long(),
    )


def tiles(high: Tensor) -> Tensor:
    magnitude = high.float().abs()
    sure = magnitude >= magnitude.amax([1, 2, 3]).amax([0]) * 0.05
    rows, columns = high.shape[0], high[0].numel()
    down, across = -(-rows // 16), -(-columns // 16)
    matrix = sure.float().sub(1.0).view(rows, columns)
    matrix = torch.nn.functional.pad(matrix, [0, across * 16 - columns, 0, down * 16 - rows])
    enough = matrix.view(down, 16, across, 16).sum([1, 3], True) >= -8.0
    chosen = enough.expand(down, 16, across, 16).reshape(down * 16, across * 16)[:rows][:, :columns]
    first = torch.sign(high.long())
    return torch.where(chosen.reshape(high.shape), first, -first).float()


def short_codes(x: Tensor) -> Tensor:
    return torch.floor((x.float() + 8) * (1 / 16)).clamp(0, 15).to(torch.uint8)


def shares(x: Tensor) -> Any:
    """Quotients by powers of two, and by what is none."""
    return x / 1024, x / -0.25, x / 2.0**-119, x / 3.0


def beyond(x: Tensor) -> Any:
    """Integers that no int32, or no float32 exactly, can hold are left in float32."""
    whole = torch.floor(x)
    return (
        ((whole.clamp(-3, 3) + 1e30) * 1e-29).to(torch.int8),
        whole.clamp(-torch.inf, 5.0).to(torch.int8),
        (whole.clamp(-200, 200) * 1048576.0 - 1.0).clamp(-5, 5).to(torch.int8),
    )


def special(*shape: int) -> Tensor:
    """Floats of all magnitudes, NaN and infinities of both signs, zeros and denormals among them."""
    x = normal(*shape) * torch.exp2(torch.randint(-149, 128, shape, generator=_random).float())
    unusual = [torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, -1e-45]
    x.view(-1)[: 11 * len(unusual) : 11] = torch.tensor(unusual)
    return x


def by_shape(shape: tuple[int, ...]) -> dict[str, Case]:
    n, c, *_ = shape
    x, step = normal(*shape) * 3, torch.tensor(2.0**-20)
    return {
        "unsigned": traced(unsigned, x, torch.tensor(5.3)),
        "unsigned, at first": traced(unsigned, x, torch.tensor(0.0)),
        "signed": traced(signed, x),
        "planes": traced(planes, x * 1e-3, torch.tensor(0.011)),
        "short planes": traced(short_planes, x * 1e-3),
        "scaled back": traced(scaled_back, wide(*shape), wide(*shape), step),
        "output": traced(output, wide(*shape), step, normal(c)),
        "masked": traced(masked, x, torch.arange(n) % 2 == 1, torch.tensor(3.0)),
        "masked, all": traced(masked, x, torch.arange(n) < 0, torch.tensor(3.0)),
    }


def by_weight(shape: tuple[int, ...]) -> dict[str, Case]:
    high = (normal(*shape) * 1e6).to(torch.int32)
    high.view(-1)[::7] = 0
    return {"signs": traced(signs, high, wide(*shape)), "tiles": traced(tiles, high)}


def made(shapes: list[tuple[int, ...]], make: Callable[[Any], dict[str, Case]]) -> dict[str, Case]:
    return {f"{name} {list(shape)}": case for shape in shapes for name, case in make(shape).items()}


CASES = made(SHAPES, by_shape) | made(WEIGHTS, by_weight)
for _shape in SHAPES:
    CASES[f"shares {list(_shape)}"] = traced(shares, special(*_shape))
    CASES[f"magnitude {list(_shape)}"] = traced(lambda x: x.abs().amax([0, 2, 3]), special(*_shape))
    CASES[f"greatest {list(_shape)}"] = traced(lambda x: x.relu().amax([0, 2, 3]), special(*_shape))
CASES["beyond"] = traced(beyond, normal(2, 16, 8, 8) * 5)
CASES["short codes"] = traced(short_codes, torch.arange(256).to(torch.uint8).view(4, 16, 2, 2))


@pytest.fixture(scope="module")
def computed() -> dict[str, list[Tensor]]:
    return results(CASES)


@pytest.mark.parametrize("name", CASES)
def test_equals_aten_bit_for_bit(name: str, computed: dict[str, list[Tensor]]) -> None:
    for found, expected in zip(computed[name], CASES[name].expected(), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found.nan_to_num(7.5), expected.nan_to_num(7.5))
        assert torch.equal(found.isnan(), expected.isnan())
