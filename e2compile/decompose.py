"""What differentiation takes apart: core ATen, and what has no lowering of its own."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

from e2compile import ops

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Core ATen, and what TVM has no lowering of its own for, in terms of it."""
    extra = get_decompositions(
        [
            aten._log_softmax,
            aten._softmax,
            aten._native_batch_norm_legit_functional,
            aten._native_batch_norm_legit_no_training,
            aten.native_batch_norm,
            aten._native_batch_norm_legit,
            aten.hardtanh,
            aten.hardtanh_backward,
            aten.nll_loss_forward,
            aten.nll_loss_backward,
            aten.leaky_relu,
            aten.elu,
            aten.gelu,
            aten.native_layer_norm,
            aten.linalg_vector_norm,
        ]
    )
    own = {aten.addmm.default: _addmm, aten.var.correction: _variance, aten.split_with_sizes.default: _split}
    own[aten.native_group_norm.default] = _group_norm
    core: dict[Any, Callable[..., Any]] = {**core_aten_decompositions()}
    return core | extra | own | ops.DECOMPOSITIONS


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """A product and an addition that fuses with what follows it."""
    product = torch.mm(a, b)
    product = product if alpha == 1 else alpha * product
    return product + (bias if beta == 1 else beta * bias)


def _variance(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    return torch.var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def _split(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    starts = accumulate(sizes, initial=0)
    return [
        aten.slice.Tensor(x, dim, start, start + size) for start, size in zip(starts, sizes, strict=False)
    ]


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, _: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As PyTorch's own, but without its as_strided."""
    grouped = x.reshape(n, groups, -1)
    variance, mean = torch.var_mean(grouped, 2, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    y = ((grouped - mean) * inverse).reshape(x.shape)
    shape = [c, *(1 for _ in x.shape[2:])]
    y = y if weight is None else y * weight.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    return y, mean.reshape(n, groups), inverse.reshape(n, groups)
