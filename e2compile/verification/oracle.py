"""The oracle: a step graph run in PyTorch with the integers and flags that a compiled step took.

Rounding decides on which side of a threshold a value falls, and one decision changes all that follows. So the
oracle takes the program's decisions - gates, codes, masks, places of maxima - where the program stored them,
and says how far its own would have been from them; integers that are no decision must be the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from e2compile.graph import StepGraph, targets, where
from e2compile.lower.kinds import COMPARISONS
from e2compile.ops import PRODUCTS
from e2compile.verification.replay import Start, Values, arguments_of

_COND = torch.ops.higher_order.cond
# Two sides of a comparison this near to each other, as a share of the largest magnitude, may change places.
_NEAR = 1e-5
# As near are they as rounding usually makes them: the batch norms before a ReLU err by a few times 2^-24.
ROUNDING = 1e-6
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
    codes and values in bfloat16 that differ by more than one step, flags whose two sides are not near each
    other. `is_product` marks sums of integers, which may not differ. `unit` is the weight of one code: that
    of a low byte is 1/256.
    """

    what: str
    line: str
    flipped: float
    far: float
    elements: int
    is_product: bool
    unit: float = 1.0


class Oracle:
    """Runs a step graph from one start with what a program stored."""

    def __init__(self, step: StepGraph, start: Start, stored: Mapping[fx.Node, Stored]) -> None:
        self.step, self.start, self.stored = step, start, stored

    def __call__(
        self,
        dtype: torch.dtype,
        layout: torch.memory_format = torch.contiguous_format,
        number: int | None = None,
        flip: float = 0.0,
    ) -> Values:
        """The results in floats of `dtype`; `number` moves the weights a little, see Start.nudged.

        `flip` turns over what is so close and the program has not stored: the other side of each kink.
        """
        return self._run(dtype, lambda *_: None, layout, number, flip)

    def judged(self) -> tuple[Values, list[Decision]]:
        """The results in float64, and how the program's decisions differ from the oracle's own there.

        A kernel decides in float32, and stores neither a ReLU's nor its gradient's choice. One that falls
        the other way moves its own code, and through the sums of a batch norm a little those of a whole
        channel. So what is still unexplained is held against runs with the other side of what is close, too.
        """
        judge = _Judge()
        values = self._run(torch.float64, judge.see)
        for share in (ROUNDING, _NEAR):
            if judge.doubts:
                self._run(torch.float64, judge.see_again, flip=share)
        return values, judge.decisions()

    def _run(
        self,
        dtype: torch.dtype,
        see: "_See",
        layout: torch.memory_format = torch.contiguous_format,
        number: int | None = None,
        flip: float = 0.0,
    ) -> Values:
        arguments = arguments_of(self.step, self.start.nudged(number), dtype, layout)
        with torch.no_grad():
            results = _Interpreter(self.step.module, self.stored, dtype, see, flip).run(*arguments)
        return {(s.kind, s.target): value for s, value in zip(self.step.outputs, results, strict=True)}


# Told of each call that the program has stored: its arguments, the oracle's own value, the program's.
_See = Callable[[fx.Node, Any, Tensor, Stored], None]


class _Interpreter(fx.Interpreter):
    def __init__(
        self,
        module: fx.GraphModule,
        stored: Mapping[fx.Node, Stored],
        dtype: torch.dtype,
        see: _See,
        flip: float = 0.0,
    ) -> None:
        super().__init__(module)
        self.stored, self.dtype, self.see, self.flip = stored, dtype, see, flip

    def run_node(self, n: fx.Node) -> Any:
        if n.target is _COND:
            return self._conditional(n)
        value = super().run_node(n)
        stored = self.stored.get(n)
        if stored is None and not self.flip:
            return value
        args, _ = self.fetch_args_kwargs_from_env(n)
        if stored is None:
            near = _kinks(n, args, value, self.flip)
            return value if near is None else _other_side(args, value, near)
        self.see(n, args, value, stored)
        if n.target in PRODUCTS:
            return value
        return stored.value if stored.rows is None else torch.where(stored.rows, stored.value, value)

    def _conditional(self, n: fx.Node) -> Any:
        (condition, taken, other, operands), _ = self.fetch_args_kwargs_from_env(n)
        branch = taken if bool(condition) else other
        return _Interpreter(branch, self.stored, self.dtype, self.see, self.flip).run(*operands)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("dtype") is torch.float32:
            kwargs = {**kwargs, "dtype": self.dtype}
        return super().call_function(target, args, kwargs)


class _Judge:
    """Compares a program's decisions with those of one run, and what differs with other runs'."""

    def __init__(self) -> None:
        self.seen: dict[fx.Node, Decision] = {}
        # The first run's own value, and where neither it nor a run since explains the program's.
        self.doubts: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def see(self, node: fx.Node, args: Any, own: Tensor, stored: Stored) -> None:
        apart = _apart(own, stored.value)
        far = apart > 1
        if stored.value.dtype is torch.bool:
            far = (apart > 0) & ~_near(node, args, apart)
        elif stored.value.dtype is torch.int64:  # of equal maxima either may be taken
            far = torch.zeros_like(far)
        flipped, elements = apart > 0, apart.numel()
        if stored.rows is not None:
            counted = stored.rows.expand(apart.shape)
            far, flipped, elements = far & counted, flipped & counted, int(counted.sum())
        elements = max(elements, 1)
        share = int(flipped.sum()) / elements
        unit = node.meta.get("unit", 1.0)
        is_product = node.target in PRODUCTS
        self.seen[node] = Decision(targets(node), where(node), share, 0.0, elements, is_product, unit)
        if far.any() and not is_product:
            self.doubts[node] = own, far

    def see_again(self, node: fx.Node, _: Any, other: Tensor, stored: Stored) -> None:
        """A program's code is explained where it lies between the first run's and this one's, and each is
        off by a rounding of its own."""
        if node not in self.doubts:
            return
        own, far = self.doubts.pop(node)
        detour = _apart(own, stored.value) + _apart(stored.value, other) - _apart(own, other)
        far = far & (detour > (0 if stored.value.dtype is torch.bool else 2))
        if far.any():
            self.doubts[node] = own, far

    def decisions(self) -> list[Decision]:
        """Of each call, in the order of the first run."""
        far = {node: int(where.sum()) for node, (_, where) in self.doubts.items()}
        return [replace(d, far=far.get(node, 0) / d.elements) for node, d in self.seen.items()]


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """How far values are from each other; bytes on a circle, as a low one wraps where its high one moves,
    bfloat16 in steps from one to the next."""
    if a.dtype is torch.bfloat16:
        a, b = (_steps_from_zero(value) for value in (a, b))
    apart = (a.to(torch.int64) - b.to(torch.int64)).abs()
    return torch.minimum(apart, 256 - apart) if a.dtype.itemsize == 1 else apart


def _steps_from_zero(value: Tensor) -> Tensor:
    bits = value.contiguous().view(torch.int16).to(torch.int64)
    return torch.where(bits < 0, -(bits + 2**15), bits)


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
