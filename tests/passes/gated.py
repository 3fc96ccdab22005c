"""Networks with gated blocks in eager PyTorch that really leave samples out: the oracle of LayerGate.

A block runs on the executed samples alone, picked by index and added back to the shortcut at their places;
batch norm is PyTorch's own on that part of the batch.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import models

Layer = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Residual:
    """after(shortcut(fork(x)) + branch(fork(x)))"""

    branch: Layer
    fork: Layer = same
    shortcut: Layer = same
    after: Layer = same


def stages(model: nn.Module) -> list[Layer | Residual]:
    """A network of tests.models as the layers and residual blocks it is made of."""
    if isinstance(model, models.FunctionalNet):
        return _functional(model)
    return [_stage(layer) for layer in model.children()]


def _stage(layer: nn.Module) -> Layer | Residual:
    if isinstance(layer, models.BasicBlock):
        return Residual(
            lambda x: layer.bn2(layer.conv2(F.relu(layer.bn1(layer.conv1(x))))),
            shortcut=layer.shortcut,
            after=F.relu,
        )
    if isinstance(layer, models.PreactBlock):
        return _preact(layer)
    if isinstance(layer, models.InvertedResidual) and layer.adds:
        return Residual(layer.layers)
    return layer


def _preact(layer: models.PreactBlock) -> Residual:
    def rest(y: Tensor) -> Tensor:
        return layer.conv2(F.relu(layer.bn2(layer.conv1(y))))

    def first(x: Tensor) -> Tensor:
        return F.relu(layer.bn1(x))

    if layer.projection is None:
        return Residual(lambda x: rest(first(x)))
    return Residual(rest, fork=first, shortcut=layer.projection)


def _functional(net: models.FunctionalNet) -> list[Layer | Residual]:
    def block(first: int) -> Residual:
        def branch(x: Tensor) -> Tensor:
            y = F.relu(net.norms[first](net.convs[first](x)))
            return net.norms[first + 1](net.convs[first + 1](y))

        return Residual(branch, after=lambda y: F.avg_pool2d(F.relu(y), 2))

    def rest(x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.max_pool2d(net.widen(x), 2), (2, 2))
        return net.head(x.flatten(1))

    return [lambda x: F.relu(net.stem(x)), block(0), block(2), rest]


class Straight(torch.autograd.Function):
    """The mask as a number; its gradient, times a factor, is p's."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return mask.to(p.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None, None


class Network(nn.Module):
    """The gates, by PyTorch's own LSTM cell, over copies of the added parameters."""

    def __init__(self, added: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.own = nn.ParameterDict({n.replace(".", "/"): nn.Parameter(t.double()) for n, t in added.items()})
        self.state: tuple[Tensor, Tensor] | None = None
        self.count = 0

    def named(self, name: str) -> Tensor:
        return self.own[f"slu/{name}".replace(".", "/")]

    def forward(self, x: Tensor) -> Tensor:
        z = F.adaptive_avg_pool2d(x, 1).flatten(1) @ self.named(f"project.{self.count}.weight").T
        self.count += 1
        cell = nn.LSTMCell(10, 10).double()
        values = {"weight_ih": self.named("lstm.weight_ih"), "weight_hh": self.named("lstm.weight_hh")}
        values |= {"bias_ih": self.named("lstm.bias"), "bias_hh": torch.zeros(40, dtype=torch.float64)}
        self.state = torch.func.functional_call(cell, values, (z, self.state))
        score = F.linear(self.state[0], self.named("head.weight"), self.named("head.bias"))
        return torch.sigmoid(score).flatten()


@dataclass(frozen=True)
class Outcome:
    """What one step of the oracle gives: loss, p and masks by gate, new buffers, gradients."""

    loss: Tensor
    chances: list[Tensor]
    masks: list[Tensor]
    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Oracle:
    """A network with its gates; `skip` leading blocks have none, `shares` are the blocks' work."""

    model: nn.Module
    added: Mapping[str, Tensor]
    shares: Sequence[float]
    skip: int = 1
    floor: float = 0.05
    target_skip: float = 0.4
    alpha: float = 10.0
    importance: bool = False

    def step(
        self, batch: tuple[Tensor, Tensor], masks: Sequence[Tensor] | None, draws: Any = None
    ) -> Outcome:
        """Forward and backward; masks are given, or made from `draws(gate)` [samples]."""
        model, gates = copy.deepcopy(self.model).double().train(), Network(self.added)
        chances: list[Tensor] = []
        taken: list[Tensor] = []
        x, left = batch[0].double(), self.skip
        for stage in stages(model):
            if not isinstance(stage, Residual):
                x = stage(x)
                continue
            fork = stage.fork(x)
            if left:
                left -= 1
                x = stage.after(stage.shortcut(fork) + stage.branch(fork))
                continue
            p = self.floor + (1 - self.floor) * gates(fork)
            mask = masks[len(chances)] if masks is not None else draws(len(chances)) < p
            chances.append(p)
            taken.append(mask)
            x = stage.after(self._block(stage, fork, p, mask))
        mean = sum(share * p.mean() for share, p in zip(self.shares, chances, strict=True))
        loss = F.cross_entropy(x, batch[1]) + self.alpha * (mean - (1 - self.target_skip)) ** 2
        loss.backward()
        named = {n: p.grad for n, p in model.named_parameters()}
        named |= {n.replace("/", "."): p.grad for n, p in gates.own.items()}
        gradients = {n: torch.zeros(()) if g is None else g for n, g in named.items()}
        return Outcome(loss.detach(), chances, taken, dict(model.named_buffers()), gradients)

    def _block(self, stage: Residual, fork: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        index = mask.nonzero().flatten()
        total = stage.shortcut(fork)
        if not len(index):
            return total
        factor = 1 / p.detach().clamp(min=0.1) if self.importance else torch.ones_like(p)
        ones = Straight.apply(p, mask, factor)[index].reshape(-1, 1, 1, 1)
        return total.index_add(0, index, ones * stage.branch(fork[index]))
