"""Random functions of tensors: what a list of numbers says, whatever the numbers are."""

# ruff: noqa: ARG005 - all operators take the same arguments

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

# An operator, two operands and an option; all are taken modulo what there is.
Step = tuple[int, int, int, int]

SHAPES = [
    (2, 3, 4, 5),
    (3, 1, 1),
    (2, 3),
    (5, 5),
    (4, 5),
    (7,),
    (),
    (2, 1, 4, 1),
    (130, 140),
    (2, 17, 33, 16),
]


@dataclass(frozen=True)
class Program:
    """Steps over inputs of some of SHAPES; the results are those at `returned`, then the last.

    Where `is_state`, inputs are replaced: each by the last result, or other input, of its shape.
    """

    shapes: tuple[int, ...]
    steps: tuple[Step, ...]
    returned: tuple[int, ...]
    is_state: bool

    def inputs(self) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(len(self.steps))
        return tuple(torch.randn(SHAPES[i], generator=random) for i in self.shapes)

    def states(self) -> dict[int, int]:
        return {i: i for i in range(len(self.shapes))} if self.is_state else {}

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values = list(inputs)
        for operator, first, second, option in self.steps:
            x, y = values[first % len(values)], values[second % len(values)]
            values.append(OPERATORS[operator % len(OPERATORS)](x, y, option))
        news = [_replacement(values, i, len(inputs)) for i in range(len(inputs))] if self.is_state else []
        return [*news, *(values[i % len(values)] for i in self.returned), values[-1]]


def _replacement(values: Sequence[Tensor], i: int, count: int) -> Tensor:
    computed = [v for v in values[count:] if v.shape == values[i].shape]
    others = [v for v in values[:count] if v is not values[i] and v.shape == values[i].shape]
    candidates = computed or others or [values[i]]
    return candidates[i % len(candidates)]


def _binary(apply: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    def run(x: Tensor, y: Tensor, _: int) -> Tensor:
        try:
            shape = torch.broadcast_shapes(x.shape, y.shape)
        except RuntimeError:
            return apply(x, x)
        return apply(x, y) if torch.Size(shape).numel() < 40000 else apply(x, x)

    return run


def _reduction(apply: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    def run(x: Tensor, _: Tensor, option: int) -> Tensor:
        dims = [d for d in range(x.dim()) if option >> d & 1] or list(range(x.dim()))
        return apply(x, dims, bool(option & 1)) if x.dim() else x * 2

    return run


def _variance(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if all(x.shape[d] == 1 for d in dims):
        return x.mean(dims, keep)
    return torch.var_mean(x, dims, correction=0, keepdim=keep)[0]


def _dims(x: Tensor, option: int) -> tuple[int, int]:
    return option % x.dim(), option // 3 % x.dim()


OPERATORS: list[Callable[[Tensor, Tensor, int], Tensor]] = [
    lambda x, y, o: torch.sin(x),
    lambda x, y, o: torch.relu(x) - 0.5,
    lambda x, y, o: torch.exp(-x * x),
    lambda x, y, o: torch.full_like(x, 0.5),
    _binary(lambda x, y: x + y),
    _binary(lambda x, y: torch.tanh(x) * y),
    _binary(lambda x, y: torch.maximum(x, y)),
    _binary(lambda x, y: torch.where(x < 1e9, y, x)),
    _reduction(lambda x, dims, keep: x.sum(dims, keep) * 0.1),
    _reduction(lambda x, dims, keep: x.mean(dims, keep)),
    _reduction(lambda x, dims, keep: x.amax(dims, keep)),
    _reduction(lambda x, dims, keep: _variance(x, dims, keep)),
    lambda x, y, o: x.transpose(*_dims(x, o)) if x.dim() else x,
    lambda x, y, o: x.permute(*range(1, x.dim()), 0) if x.dim() else x,
    lambda x, y, o: x.reshape(-1, x.shape[-1]) if x.dim() else x,
    lambda x, y, o: x.reshape(-1),
    lambda x, y, o: x.unsqueeze(o % (x.dim() + 1)),
    lambda x, y, o: x.select(*_dims(x, o)[:1], -1) if x.dim() else x,
    lambda x, y, o: x.narrow(o % x.dim(), 0, -(-x.shape[o % x.dim()] // 2)) if x.dim() else x,
    lambda x, y, o: x @ x.t() * 0.1 if x.dim() == 2 and x.shape[0] < 50 else x.cos(),
]

_number = st.integers(0, 1000)


def programs() -> st.SearchStrategy[Any]:
    return st.builds(
        Program,
        st.lists(st.integers(0, len(SHAPES) - 1), min_size=1, max_size=3).map(tuple),
        st.lists(st.tuples(_number, _number, _number, _number), min_size=2, max_size=9).map(tuple),
        st.lists(_number, max_size=2).map(tuple),
        st.booleans(),
    )
