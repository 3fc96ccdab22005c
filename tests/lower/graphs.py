"""Graphs that fuse, and graphs that replace state, each an awkward case of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_random = torch.Generator().manual_seed(0)


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_random)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, grad: Tensor) -> Any:
    """Output, new statistics and all gradients."""
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    normalize = torch.ops.aten._native_batch_norm_legit_functional
    y, _, _, mean, variance = normalize(x, weight, bias, mean, variance, True, 0.1, 1e-5)
    return y, mean, variance, *torch.autograd.grad(y, (x, weight, bias), grad)


def log_softmax_gradient(x: Tensor, grad: Tensor) -> Any:
    x = x.detach().requires_grad_()
    y = functional.log_softmax(x, 1)
    return y, *torch.autograd.grad(y, x, grad)


GRAPHS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "chain": (lambda x: torch.tanh(torch.exp(-x * x) + 1) * 3, (floats(2, 5, 3, 4),)),
    "chain in a large tensor": (lambda x: (x * 2 + 1).relu(), (floats(3, 37, 29, 31),)),
    "odd flat": (lambda x, y: x * y - x, (floats(20011), floats(20011))),
    "broadcast in a large tensor": (
        lambda x, c, n: (x - c) * n + c,
        (floats(4, 19, 31, 17), floats(19, 1, 1), floats(4, 1, 1, 1)),
    ),
    "a value used twice": (lambda x: ((y := x.exp()) + 1, y * y, y.sum(1)), (floats(33, 17),)),
    "reductions of one value": (
        lambda x: (x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)), x.amax((0, 2, 3))),
        (floats(2, 5, 7, 3),),
    ),
    "reductions over different dims": (lambda x: (x.sum(0), x.sum(1), x.sum()), (floats(130, 140),)),
    "a reduction of a reduction": (lambda x: (x - x.mean(1, keepdim=True)).square().sum(0), (floats(40, 9),)),
    "a result of a reduction, broadcast": (
        lambda x: x / x.sum((1, 2, 3), keepdim=True),
        (floats(2, 5, 3, 4),),
    ),
    "a stored producer of a reduction": (
        lambda x: ((y := x.sigmoid()), y.mean((2, 3))),
        (floats(2, 16, 12, 12),),
    ),
    "in parts": (lambda x: ((y := x * 2), y.sum(0), y.amax(0)), (floats(500, 70),)),
    "in parts over odd channels": (lambda x: x.sum((0, 2, 3)), (floats(7, 13, 19, 17),)),
    "permuted between": (lambda x: (x.permute(0, 2, 3, 1) * 2).sum(3) + 1, (floats(2, 5, 3, 4),)),
    "transposed sum": (lambda x: x + x.t(), (floats(9, 9),)),
    "views between": (
        lambda x: (x.relu().reshape(2, 15, 4).transpose(1, 2) * 3).reshape(-1).exp(),
        (floats(2, 5, 3, 4),),
    ),
    "a slice and its rest": (lambda x: x[:, 1:4].exp() * x[:, :3] + x[:, 4:], (floats(3, 5, 4, 4),)),
    "a branch that joins": (
        lambda x, y: ((a := x.exp()) + y, (a * y).sum(1), a - (a * y).sum(1, keepdim=True)),
        (floats(20, 30),) * 2,
    ),
    "a select from booleans": (
        lambda x, y: ((m := x > 0), torch.where(m & (y < 1), x, y), (~m).sum(0)),
        (floats(20, 33), floats(20, 33)),
    ),
    "not a comparison": (
        lambda x: (torch.where(~(x > 0), 1.0, 2.0), ~(x <= 0), x != x),
        (torch.tensor([float("nan"), 1.0, -1.0, 0.0] * 8),),
    ),
    "a place of the maximum and a sum": (lambda x: (x.argmax(1), x + 1, x.sum(1)), (floats(9, 10),)),
    "one result twice": (lambda x: ((y := x * 2), y, x), (floats(4, 3),)),
    "a result that is a view": (lambda x: (x.t(), (x * 2).t(), (x * 2)[1]), (floats(4, 3),)),
    "scalars": (lambda x, y: (x * y, (x + 1).exp() - y), (floats(), floats())),
    "constants alone": (lambda x: (torch.full((3, 2), 2.0), torch.full_like(x, 3).sum(0)), (floats(5, 2),)),
    "constants in assemblies": (
        lambda x: (
            torch.cat([x, torch.full((2, 3), 7.0), x * 2], 1),
            torch.slice_scatter(torch.full((2, 9), 1.0), x, 1, 2, 6),
            torch.slice_scatter(x, torch.full((2, 2), 1.0), 1, 0, 4, 2) + 1,
        ),
        (floats(2, 4),),
    ),
    "a concatenation in a large tensor": (
        lambda x, y: ((z := torch.cat([x.relu(), y, x], 1)), z.sum((0, 2, 3)), (z * 2).exp()),
        (floats(4, 16, 20, 20), floats(4, 11, 20, 20)),
    ),
    "a concatenation of concatenations": (
        lambda x, y: torch.cat([(z := torch.cat([x, y.t()])), z * z, torch.cat([x, z], 0)], 0) - 1,
        (floats(3, 5), floats(5, 4)),
    ),
    "a padding of a slice of a padding": (
        lambda x: functional.pad(functional.pad(x, (1, 2))[:, 1:], (0, 3, 1, 0), value=2.0).exp(),
        (floats(5, 9),),
    ),
    "integers of known range": (
        lambda x: ((s := torch.where(x < 0, 1, -1)) * x + (s + 1).float() * x.abs() / (s * 2), s),
        (floats(40),),
    ),
    "a constant inside": (lambda x: torch.where(x > 0, torch.full_like(x, 2.0), x), (floats(5, 2),)),
    "a contraction between": (lambda x, w: (x.relu() @ w.exp()).relu().sum(0), (floats(9, 7), floats(7, 5))),
    "a contraction of permuted operands": (
        lambda x, w: (x.t() @ w, w.t() @ x, x @ x.t(), (x * 2).t() @ (w + 1)),
        (floats(8, 8), floats(8, 8)),
    ),
    "a product of a broadcast": (lambda x, w: x.expand(4, 6) @ w, (floats(1, 6), floats(6, 3))),
    "a product of a slice": (lambda x, w: x[1:5] @ w[:, 2:], (floats(6, 6), floats(6, 5))),
    "batch norm": (
        batch_norm,
        (floats(4, 5, 6, 7), floats(5), floats(5), floats(5), floats(5).abs(), floats(4, 5, 6, 7)),
    ),
    "batch norm in parts": (
        batch_norm,
        (floats(8, 24, 16, 15), floats(24), floats(24), floats(24), floats(24).abs(), floats(8, 24, 16, 15)),
    ),
    "batch norm of one pixel": (
        batch_norm,
        (floats(6, 3, 1, 1), floats(3), floats(3), floats(3), floats(3).abs(), floats(6, 3, 1, 1)),
    ),
    "log softmax": (log_softmax_gradient, (floats(6, 10), floats(6, 10))),
    "log softmax of many": (log_softmax_gradient, (floats(50, 1000), floats(50, 1000))),
    "cross entropy": (
        lambda x, y: functional.cross_entropy(x, y),
        (floats(6, 10), torch.tensor([0, 3, 9, 1, 5, 5])),
    ),
}

# Name: function, inputs, which input is state, and which result replaces it.
STATES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], dict[int, int]]] = {
    "updated in place": (lambda w, g: (w - 0.1 * g,), (floats(7, 5), floats(7, 5)), {0: 0}),
    "read by several kernels": (
        lambda w, g: (w - 0.1 * g, (w * 2).sum(), w.t() @ g, w.sum(0), w[1]),
        (floats(7, 5), floats(7, 5)),
        {0: 0},
    ),
    "read and written by one product": (lambda w: (w @ w, w.sum()), (floats(6, 6),), {0: 0}),
    "swapped": (lambda a, b: (b, a), (floats(7, 5), floats(7, 5)), {0: 0, 1: 1}),
    "rotated": (lambda a, b, c: (b, c, a), (floats(5), floats(5), floats(5)), {0: 0, 1: 1, 2: 2}),
    "swapped and computed": (lambda a, b: (b * 2, a * 3), (floats(7, 5), floats(7, 5)), {0: 0, 1: 1}),
    "each from both": (lambda a, b: (a + b, a - b, a * b), (floats(7, 5), floats(7, 5)), {0: 0, 1: 1}),
    "each from the other's sum": (
        lambda a, b: (a + b.sum(), b - a.sum(0), a.sum(0)),
        (floats(9, 5), floats(9, 5)),
        {0: 0, 1: 1},
    ),
    "transposed": (lambda w: (w.t(),), (floats(6, 6),), {0: 0}),
    "added to its transpose": (lambda w: (w + w.t(),), (floats(6, 6),), {0: 0}),
    "a permuted result": (lambda w, g: ((w * g).t(),), (floats(6, 6), floats(6, 6)), {0: 0}),
    "a large one, shifted": (lambda w: (w.t() * 2, w.sum(0)), (floats(150, 150),), {0: 0}),
    "a constant": (lambda w: (torch.full_like(w, 3.0), w.sum()), (floats(4, 3),), {0: 0}),
    "a constant, unread": (lambda w: (torch.full_like(w, 0.0),), (floats(4, 3),), {0: 0}),
    "unchanged": (lambda w: (w, w * 2), (floats(4, 3),), {0: 0}),
    "one value for two": (lambda a, b, g: ((n := a + g), n, n.sum() + b), (floats(4, 3),) * 3, {0: 0, 1: 1}),
    "one view for two": (lambda a, b, g: ((n := a + g), n.t(), b), (floats(4, 4),) * 3, {0: 0, 1: 1}),
    "one data input for two": (lambda a, b, g: (g, g, a - b), (floats(4, 3),) * 3, {0: 0, 1: 1}),
    "its old value returned": (lambda w, g: (w - g, w, w - g), (floats(4, 3), floats(4, 3)), {0: 0}),
    "the old value of a swap returned": (
        lambda a, b: (b, a, a, b),
        (floats(4, 3), floats(4, 3)),
        {0: 0, 1: 1},
    ),
    "a view of another": (
        lambda a, b: (b.reshape(2, 6), b + 1, a),
        (floats(2, 6), floats(3, 4)),
        {0: 0, 1: 1},
    ),
    "of its own mean": (lambda w: (w - w.mean(),), (floats(40, 50),), {0: 0}),
    "of its own variance": (lambda w: (w / w.var(0), w.mean(0)), (floats(40, 50),), {0: 0}),
    "a mask of the old value": (lambda w: (w * 2 - 1, w > 0, (w > 0).sum(0)), (floats(40, 50),), {0: 0}),
    "booleans": (lambda m, x: (~m, m & (x > 0)), (floats(40) > 0, floats(40)), {0: 0}),
    "the new value returned": (lambda w: ((n := w + 1), n), (floats(4, 3),), {0: 0}),
    "a scalar": (lambda s, x: (s * 0.9 + x.sum(), s), (floats(), floats(9)), {0: 0}),
    "a scalar, rotated and returned": (
        lambda a, b, x: (b * 2, a * x.sum(), b),
        (floats(), floats(), floats(9)),
        {0: 0, 1: 1},
    ),
    "data, returned": (lambda w, x: ((n := x.t()), n, w.sum(), n @ n), (floats(4, 4), floats(4, 4)), {0: 0}),
    "a counter": (lambda s: (s + 1, s.float() * 2), (torch.tensor(4),), {0: 0}),
    "a result of a reduction": (lambda s, x: (x.sum(0), s - x.sum(0)), (floats(9), floats(5, 9)), {0: 0}),
    "a convolution's weight": (
        lambda w, x: (
            w - 0.1 * functional.conv2d(x, w).sum(),
            functional.conv2d(x, w),
            w,
            (w * w).sum((1, 2, 3)),
        ),
        (floats(4, 3, 3, 3), floats(2, 3, 5, 6)),
        {0: 0},
    ),
    "a convolution's weight, reversed": (
        lambda w, x: (w.transpose(2, 3), functional.conv2d(x, w)),
        (floats(4, 3, 3, 3), floats(2, 3, 5, 6)),
        {0: 0},
    ),
    "momentum": (
        lambda w, m, g: (w - 0.1 * (0.9 * m + g + 1e-4 * w), 0.9 * m + g + 1e-4 * w),
        (floats(300, 70), floats(300, 70), floats(300, 70)),
        {0: 0, 1: 1},
    ),
    "running statistics": (
        batch_norm,
        (floats(4, 5, 6, 7), floats(5), floats(5), floats(5), floats(5).abs(), floats(4, 5, 6, 7)),
        {3: 1, 4: 2},
    ),
}
