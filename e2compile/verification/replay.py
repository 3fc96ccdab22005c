"""Single steps in PyTorch with draws and decisions from elsewhere: by counter, or as another run had them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from e2compile.graph import Kind, StepGraph, in_float64

aten = torch.ops.aten

Values = dict[tuple[Kind, str], Tensor]

NUDGE = 2.0**-20


class CounterDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Feeds eager PyTorch the draws that the captured graph makes: site by site, in order of execution."""

    def __init__(self, seed: int, step: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed, self.step, self.site = torch.tensor(seed), torch.tensor(step), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.site += 1
        shape = args[0] if func is aten.rand.default else args[0].shape
        draw = torch.ops.e2.uniform(self.seed, self.step, self.site, list(shape))
        if func in (aten.rand.default, aten.rand_like.default):
            return draw
        like: Tensor = args[0]
        chance = args[1] if len(args) > 1 else like
        ones = (draw < chance).to(like.dtype)
        return like.copy_(ones) if func is aten.bernoulli_.float else ones


def cast(tensor: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return tensor.to(memory_format=layout) if tensor.dim() == 4 else tensor


@dataclass(frozen=True)
class Start:
    """What a step starts from: a program's state, one batch, and a scheduled step with its learning rates."""

    state: Values
    batch: tuple[Tensor, ...]
    seed: int
    step: int
    rates: Any

    def nudged(self, number: int | None) -> "Start":
        """The same with every weight moved by a few roundings; as it is for None."""
        if number is None:
            return self
        generator = torch.Generator().manual_seed(number)
        state = {
            key: nudge(value, generator) if key[0] is Kind.PARAMETER else value
            for key, value in self.state.items()
        }
        return replace(self, state=state)


def nudge(parameter: Tensor, generator: torch.Generator) -> Tensor:
    return parameter * (1 + NUDGE * (2 * torch.rand(parameter.shape, generator=generator) - 1))


def arguments_of(
    graph: StepGraph, start: Start, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format
) -> list[Tensor]:
    """The inputs of a graph's step, floats in `dtype`."""
    state = {target: value for (_, target), value in start.state.items()}
    values: dict[Kind, Any] = {
        Kind.SEED: torch.tensor(start.seed),
        Kind.STEP: torch.tensor(start.step),
        Kind.RATE: torch.from_numpy(np.array(start.rates)),
    }
    arguments = []
    for slot in graph.inputs:
        plain: Any = state[slot.target] if slot.kind.is_state else values.get(slot.kind)
        value = start.batch[int(slot.target)] if slot.kind is Kind.DATA else plain
        arguments.append(cast(value, dtype, layout))
    return arguments


def graph_step(
    graph: StepGraph, start: Start, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format
) -> Values:
    """One step of a graph in PyTorch."""
    arguments = arguments_of(graph, start, dtype, layout)
    with torch.no_grad():
        results = (in_float64(graph.module) if dtype is torch.float64 else graph.module)(*arguments)
    return {(slot.kind, slot.target): value for slot, value in zip(graph.outputs, results, strict=True)}
