"""Sample calls: tensors of every type, corner values and shapes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

INF, NAN = float("inf"), float("nan")
SPECIAL = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 2.5, 1e-30, -3e30])


@dataclass(frozen=True)
class Sample:
    """A call's arguments. `rtol` is wider only where its comment says why."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    rtol: float = 1e-5
    atol: float = 1e-6


def call(*args: Any, rtol: float = 1e-5, atol: float = 1e-6, **kwargs: Any) -> Sample:
    return Sample(args, kwargs, rtol, atol)


_random = torch.Generator().manual_seed(0)


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=_random, dtype=dtype)


def doubles(*shape: int) -> Tensor:
    return floats(*shape, dtype=torch.float64)


def integers(*shape: int, low: int = -9, high: int = 10) -> Tensor:
    return torch.randint(low, high, shape, generator=_random)


def booleans(*shape: int) -> Tensor:
    return integers(*shape) > 0


# Shapes and broadcasting are the same code for every operator: all of it is tried with a few.
def shapes() -> list[Sample]:
    return [call(floats(*shape)) for shape in [(2, 5, 3, 4), (1, 3, 1, 1), (5, 7), ()]]


def broadcasts() -> list[Sample]:
    pairs = [((2, 5, 3, 4), (2, 5, 3, 4)), ((5, 7), (5, 7)), ((), ())]
    pairs += [((5, 1, 1), (2, 5, 3, 4)), ((2, 5, 3, 4), ()), ((6, 1), (1, 7)), ((1, 3, 1, 1), (3, 1, 1))]
    return [call(floats(*a), floats(*b)) for a, b in pairs]


def unary() -> list[Sample]:
    return [call(floats(37)), call(SPECIAL), call(doubles(3, 5))]


def positive() -> list[Sample]:
    return [call(floats(37).abs() + 0.1), call(SPECIAL), call(doubles(3, 5).abs() + 0.1)]


def binary() -> list[Sample]:
    samples = [call(floats(2, 5, 3, 4), floats(5, 1, 1)), call(floats(37), floats(37))]
    samples.append(call(SPECIAL[:, None].contiguous(), SPECIAL))
    return [*samples, call(floats(4, 3), doubles(3)), call(floats(4, 3), integers(4, 3, low=1))]


def scalar(*values: float) -> list[Sample]:
    plain = [call(floats(37), value) for value in values]
    return [call(SPECIAL, values[0]), call(doubles(7), values[0]), *plain]


def whole() -> list[Sample]:
    return [call(integers(3, 5), integers(3, 5, low=1)), call(integers(2, 1, 3), integers(4, 1, low=1))]


def compared() -> list[Sample]:
    return [*binary(), *whole(), call(booleans(5, 3), booleans(3)), call(integers(9), floats(9))]


def compared_scalar() -> list[Sample]:
    return [*scalar(0.5, 0), call(integers(40), 3), call(integers(40), 2.5), call(booleans(8), 1)]


def logical() -> list[Sample]:
    return [call(booleans(37), booleans(37)), call(booleans(4, 1), booleans(3)), call(booleans(), booleans())]


def bits() -> list[Sample]:
    return [*logical(), call(integers(4, 5), integers(5))]


def reduced(*options: Any, atol: float = 1e-6) -> list[Sample]:
    return [call(floats(*shape), *rest, atol=atol) for shape, *rest in options]
