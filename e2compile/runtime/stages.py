"""The graphs that compiling left in a Program folder: one a stage, to read and to compare."""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from e2compile.errors import UsageError
from e2compile.runtime import manifest as manifests

_CALL = re.compile(r"\s*%\d+: .* = ")


@dataclass(frozen=True)
class SavedStage:
    """A stage's text; `changed` and `notes` are what the pass that made it said."""

    number: int
    name: str
    text: str
    changed: int
    notes: tuple[str, ...]

    @property
    def calls(self) -> int:
        """Operator calls, those in the branches of conditionals included."""
        return sum(bool(_CALL.match(line)) for line in self.text.splitlines())


def read_stages(folder: Path) -> tuple[SavedStage, ...]:
    """All stages of a Program folder, in order; UsageError where it is none, or a graph is damaged."""
    manifest = manifests.read(folder)
    names = sorted(name for name in manifest.checksums if name.startswith("graphs/"))
    manifests.check(manifest, folder, names)
    return tuple(_read(folder / name) for name in names if name.endswith(".json"))


def _read(path: Path) -> SavedStage:
    content = json.loads(path.read_text())
    number = int(path.stem.partition("_")[0])
    text = path.with_suffix(".txt").read_text()
    return SavedStage(number, content["name"], text, content["changed"], tuple(content["notes"]))


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
