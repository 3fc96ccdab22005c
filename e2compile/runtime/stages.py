"""The graphs that compiling left in a Program folder: one a stage, to read and to compare."""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2compile.errors import UsageError
from e2compile.runtime import manifest as manifests

# The graph of an evaluation, beside the stages of the step.
EVALUATION = "evaluation"

_CALL = re.compile(r"\s*%\d+: .* = ")


@dataclass(frozen=True)
class SavedStage:
    """A stage's text, its graph as data (see e2compile.graph_data) and its signature.

    `changed` and `notes` are what the pass that made it said.
    """

    number: int
    name: str
    text: str
    changed: int
    notes: tuple[str, ...]
    signature: dict[str, list[list[str]]]
    graph: dict[str, Any]

    @property
    def calls(self) -> int:
        """Operator calls, those in the branches of conditionals included."""
        return sum(bool(_CALL.match(line)) for line in self.text.splitlines())


def read_stages(folder: Path) -> tuple[SavedStage, ...]:
    """All stages of a Program folder, in order; UsageError where it is none, or a graph is damaged."""
    manifest = manifests.read(folder)
    names = sorted(name for name in manifest.checksums if name.startswith("graphs/"))
    manifests.check(manifest, folder, names)
    graphs = [folder / name for name in names if name.endswith(".json")]
    return tuple(_read(path) for path in graphs if path.stem != EVALUATION)


def read_evaluation(folder: Path) -> SavedStage:
    """The graph of an evaluation; UsageError as for the stages."""
    names = [f"graphs/{EVALUATION}.{ending}" for ending in ("json", "txt")]
    manifests.check(manifests.read(folder), folder, names)
    return _read(folder / names[0])


def _read(path: Path) -> SavedStage:
    content = json.loads(path.read_text())
    if "graph" not in content:
        raise UsageError(f"{path} is another version's: compile the program again")
    return SavedStage(
        -1 if path.stem == EVALUATION else int(path.stem.partition("_")[0]),
        content["name"],
        path.with_suffix(".txt").read_text(),
        content.get("changed", 0),
        tuple(content.get("notes", ())),
        content["signature"],
        content["graph"],
    )


def find_stage(stages: tuple[SavedStage, ...], name: str) -> SavedStage:
    """The stage of that name or number, the last one where a pass ran twice; UsageError lists them."""
    for stage in reversed(stages):
        if name in (stage.name, str(stage.number), f"{stage.number:02d}_{stage.name}"):
            return stage
    raise UsageError(f"no stage {name!r}; there is {', '.join(stage.name for stage in stages)}")


def difference(before: SavedStage, after: SavedStage) -> str:
    """A unified diff of two texts, indentation apart, so that a graph moved into a branch compares equal."""
    old, new = ([line.strip() for line in stage.text.splitlines()] for stage in (before, after))
    return "\n".join(difflib.unified_diff(old, new, before.name, after.name, lineterm=""))
