"""Runs that take their random decisions from elsewhere: draws by counter, gates as another run had them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from e2compile.ops import GUARD

aten = torch.ops.aten


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


class Decisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives each e2.guard its mask [samples] from `given`, by name; `taken` holds what every guard gave.

    A guard without an entry decides for itself. So one run's `taken` is another's `given`: a graph in
    float64 then runs the blocks that the float32 program ran, though p lies within rounding of its draw.
    """

    def __init__(self, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given, self.taken = dict(given or {}), dict[str, Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not GUARD:
            return func(*args, **(kwargs or {}))
        mask, name = args[:2]
        self.taken[name] = self.given.get(name, mask).clone()
        return self.taken[name].clone()
