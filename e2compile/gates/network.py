"""Gates as calls of a forward graph: a recurrent network that gives each block a probability of running."""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from e2compile.forward import ForwardGraph, add_parameter
from e2compile.graph import insert

aten = torch.ops.aten

PREFIX = "slu."
# Of the projections and of the state that goes from gate to gate (SkipNet, Wang et al., ECCV 2018).
SIZE = 10


def initial(channels: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Initial parameters by name, for gates on inputs of so many channels; a pure function of both.

    LSTM and head as PyTorch's modules have them, uniform in +-1 / sqrt(10); projections normal with
    variance 2 / 10. The LSTM has one bias, the sum of PyTorch's two.
    """
    random = torch.Generator().manual_seed(seed)
    shapes = {
        "lstm.weight_ih": (4 * SIZE, SIZE),
        "lstm.weight_hh": (4 * SIZE, SIZE),
        "lstm.bias": (4 * SIZE,),
        "head.weight": (1, SIZE),
        "head.bias": (1,),
    }
    values = {n: (2 * torch.rand(s, generator=random) - 1) / math.sqrt(SIZE) for n, s in shapes.items()}
    for i, count in enumerate(channels):
        weight = torch.randn((SIZE, count), generator=random)
        values[f"project.{i}.weight"] = weight * math.sqrt(2 / SIZE)
    return {PREFIX + name: value for name, value in values.items()}


class Gates:
    """Inserts gates, one after the other along the depth of a network; they share an LSTM and a head."""

    def __init__(self, forward: ForwardGraph, parameters: dict[str, Tensor]) -> None:
        self.graph = forward.graph
        self.nodes = {name: add_parameter(forward, name, value) for name, value in parameters.items()}
        self.hidden: fx.Node | None = None
        self.cell: fx.Node | None = None
        self.count = 0

    def probability(self, x: fx.Node, blame: fx.Node) -> fx.Node:
        """The next gate at the graph's insertion point: [samples, 1] in 0 .. 1, of x [samples, C, H, W]."""
        pooled = self._call(blame, aten.mean.dim, x, [2, 3])
        weight = self.nodes[f"{PREFIX}project.{self.count}.weight"]
        self.count += 1
        self._advance(self._call(blame, aten.linear.default, pooled, weight), blame)
        score = self._call(blame, aten.linear.default, self.hidden, *self._named("head.weight", "head.bias"))
        return self._call(blame, aten.sigmoid.default, score)

    def _advance(self, x: fx.Node, blame: fx.Node) -> None:
        """One step of torch.nn.LSTMCell on [samples, 10], its state zero before the first."""
        sums = self._call(blame, aten.linear.default, x, *self._named("lstm.weight_ih", "lstm.bias"))
        if self.hidden is not None:
            (weight,) = self._named("lstm.weight_hh")
            recurrent = self._call(blame, aten.linear.default, self.hidden, weight)
            sums = self._call(blame, aten.add.Tensor, sums, recurrent)
        parts = self._call(blame, aten.split.Tensor, sums, SIZE, 1)
        write, keep, value, show = (self._call(blame, operator.getitem, parts, i) for i in range(4))
        value = self._call(blame, aten.tanh.default, value)
        cell = self._product(blame, write, value)
        if self.cell is not None:
            cell = self._call(blame, aten.add.Tensor, self._product(blame, keep, self.cell), cell)
        self.cell = cell
        self.hidden = self._product(blame, show, self._call(blame, aten.tanh.default, cell))

    def _product(self, blame: fx.Node, gate: fx.Node, value: fx.Node) -> fx.Node:
        return self._call(blame, aten.mul.Tensor, self._call(blame, aten.sigmoid.default, gate), value)

    def _named(self, *names: str) -> list[fx.Node]:
        return [self.nodes[PREFIX + name] for name in names]

    def _call(self, blame: fx.Node, target: object, *args: object) -> fx.Node:
        return insert(self.graph, target, *args, blame=blame)
