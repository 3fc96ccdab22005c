"""The oracle: a step graph run in PyTorch with the integers and flags that a compiled step took.

Rounding decides on which side of a threshold a value falls, and one decision changes all that follows. So the
oracle takes the program's decisions - gates, codes, masks, places of maxima - where the program stored them,
and says how far its own would have been from them; integers that are no decision must be the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx

from e2compile.graph import StepGraph, targets, where
from e2compile.lower.kinds import ARITHMETIC, COMPARISONS
from e2compile.ops import PRODUCTS
from e2compile.verification.replay import Start, Values, arguments_of

_ELEMENTWISE = (*ARITHMETIC, *COMPARISONS, torch.ops.aten.where.self, torch.ops.aten._to_copy.default)
_COND = torch.ops.higher_order.cond
# Two sides of a comparison this near to each other, as a share of the largest magnitude, may change places.
_NEAR = 1e-5
# As near are they as rounding usually makes them: the batch norms before a ReLU err by a few times 2^-24.
_ROUNDING = 1e-6
_EQUAL = 1e-37


@dataclass(frozen=True)
class Stored:
    """What a program wrote for a call: `value`, of which only `rows` (bool, broadcast) count if given."""

    value: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class Decision:
    """How the oracle's own value of a call differs from the program's.

    `flipped` is the share of elements that differ at all, `far` of those that rounding does not explain:
    codes that differ by more than one, flags whose two sides are not near each other; but not those that
    hang on a comparison whose sides are near and that the program took within a kernel, as it may that of a
    ReLU's gradient. `is_product` marks sums of integers, which may not differ. `unit` is the weight of one
    code: that of a low byte is 1/256.
    """

    what: str
    line: str
    flipped: float
    far: float
    elements: int
    is_product: bool
    unit: float = 1.0


class Oracle:
    """Runs a step graph from one start with what a program stored; `record` is the last run's differences."""

    def __init__(self, step: StepGraph, start: Start, stored: Mapping[fx.Node, Stored]) -> None:
        self.step, self.start, self.stored = step, start, stored
        self.record: list[Decision] = []

    def __call__(
        self,
        dtype: torch.dtype,
        layout: torch.memory_format = torch.contiguous_format,
        number: int | None = None,
        is_flipped: bool = False,
    ) -> Values:
        """The results in floats of `dtype`; `number` moves the weights a little, see Start.nudged.

        `is_flipped` turns over what is close and the program has not stored: the other side of each kink.
        """
        arguments = arguments_of(self.step, self.start.nudged(number), dtype, layout)
        self.record = []
        interpreter = _Interpreter(self.step.module, self.stored, dtype, self.record, is_flipped)
        with torch.no_grad():
            results = interpreter.run(*arguments)
        return {(s.kind, s.target): value for s, value in zip(self.step.outputs, results, strict=True)}


