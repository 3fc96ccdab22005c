"""The manifest: what a Program folder holds, its signature and its checksums."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2compile.errors import UsageError
from e2compile.runtime.host import Host

SCHEMA = 2
NAME = "manifest.json"


@dataclass(frozen=True)
class Tensor:
    """One input of a compiled function. `order` is the memory order of state, without dimensions of one."""

    kind: str
    target: str
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Function:
    """A compiled function: its inputs, and the (kind, target) of what it returns; state changes in place."""

    inputs: tuple[Tensor, ...]
    returns: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, content: dict[str, Any]) -> "Function":
        """The inverse of `dataclasses.asdict`, after JSON has made lists of tuples."""
        inputs = tuple(
            Tensor(
                t["kind"],
                t["target"],
                tuple(t["shape"]),
                t["dtype"],
                None if t["order"] is None else tuple(t["order"]),
            )
            for t in content["inputs"]
        )
        return cls(inputs, tuple((kind, target) for kind, target in content["returns"]))


@dataclass(frozen=True)
class Manifest:
    """Everything about a Program that is not in its library or its state.

    `host` is the machine that its library is for.
    `aliases` are second names of tied tensors; `hidden` is state that the module's state_dict does not hold;
    `statistics` are the running statistics of batch norms, each with a step's share in the new one.
    """

    fingerprint: str
    target: str
    host: Host
    seed: int
    functions: dict[str, Function]
    passes: tuple[str, ...]
    data: str | None
    epochs: int
    schedule_unit: str
    aliases: dict[str, str]
    hidden: tuple[str, ...]
    statistics: dict[str, float]
    versions: dict[str, str]
    source: str
    created: str
    checksums: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def batch(self) -> tuple[Tensor, ...]:
        """The tensors of one batch."""
        return tuple(t for t in self.functions["step"].inputs if t.kind == "data")

    @property
    def state(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.functions["step"].inputs if t.order is not None)


def write(manifest: Manifest, folder: Path) -> None:
    """Write a manifest with the checksums of all that lies in the folder, `runs` apart, and its own."""
    content = asdict(manifest) | {"checksums": {name: digest(folder / name) for name in files(folder)}}
    content["digest"] = own_digest(content)
    (folder / NAME).write_text(json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """The manifest of a Program folder; UsageError where it is none, or not intact."""
    path = folder / NAME
    if not path.is_file():
        raise UsageError(f"{folder} is not a Program: it has no {NAME}")
    try:
        content = json.loads(path.read_text())
        stated = content.pop("digest")
    except (ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} is corrupted: compile the program again") from error
    if content.get("schema") != SCHEMA:
        raise UsageError(
            f"{path} has schema {content.get('schema')}, this version reads {SCHEMA}: compile again"
        )
    if stated != own_digest(content):
        raise UsageError(f"{path} is corrupted: compile the program again")
    content["functions"] = {name: Function.parse(f) for name, f in content["functions"].items()}
    host = content["host"]
    content["host"] = Host(**(host | {"features": tuple(host["features"])}))
    for name in ("passes", "hidden"):
        content[name] = tuple(content[name])
    return Manifest(**content)


def check(manifest: Manifest, folder: Path, names: Iterable[str]) -> None:
    """Raise UsageError for a file that is missing or not what was written."""
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UsageError(f"{path} is missing: compile the program again")
        if digest(path) != manifest.checksums.get(name):
            raise UsageError(f"{path} is corrupted: compile the program again")


def files(folder: Path) -> list[str]:
    """The immutable files of a Program folder."""
    paths = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file())
    return [str(p) for p in paths if p.parts[0] != "runs" and str(p) != NAME]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_digest(content: dict[str, Any]) -> str:
    """A digest of JSON content that does not depend on how it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
