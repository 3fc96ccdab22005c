"""A graph run in PyTorch with the decisions of its gates forced."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from e2compile.ops import GUARD


class Decisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives each e2.guard its mask [samples] from `given`, by name; others decide for themselves."""

    supports_higher_order_operators = True

    def __init__(self, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = dict(given or {})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.higher_order.cond:
            condition, *branches, operands = args
            with self:
                return branches[not condition](*operands)
        if func is not GUARD:
            return func(*args, **(kwargs or {}))
        mask, name = args[:2]
        return self.given.get(name, mask).clone()
