"""What each call of a stage costs: the work that its Program keeps beside it, priced."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2compile.bill import executed, pricing
from e2compile.energy.cashier import Cashier
from e2compile.energy.work import Condition, Item, Work
from e2compile.errors import UsageError
from e2compile.runtime.stages import SavedStage


@dataclass(frozen=True)
class PricedCall:
    """A call that does work: its name as it is printed, the branch that it lies in, expected joules."""

    name: str
    branch: str
    operator: str
    type: str
    phase: str
    module: str
    where: str
    joules: float


def priced_calls(
    folder: Path, stage: SavedStage, table: str | None = None, run: str | None = None
) -> tuple[PricedCall, ...]:
    """The calls of a Program's stage, priced as `bill` prices the step; their sum is the stage's.

    Raises UsageError as `bill` does, and for a stage before differentiation, whose work is not known.
    """
    given = pricing(folder, table)
    shares = given.shares | ({} if run is None else executed(folder, run)[1])
    known = {name: share.value for name, share in shares.items()}
    found = tuple(_priced(node, branch, given.cashier, known) for node, branch in _worked(stage.graph, ""))
    if not found:
        why = "a call there stands for several operators; work is counted from differentiated on"
        raise UsageError(f"no work is known of stage {stage.name}: {why}")
    return found


def _worked(graph: dict[str, Any], branch: str) -> Iterator[tuple[dict[str, Any], str]]:
    for node in graph["nodes"]:
        if node.get("work"):
            yield node, branch
    for name, inner in graph["branches"].items():
        yield from _worked(inner, f"{branch}/{name}".lstrip("/"))


def _priced(node: dict[str, Any], branch: str, cashier: Cashier, shares: dict[str, float]) -> PricedCall:
    place = node["phase"], node["module"], node["where"], node["op"]
    items = (Item(*place, amounts, tuple(Condition(*c) for c in when)) for amounts, when in node["work"])
    joules = cashier.joules(Work(tuple(items)).at(shares))
    phase, module, where, operator = place
    return PricedCall(f"%{node['name']}", branch, operator, node["type"], phase, module, where, joules)
