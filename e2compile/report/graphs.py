"""The stages of a Program as the page holds them: rows of numbers into tables of what repeats."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from e2compile.runtime.stages import SavedStage


class Table:
    """Values without repetition; `add` gives the place of one."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.places: dict[Hashable, int] = {}

    def add(self, value: Any, key: Hashable = None) -> int:
        key = value if key is None else key
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append(value)
        return self.places[key]


class Tables:
    """Tables that all stages and all work share."""

    def __init__(self) -> None:
        names = ("operators", "types", "places", "phases", "texts", "quantities", "amounts", "when", "works")
        self.of = {name: Table() for name in names}

    def __getattr__(self, name: str) -> Table:
        return self.of[name]

    def place(self, module: str, where: str) -> int:
        return self.places.add([module, where], (module, where))

    def work(self, amounts: dict[str, float], when: Sequence[Sequence[Any]]) -> list[int]:
        pairs = [[self.quantities.add(quantity), amount] for quantity, amount in amounts.items()]
        conditions = [list(condition) for condition in when]
        found = self.amounts.add(pairs, tuple(map(tuple, pairs)))
        return [found, self.when.add(conditions, tuple(map(tuple, conditions)))]

    def works_of(self, work: Iterable[Sequence[Any]]) -> int:
        """A call's work: amounts and conditions in turn."""
        places = [place for amounts, when in work if amounts for place in self.work(amounts, when)]
        return self.works.add(places, tuple(places))

    def content(self) -> dict[str, list[Any]]:
        return {name: table.values for name, table in self.of.items()}


@dataclass(frozen=True)
class _Row:
    """An input or a call: what it is, the rows it reads, the branch that it lies in."""

    name: str
    operator: str
    type: str
    text: str
    record: dict[str, Any]
    reads: list[int]
    branch: int


def stage_content(stage: SavedStage, tables: Tables) -> dict[str, Any]:
    """A stage: columns of a row for each input and call, those of a branch after the conditional.

    What a branch reads from outside is read directly: its own inputs are no rows. `reads` are distances, `in`
    are branches with how many rows in a row lie in them.
    """
    unfolded = _Unfolded(stage)
    rows = unfolded.rows
    return {
        "name": stage.name,
        "changed": stage.changed,
        "notes": stage.notes,
        "branches": unfolded.branches,
        "outputs": unfolded.outputs,
        "names": [int(row.name) if row.name.isdecimal() else row.name for row in rows],
        "operators": [tables.operators.add(row.operator) for row in rows],
        "types": [tables.types.add(row.type) for row in rows],
        "texts": [tables.texts.add(row.text) for row in rows],
        "phases": [tables.phases.add(row.record.get("phase", "")) for row in rows],
        "places": [tables.place(row.record.get("module", ""), row.record.get("where", "")) for row in rows],
        "reads": [[i - read for read in row.reads] for i, row in enumerate(rows)],
        "in": [[branch, len(list(same))] for branch, same in groupby(row.branch for row in rows)],
        "works": [tables.works_of(row.record.get("work", ())) for row in rows],
    }


class _Unfolded:
    def __init__(self, stage: SavedStage) -> None:
        self.rows: list[_Row] = []
        self.branches: list[list[Any]] = []  # name, the row of its conditional, the branch that it lies in
        slots = stage.signature.get("inputs") or [["", ""]] * len(stage.graph["inputs"])
        known: dict[str, Any] = {}
        for given, (kind, target) in zip(stage.graph["inputs"], slots, strict=True):
            known[given["name"]] = len(self.rows)
            text = f"{kind} {target}".strip()
            self.rows.append(_Row(given["name"], "input", given["type"], text, {}, [], -1))
        self._body(stage.graph, known, -1)
        results = [known[name] for name in stage.graph["results"]]
        slots = stage.signature.get("outputs") or [["", "result"]] * len(results)
        self.outputs = [
            [row, f"{kind} {target}".strip()] for row, (kind, target) in zip(results, slots, strict=True)
        ]

    def _body(self, graph: dict[str, Any], known: dict[str, Any], branch: int) -> None:
        for node in graph["nodes"]:
            arguments = node["arguments"]
            if node["op"] == "get_attr" and "branch" in arguments[0]:
                known[node["name"]] = arguments[0]["branch"]
                continue
            options = node.get("options", {})
            reads = [known[name] for name in _nodes([arguments, list(options.values())])]
            text = ", ".join([*map(_text, arguments), *(f"{k}={_text(v)}" for k, v in options.items())])
            operator = "parameter" if node["op"] == "get_attr" else node["op"]
            number = known[node["name"]] = len(self.rows)
            rows_read = [row for row in reads if isinstance(row, int)]
            self.rows.append(_Row(node["name"], operator, node["type"], text, node, rows_read, branch))
            for name in (name for name in reads if isinstance(name, str)):
                self._branch(graph["branches"][name], name, number, arguments[-1], known, branch)

    def _branch(
        self, graph: dict[str, Any], name: str, row: int, operands: Any, known: dict[str, Any], parent: int
    ) -> None:
        self.branches.append([name, row, parent])
        given = zip(graph["inputs"], _nodes(operands), strict=True)
        inner = {place["name"]: known[operand] for place, operand in given}
        self._body(graph, inner, len(self.branches) - 1)


def _nodes(value: Any) -> Iterator[str]:
    """The nodes that an argument names, in order."""
    if isinstance(value, dict) and "node" in value:
        yield value["node"]
    elif isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _text(value: Any) -> str:
    """An argument as it is printed, with {} for a node."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{}" if "node" in value else str(next(iter(value.values())))
    return str(value)