class _Interpreter(fx.Interpreter):
    def __init__(
        self,
        module: fx.GraphModule,
        stored: Mapping[fx.Node, Stored],
        dtype: torch.dtype,
        record: list[Decision],
        is_flipped: bool = False,
    ) -> None:
        super().__init__(module)
        self.stored, self.dtype, self.record, self.is_flipped = stored, dtype, record, is_flipped
        self.close: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.target is _COND:
            return self._conditional(n)
        value = super().run_node(n)
        stored = self.stored.get(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        if stored is None:
            near = _kinks(n, args, value, _NEAR)
            if near is None or not near.any():
                return value
            self.close[n] = near
            if not self.is_flipped:
                return value
            return _other_side(args, value, _kinks(n, args, value, _ROUNDING))
        self.record.append(_differences(n, args, value, stored, self._close(n)))
        if n.target in PRODUCTS:
            return value
        return stored.value if stored.rows is None else torch.where(stored.rows, stored.value, value)

    def _conditional(self, n: fx.Node) -> Any:
        """The branch that is taken; what was close before it is so within, and the other way round."""
        (condition, taken, other, operands), _ = self.fetch_args_kwargs_from_env(n)
        branch = taken if bool(condition) else other
        inner = _Interpreter(branch, self.stored, self.dtype, self.record, self.is_flipped)
        places = branch.graph.find_nodes(op="placeholder")
        given: Any = n.args[3]
        inner.close |= _merged(zip(places, map(self._close, given), strict=True))
        values = inner.run(*operands)
        results = branch.graph.output_node().args[0]
        self.close |= _merged((item, inner._close(results[item.args[1]])) for item in n.users)
        return values

    def _close(self, node: fx.Node) -> list[Tensor]:
        """Where comparisons that the program took within a kernel, and stored nowhere, were close, of those
        that decide about the same element of `node`."""
        shape, seen, waiting = node.meta["val"].shape, {node}, [node]
        while waiting:
            for before in waiting.pop().all_input_nodes:
                is_known = before.target in _ELEMENTWISE or before in self.close
                if is_known and before not in seen and before.meta["val"].shape == shape:
                    seen.add(before)
                    waiting.append(before)
        return [self.close[n] for n in seen if n in self.close]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("dtype") is torch.float32:
            kwargs = {**kwargs, "dtype": self.dtype}
        return super().call_function(target, args, kwargs)


def _merged(close: Iterable[tuple[fx.Node, list[Tensor]]]) -> dict[fx.Node, Tensor]:
    """One mask for each node of those that have any."""
    return {node: reduce(torch.logical_or, masks) for node, masks in close if masks}


def _differences(node: fx.Node, args: Any, own: Tensor, stored: Stored, close: Sequence[Tensor]) -> Decision:
    apart = (own.to(torch.int64) - stored.value.to(torch.int64)).abs()
    far = (apart > 1) & (apart < 255)  # a low byte wraps around where its high byte moves by one
    if stored.value.dtype is torch.bool:
        far = (apart > 0) & ~_near(node, args, apart)
    elif stored.value.dtype is torch.int64:  # of equal maxima either may be taken
        far = torch.zeros_like(far)
    for near in close:
        far &= ~near
    if stored.rows is not None:
        apart, far = (t[stored.rows.expand(t.shape)] for t in (apart, far))
    elements = max(apart.numel(), 1)
    shares = int((apart > 0).sum()) / elements, int(far.sum()) / elements
    unit = node.meta.get("unit", 1.0)
    return Decision(targets(node), where(node), *shares, elements, node.target in PRODUCTS, unit)


def _kinks(node: fx.Node, args: Any, value: Tensor, share: float) -> Tensor | None:
    """Where a call decides by a hair: comparisons, and ReLUs, whose gradient asks whether the result is zero.

    Sides that are equal, as those of that question are, are no near miss.
    """
    if node.target is torch.ops.aten.relu.default:
        size: Tensor = args[0].abs()
        return size <= share * size.max()
    if node.target not in COMPARISONS:
        return None
    a, b = (torch.as_tensor(side, dtype=torch.float64) for side in args[:2])
    return _near(node, args, value, share) & ((a - b).abs() > _EQUAL)


def _other_side(args: Any, value: Tensor, near: Any) -> Tensor:
    """What a call would give were its first argument a little larger, or smaller."""
    if value.dtype is torch.bool:
        return torch.logical_xor(value, near)
    return torch.where(near, torch.where(args[0] > 0, 0.0, _EQUAL), value)


def _near(node: fx.Node, args: Any, like: Tensor, share: float = _NEAR) -> Tensor:
    """Where the two sides of a comparison are within rounding of each other; nowhere for other calls."""
    if node.target not in COMPARISONS:
        return torch.zeros_like(like, dtype=torch.bool)
    a, b = (torch.as_tensor(side, dtype=torch.float64) for side in args[:2])
    largest = max(float(a.abs().max()), float(b.abs().max()))
    return ((a - b).abs() <= share * largest).expand(like.shape)


def rows_of(mask: Tensor, axis: int, rank: int) -> Tensor:
    """A mask [samples] as one of a value with its samples along `axis`."""
    shape = [1] * rank
    shape[axis] = len(mask)
    return mask.reshape(shape)
