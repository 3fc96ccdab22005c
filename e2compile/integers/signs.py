"""Signs: a weight gradient's sign from integer products, predicted from a part of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from e2compile.graph import conditional
from e2compile.integers.quantise import LOW_UNIT, Writer, planes, shortened
from e2compile.ops import INTEGER_WEIGHT_GRADIENT

aten = torch.ops.aten

Fallback = Literal["never", "layer", "tile", "element"]

TILE = 16


@dataclass(frozen=True)
class Rule:
    """How a predicted sign is taken. An element is sure where |predicted| >= beta * max |predicted|.

    `fallback` says for what the full product's sign is taken: nothing; a layer, or a tile of 16 x 16 elements
    of the O x (C * KH * KW) matrix, of which more than `unsure_limit` is unsure; each unsure element.
    """

    fallback: Fallback
    beta: float
    unsure_limit: float
    measure: bool


@dataclass(frozen=True)
class Factors:
    """What a weight gradient is a product of.

    `x` are its codes, `high` and `low` the byte planes of the output gradient, `low` None for 8-bit
    gradients. `predictor` are the codes of x and the planes of g that the predictor takes; None where it is
    the product of `x` and `high`, the first half of the full one. `scale` [O, 1, 1, 1] divides the products
    where the steps of the weights, one for each output channel, were folded into g.
    """

    x: fx.Node
    high: fx.Node
    low: fx.Node | None
    predictor: tuple[fx.Node, tuple[fx.Node, ...]] | None
    scale: fx.Node | None


@dataclass(frozen=True)
class Signs:
    """The signs, float32 in -1, 0, 1, and the counters that tell how they were found, by name."""

    value: fx.Node
    counters: dict[str, fx.Node]


@dataclass(frozen=True)
class Products:
    """Calls e2.integer_weight_gradient of one convolution; `add_branch` enters a submodule and names it."""

    size: Sequence[int]
    geometry: tuple[Any, ...]
    add_branch: Callable[[str, fx.Graph], str]

    def __call__(self, write: Writer, x: fx.Node, grad: fx.Node) -> fx.Node:
        return write(INTEGER_WEIGHT_GRADIENT, x, grad, list(self.size), *self.geometry)


def short_codes(write: Writer, codes: fx.Node, bits: int, of: int) -> fx.Node:
    """Codes of `of` bits rounded to the nearest of `bits`, in their own integer type, clamped to it.

    Never the leading bits alone: floored, small negative values become -1 and most signs come out wrong.
    """
    if bits == of:
        return codes
    short = shortened(write, write.cast(codes, torch.float32), of - bits)
    is_signed = codes.meta["val"].dtype is torch.int8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    return write.cast(write(aten.clamp.default, short, low, high), codes.meta["val"].dtype)


def short_planes(write: Writer, rounded: fx.Node, bits: int) -> tuple[fx.Node, ...]:
    """16-bit codes (float32) rounded to `bits`, as one int8 plane, or two where they have more than eight."""
    limit = 2 ** (bits - 1) - 1
    short = write(aten.clamp.default, shortened(write, rounded, 16 - bits), -limit, limit)
    if bits <= 8:
        return (write.cast(short, torch.int8),)
    high, low = (write.cast(part, torch.int8) for part in planes(write, short))
    low.meta["unit"] = LOW_UNIT
    return high, low


def signs(write: Writer, product: Products, factors: Factors, rule: Rule) -> Signs:
    """The sign of each element of a weight gradient, by prediction (E2-Train, section 3.3).

    sign(predicted) where |predicted| >= tau = beta * max |predicted|, over one weight; elsewhere, or in
    whole layers or tiles, the sign of the full product. sign(0) is 0.
    """
    return _Signs(write, product, factors, rule).run()


class _Signs:
    def __init__(self, write: Writer, product: Products, factors: Factors, rule: Rule) -> None:
        self.write, self.product, self.factors, self.rule = write, product, factors, rule
        self.count = 1
        for extent in product.size:
            self.count *= extent

    def run(self) -> Signs:
        high, sums = self._predicted()
        sure = self._sure(sums)
        sure_count = self._total(sure)
        share = self.write(aten.mul.Scalar, sure_count, 1 / self.count)
        taken, ran = self._taken(high, self._joined(sums), sure, sure_count)
        value = self.write.cast(taken, torch.float32)
        counters = {"sure": share, "fallback": ran}
        if self.rule.measure:
            wrong = self._total(self.write(aten.ne.Tensor, taken, self._full(high)))
            counters["errors"] = self.write(aten.mul.Scalar, wrong, 1 / self.count)
        return Signs(value, counters)

    def _predicted(self) -> tuple[fx.Node | None, list[fx.Node]]:
        """The full product's first half where it is made already, and the predictor's sum of each plane."""
        if self.factors.predictor is None:
            high = self.product(self.write, self.factors.x, self.factors.high)
            return high, [high]
        x, parts = self.factors.predictor
        return None, [self.product(self.write, x, part) for part in parts]

    def _joined(self, sums: Sequence[fx.Node]) -> fx.Node:
        """256 * high + low, exactly, or the only plane's sum, in int64."""
        value = self.write.cast(sums[0], torch.int64)
        for other in sums[1:]:
            value = self.write(aten.mul.Scalar, value, 256)
            value = self.write(aten.add.Tensor, value, self.write.cast(other, torch.int64))
        return value

    def _sure(self, sums: Sequence[fx.Node]) -> fx.Node:
        predicted = sums[0] if len(sums) == 1 else self._joined(sums)
        magnitude = self.write(aten.abs.default, self.write.cast(predicted, torch.float32))
        if self.factors.scale is not None:
            magnitude = self.write(aten.div.Tensor, magnitude, self.factors.scale)
        most = self.write(aten.amax.default, self.write(aten.amax.default, magnitude, [1, 2, 3]), [0])
        threshold = self.write(aten.mul.Scalar, most, self.rule.beta)
        return self.write(aten.ge.Tensor, magnitude, threshold)

    def _total(self, flags: fx.Node) -> fx.Node:
        """How many hold, in float32; exact up to 2^24."""
        ones = self.write.cast(flags, torch.float32)
        return self.write(aten.sum.dim_IntList, self.write(aten.sum.dim_IntList, ones, [1, 2, 3]), [0])

    def _full(self, high: fx.Node | None) -> fx.Node:
        """The full product's sign, int64."""
        x, low = self.factors.x, self.factors.low
        high = high if high is not None else self.product(self.write, x, self.factors.high)
        sums = [high] if low is None else [high, self.product(self.write, x, low)]
        return self.write(aten.sign.default, self._joined(sums))

    def _taken(
        self, high: fx.Node | None, predicted: fx.Node, sure: fx.Node, sure_count: fx.Node
    ) -> tuple[fx.Node, fx.Node]:
        """The signs taken, int64, and whether the rest of the full product ran."""
        write = self.write
        first = write(aten.sign.default, predicted)
        if self.rule.fallback == "never":
            return first, write(aten.full.default, [], 0, dtype=torch.int64)
        if self.rule.fallback == "layer":
            least = self.count * (1 - self.rule.unsure_limit)
            return self._by_layer(high, first, write(aten.lt.Scalar, sure_count, least))
        chosen = sure if self.rule.fallback == "element" else self._sure_tiles(sure)
        taken = write(aten.where.self, chosen, first, self._full(high))
        return taken, write(aten.full.default, [], 1, dtype=torch.int64)

    def _by_layer(self, high: fx.Node | None, first: fx.Node, unsure: fx.Node) -> tuple[fx.Node, fx.Node]:
        """cond(unsure, the rest of the full product, zeros): it runs for the whole layer, or not at all."""
        write, x, low = self.write, self.factors.x, self.factors.low
        assert low is not None
        rest = [low] if high is not None else [self.factors.high, low]
        operands = [x, *rest]
        names = ["x", "high", "low"] if high is None else ["x", "low"]
        branches = self._branch("execute", operands, names), self._branch("skip", operands, names)
        with write.mode:
            values = [torch.empty(list(self.product.size), dtype=torch.int32) for _ in rest]
        sums = conditional(write.graph, unsure, operands, values, branches, write.blame)
        # a program leaves what a branch does not run unwritten
        nothing = write(aten.full.default, [], 0, dtype=torch.int32)
        sums = [write(aten.where.self, unsure, item, nothing) for item in sums]
        ran = write.cast(unsure, torch.int64)
        if high is not None:  # with a low half of zeros the full sign is the high half's
            return write(aten.sign.default, self._joined([high, *sums])), ran
        full = write(aten.sign.default, self._joined(sums))
        return write(aten.where.self, unsure, full, first), ran

    def _branch(self, kind: str, operands: Sequence[fx.Node], names: Sequence[str]) -> str:
        graph = fx.Graph()
        places = []
        for operand, name in zip(operands, names, strict=True):
            places.append(graph.placeholder(name))
            places[-1].meta = dict(operand.meta)
        write = Writer(graph, self.write.blame)
        x, *rest = places
        if kind == "execute":
            graph.output([self.product(write, x, plane) for plane in rest])
        else:
            graph.output(
                [write(aten.full.default, list(self.product.size), 0, dtype=torch.int32) for _ in rest]
            )
        return self.product.add_branch(kind, graph)

    def _sure_tiles(self, sure: fx.Node) -> fx.Node:
        """For each element whether its tile is sure enough; places beyond the edge count as sure."""
        write, rows = self.write, self.product.size[0]
        columns = self.count // rows
        down, across = -(-rows // TILE), -(-columns // TILE)
        ones = write(aten.sub.Scalar, write.cast(sure, torch.float32), 1.0)
        matrix = write(aten.view.default, ones, [rows, columns])
        padding = [0, across * TILE - columns, 0, down * TILE - rows]
        matrix = write(aten.constant_pad_nd.default, matrix, padding)
        tiles = write(aten.view.default, matrix, [down, TILE, across, TILE])
        unsure = write(aten.sum.dim_IntList, tiles, [1, 3], True)
        enough = write(aten.ge.Scalar, unsure, -self.rule.unsure_limit * TILE * TILE)
        spread = write(aten.expand.default, enough, [down, TILE, across, TILE])
        spread = write(aten.reshape.default, spread, [down * TILE, across * TILE])
        spread = write(aten.slice.Tensor, write(aten.slice.Tensor, spread, 0, 0, rows), 1, 0, columns)
        return write(aten.reshape.default, spread, list(self.product.size))
