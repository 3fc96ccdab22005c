"""Pricing work whose guards are filled in: joules, and seconds where the table or an accelerator's model has
them. Needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from e2compile.energy.prices import TIME, Line, Table, Tag
from e2compile.energy.work import Amounts, Condition, Item, Work
from e2compile.errors import UsageError

DEVICE = "time.device"
# What an accelerator does: its operators by the graph's.
_PRODUCT = "mac.int8"
_OPERATORS = {
    "e2.integer_convolution": "forward",
    "e2.integer_input_gradient": "input gradient",
    "e2.integer_weight_gradient": "weight gradient",
}


@dataclass(frozen=True)
class Share:
    """What of something is executed, how that is known and from where."""

    value: float
    tag: Tag
    source: str


@dataclass(frozen=True)
class Side:
    """A scheduled step's joules and seconds: `lines` by quantity with prices, the rest joules by label.

    All of them are modelled, whatever the tags of the prices: so are the amounts.
    """

    joules: float
    seconds: float
    device_seconds: float
    lines: tuple[Line, ...]
    phases: dict[str, float]
    layers: dict[str, float]
    places: dict[str, float]
    tag: Tag = Tag.MODELLED


@dataclass(frozen=True)
class Array:
    """An accelerator: cycles of its operators, and the bytes that they move, by phase, in a step in which
    everything is executed.

    `shares` are those of each operator's products that it does; the host's others are taken to be as fast.
    """

    board: str
    clock_hz: float
    cycles: dict[str, int]
    moved: dict[str, Amounts]
    shares: dict[str, float]
    source: str

    def each(self, work: Work) -> dict[str, Amounts]:
        """Seconds and bytes of one product of each of the graph's operators, on average over a step.

        Raises UsageError for operators of which the array does nothing: their time is not known.
        """
        parts = work.at(dict.fromkeys(work.symbols, 1.0)).by(lambda item: item.operator)
        known = {name: phase for name, phase in _OPERATORS.items() if name in parts}
        missing = [name for name, phase in known.items() if phase not in self.shares]
        if missing:
            raise UsageError(f"the host does all {', '.join(missing)}: there is no time for these products")
        return {name: self._product(phase, parts[name].totals()[_PRODUCT]) for name, phase in known.items()}

    def _product(self, phase: str, products: float) -> Amounts:
        seconds = self.cycles[phase] / self.clock_hz / (self.shares[phase] * products)
        return {DEVICE: seconds} | {q: size / products for q, size in self.moved[phase].items()}


@dataclass(frozen=True)
class Cashier:
    """Prices work: seconds modelled, with what a product of an operator takes of an accelerator, `device`."""

    table: Table
    device: Mapping[str, Amounts] = field(default_factory=dict)

    def amounts(self, work: Work) -> Amounts:
        """The work's quantities with its seconds. The host waits while an accelerator works."""
        counted, device = work.totals(), self._device(work)
        if TIME in self.table.prices:
            host = sum(line.total for line in self.table.time(counted))
            device[TIME] = host + device.get(DEVICE, 0)
        else:
            device.pop(DEVICE, None)
        return counted | {q: counted.get(q, 0) + amount for q, amount in device.items() if amount}

    def _device(self, work: Work) -> Amounts:
        """Seconds and bytes that an accelerator takes for the work's products."""
        found: Amounts = {}
        for operator, each in self.device.items():
            products = sum(i.amounts.get(_PRODUCT, 0) for i in work.items if i.operator == operator)
            for quantity, amount in each.items():
                found[quantity] = found.get(quantity, 0) + products * amount
        return found

    def joules(self, work: Work) -> float:
        return self.table.joules(self.amounts(work))

    def side(self, work: Work) -> Side:
        amounts = self.amounts(work)

        def by(key: Callable[[Item], str]) -> dict[str, float]:
            return {label: self.joules(part) for label, part in work.by(key).items()}

        return Side(
            self.table.joules(amounts),
            amounts.get(TIME, 0.0),
            amounts.get(DEVICE, 0.0),
            self.table.bill(amounts),
            by(lambda item: item.phase),
            by(lambda item: item.module or "the step"),
            by(lambda item: item.where),
        )

    def terms(self, work: Work) -> "Terms":
        """The work's joules as a sum over its conditions: joules are linear in amounts."""
        groups: dict[tuple[Condition, ...], list[Item]] = {}
        for item in work.items:
            groups.setdefault(item.when, []).append(item)
        sums = {when: self._open(items) for when, items in groups.items()}
        return Terms(tuple((joules, when) for when, joules in sums.items()))

    def _open(self, items: list[Item]) -> float:
        work = Work(tuple(items))
        return self.joules(work.at(dict.fromkeys(work.symbols, 1.0)))


@dataclass(frozen=True)
class Terms:
    """Joules under conditions, priced once: what is asked again and again while a run goes on."""

    terms: tuple[tuple[float, tuple[Condition, ...]], ...]

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(condition.name for _, when in self.terms for condition in when)

    def at(self, shares: Mapping[str, float]) -> float:
        """Joules where these shares are executed; KeyError where one is not known."""
        return sum(joules * prod(c.probability(shares[c.name]) for c in when) for joules, when in self.terms)
