"""Counted work: what a step does, where, and under which conditions. Needs no torch.

Quantities are named KIND.TYPE and counted one by one: `mac` multiply-accumulates of contractions, `multiply`
other products, `add` additions and whatever else takes an adder's worth of logic (comparisons, choices,
conversions, bit operations), `special` divisions, roots and transcendental functions. TYPE is that of the
operands: `mac.int8` is a product of 8-bit operands added to a 32-bit sum. `read.dram` and `write.dram` are
bytes. `time` is the step's seconds, by the clock, and `time.device` those that an accelerator works: no graph
knows them, a run or a model gives them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from e2compile.errors import UsageError

Amounts = dict[str, float]

# The name of the share of scheduled steps that are executed; the others are a block's or a layer's own.
STEP = "step"


@dataclass(frozen=True)
class Condition:
    """What lets work run: a share that a run will have had, by name.

    With `samples` the work is done once for the batch, where any of so many samples lives, each with the
    share as its probability and independent of the others: 1 - (1 - share)^samples.
    """

    name: str
    samples: int = 0

    def probability(self, share: float) -> float:
        return 1 - (1 - share) ** self.samples if self.samples else share


@dataclass(frozen=True)
class Item:
    """Work of one operator at one place: `module` is its layer, `where` the user's line."""

    phase: str
    module: str
    where: str
    operator: str
    amounts: Amounts
    when: tuple[Condition, ...] = ()

    @property
    def place(self) -> tuple[Any, ...]:
        return self.phase, self.module, self.where, self.operator, self.when


@dataclass(frozen=True)
class Work:
    """The work of a step, or of a part of it."""

    items: tuple[Item, ...]

    @property
    def symbols(self) -> frozenset[str]:
        """The names of the shares that the work depends on."""
        return frozenset(condition.name for item in self.items for condition in item.when)

    def at(self, shares: Mapping[str, float]) -> "Work":
        """The expected work where these shares are executed; the other conditions stay."""
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UsageError(f"the share of {name} is {share}, not between 0 and 1")
        return Work(tuple(_at(item, shares) for item in self.items))

    def under(self, condition: Condition) -> "Work":
        """The work where it is done under one condition more."""
        return Work(tuple(replace(item, when=(condition, *item.when)) for item in self.items))

    def inside(self, name: str) -> "Work":
        """What is done under a condition, without it."""
        guarded = [item for item in self.items if item.when and item.when[0] == Condition(name)]
        return Work(tuple(replace(item, when=item.when[1:]) for item in guarded))

    def totals(self) -> Amounts:
        """The sum of each quantity. Raises UsageError where a share is not known."""
        if self.symbols:
            raise UsageError(f"what is executed of {', '.join(sorted(self.symbols))} is not known")
        sums: Amounts = {}
        for item in self.items:
            for quantity, amount in item.amounts.items():
                sums[quantity] = sums.get(quantity, 0) + amount
        return sums

    def by(self, key: Callable[[Item], str]) -> dict[str, "Work"]:
        """The work apart by a label, in order of appearance."""
        parts: dict[str, list[Item]] = {}
        for item in self.items:
            parts.setdefault(key(item), []).append(item)
        return {label: Work(tuple(items)) for label, items in parts.items()}

    def merged(self, keep: Callable[[Item], Item] = lambda item: item) -> "Work":
        """Items of one place added up, after `keep` has dropped the labels that do not matter."""
        sums: dict[tuple[Any, ...], Item] = {}
        for item in map(keep, self.items):
            found = sums.setdefault(item.place, replace(item, amounts={}))
            for quantity, amount in item.amounts.items():
                found.amounts[quantity] = found.amounts.get(quantity, 0) + amount
        return Work(tuple(sums.values()))


def together(works: Iterable[Work]) -> Work:
    return Work(tuple(item for work in works for item in work.items))


def _at(item: Item, shares: Mapping[str, float]) -> Item:
    factor, left = 1.0, []
    for condition in item.when:
        if condition.name in shares:
            factor *= condition.probability(shares[condition.name])
        else:
            left.append(condition)
    if len(left) == len(item.when):
        return item
    amounts = {quantity: factor * amount for quantity, amount in item.amounts.items()}
    return replace(item, amounts=amounts, when=tuple(left))


def to_rows(work: Work) -> list[list[Any]]:
    """Work as JSON holds it."""
    return [[i.phase, i.module, i.where, i.operator, i.amounts, when(i)] for i in work.items]


def when(item: Item) -> list[list[Any]]:
    """An item's conditions as JSON holds them."""
    return [[condition.name, condition.samples] for condition in item.when]


def from_rows(rows: Iterable[Any]) -> Work:
    """What `to_rows` gave; ValueError, TypeError or KeyError for anything else."""
    return Work(
        tuple(
            Item(phase, module, line, operator, dict(amounts), tuple(Condition(*c) for c in when))
            for phase, module, line, operator, amounts, when in rows
        )
    )
