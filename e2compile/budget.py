"""Ways to spend an energy budget: settings of the chosen passes that keep a step within a share of the plain
one's joules.

What a setting costs in accuracy no cost model knows. So each way is told by what it leaves out: scheduled
steps that are not executed, work of an executed step that is not done, and what its products are made in. A
way is shown unless another is as good in all of these and no dearer, and better in one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from e2compile.counting import shares_of
from e2compile.energy import prices
from e2compile.energy.count import count
from e2compile.energy.prices import Table, Tag
from e2compile.energy.work import Work
from e2compile.errors import UsageError
from e2compile.estimate import differentiated, outlined, quote
from e2compile.passes import BatchDrop, LayerGate, Quantise, SignPredict
from e2compile.pipeline import Pass, TrainingGraph, settings_text
from e2compile.targets import Target

# Tried beside what the user has set; the paper's.
SKIPS = (0.2, 0.4, 0.6)
# Bits of Quantise's gradients; SignPredict's fallback and bits of gradients.
WIDTHS: tuple[Literal[8, 16], ...] = (16, 8)
SIGNS: tuple[tuple[Literal["never", "layer", "element"], Literal[8, 16]], ...] = (
    ("element", 16),
    ("layer", 16),
    ("never", 16),
    ("never", 8),
)
_ALIKE = 1e-9

Kind = TypeVar("Kind", BatchDrop, LayerGate, Quantise, SignPredict)


@dataclass(frozen=True)
class Arithmetic:
    """What products are made in; a higher `rank` is further from what PyTorch computes."""

    rank: int
    words: str
    passes: tuple[Pass, ...]


@dataclass(frozen=True)
class Way:
    """Settings, joules of a scheduled step and their share of the plain one's, and what is left out.

    `steps` is the share of scheduled steps that are executed, `work` what of the plain step's
    multiply-accumulates an executed step does, in whatever width.
    """

    settings: str
    joules: float
    share: float
    steps: float
    work: float
    arithmetic: str
    rank: int
    tag: Tag = Tag.MODELLED

    def beats(self, other: "Way") -> bool:
        """Whether it is as good in all, and better in something."""
        pairs = list(zip(self._merits, other._merits, strict=True))
        return all(a > b - _ALIKE for a, b in pairs) and any(a > b + _ALIKE for a, b in pairs)

    @property
    def _merits(self) -> tuple[float, ...]:
        return -round(self.share, 2), self.steps, self.work, -self.rank


def ways(graph: TrainingGraph, target: Target, budget: float, table: str | None = None) -> tuple[Way, ...]:
    """The Pareto front of the passes' settings within a budget, a share of the plain step's joules.

    Searched are the passes that the graph has: whether batches are dropped, and how many (just as many as the
    budget asks for), whether blocks are gated, and how much is skipped, the widths of gradients, and what
    falls back. Other options stay as they are set. Raises UsageError where nothing meets the budget.
    """
    if not 0 < budget <= 1:
        raise UsageError(f"an energy budget is a share of the plain step's joules, 0 to 1, not {budget}")
    every = list(_Search(graph, target, prices.find(table, target.prices), budget).ways())
    within = [way for way in every if way.share <= budget + _ALIKE]
    if not within:
        least = min(way.share for way in every)
        raise UsageError(f"no setting of these passes comes to {budget:.1%}: the least is {least:.1%}")
    front = [way for way in within if not any(other.beats(way) for other in within)]
    return tuple(sorted(front, key=lambda way: (way.rank, -way.work)))


@dataclass(frozen=True)
class _Search:
    graph: TrainingGraph
    target: Target
    table: Table
    budget: float

    def ways(self) -> Iterator[Way]:
        whole = quote(self.graph.captured, self.target, self.table).joules({})
        choices = arithmetics(self.graph, self.target)
        for gate in (None, *_of(self.graph, LayerGate)):
            gated = replace(self.graph, passes=() if gate is None else (gate,))
            step = self.graph.captured if gate is None else differentiated(gated)
            done = count(outlined(step))
            for arithmetic in choices:
                rewritten = step
                for item in arithmetic.passes:
                    rewritten = item(rewritten).graph
                quoted = quote(outlined(rewritten), self.target, self.table)
                for skip in (0.0,) if gate is None else sorted({*SKIPS, gate.target_skip}):
                    passes = () if gate is None else (replace(gate, target_skip=skip),)
                    passed = replace(gated, passes=(*passes, *arithmetic.passes))
                    known = shares_of(passed, quoted.work.symbols)
                    joules = quoted.joules({name: share.value for name, share in known.items()})
                    work = _macs(done, 1 - skip) / _macs(done, 1.0)
                    yield self._way(joules, whole, passes, work, arithmetic)

    def _way(
        self, executed: float, whole: float, gates: tuple[Pass, ...], work: float, arithmetic: Arithmetic
    ) -> Way:
        """Just so many batches dropped that the budget is met, where they may be.

        `executed` are the joules of an executed step.
        """
        drops = _of(self.graph, BatchDrop)
        least = 1 - self.budget * whole / executed if drops else 0.0
        p = min(0.99, max(0, math.ceil(100 * least - 1e-6)) / 100)
        passes = (*([BatchDrop(p)] if p else ()), *gates, *arithmetic.passes)
        settings = ", ".join(map(settings_text, passes)) or "no pass"
        joules = (1 - p) * executed
        return Way(settings, joules, joules / whole, 1 - p, work, arithmetic.words, arithmetic.rank)


def arithmetics(graph: TrainingGraph, target: Target) -> tuple[Arithmetic, ...]:
    """The joint passes of a graph in all settings that are tried, and none of them."""
    integers, signs = _of(graph, Quantise), _of(graph, SignPredict)
    tried = [Arithmetic(0, "float32", ())]
    for item in integers:
        for rank, bits in enumerate(WIDTHS, 1):
            passes = (replace(item, gradient_bits=bits),)
            tried.append(Arithmetic(rank, f"8 bits, gradients {bits}", passes))
    for sign in signs:
        for rank, (fallback, bits) in enumerate(SIGNS, 3):
            chosen = replace(sign, gradient_bits=bits, fallback=fallback, predictor_gradient_bits=None)
            words = f"signs, gradients {bits}, fallback {fallback}"
            tried.append(Arithmetic(rank, words, (chosen, *integers)))
    prepared = [replace(a, passes=target.prepare(replace(graph, passes=a.passes)).passes) for a in tried]
    if prepared[0].passes:  # a target without floating-point products
        prepared[0] = replace(prepared[0], rank=1, words="8 bits, gradients 16")
    return tuple({a.passes: a for a in prepared}.values())


def _macs(work: Work, share: float) -> float:
    """Multiply-accumulates of a step whose gates let so many samples in."""
    totals = work.at(dict.fromkeys(work.symbols, share)).totals()
    return sum(amount for quantity, amount in totals.items() if quantity.startswith("mac."))


def _of(graph: TrainingGraph, kind: type[Kind]) -> tuple[Kind, ...]:
    return tuple(item for item in graph.passes if isinstance(item, kind))
