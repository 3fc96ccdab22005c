"""Checkpoints of a run: two generations, each whole or absent, each with its checksum."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save_file

from e2compile.errors import UsageError
from e2compile.runtime.manifest import digest, own_digest
from e2compile.runtime.state import read

GENERATIONS = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `steps_per_epoch` and `data` say on what; losses are kept beside the state.

    `counters` are sums over the executed steps. `averaged` epochs are in the average of the weights, which
    takes those that end after step `average_from`.
    """

    fingerprint: str
    seed: int
    position: int
    executed: int
    seconds: float
    data: str
    steps_per_epoch: int
    best_accuracy: float | None
    history: tuple[dict[str, Any], ...]
    counters: dict[str, float]
    averaged: int = 0
    average_from: int | None = None


def save(folder: Path, progress: Progress, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a checkpoint and drop all but the newest two. A crash leaves the older ones whole."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(arrays, temporary / "state.safetensors")
    content = asdict(progress) | {"state_sha256": digest(temporary / "state.safetensors")}
    content["digest"] = own_digest(content)
    _write_synced(temporary / "progress.json", json.dumps(content).encode())
    final = folder / f"step-{progress.position:010d}"
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    for old in _generations(folder)[GENERATIONS:]:
        shutil.rmtree(old)


def newest(folder: Path, fingerprint: str) -> tuple[Progress, dict[str, NDArray[Any]]] | None:
    """The newest intact checkpoint, None where there is none.

    Raises UsageError where all are damaged or belong to another program.
    """
    generations = _generations(folder)
    problems: list[str] = []
    for path in generations:
        try:
            progress, arrays = _load(path)
        except UsageError as error:
            problems.append(str(error))
            continue
        if progress.fingerprint != fingerprint:
            raise UsageError(
                f"{path} belongs to another program: start anew without --resume, or use another --run"
            )
        return progress, arrays
    if problems:
        raise UsageError("no checkpoint is intact: " + "; ".join(problems))
    return None


def clear(folder: Path) -> None:
    """Remove a run's checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


def _generations(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _load(path: Path) -> tuple[Progress, dict[str, NDArray[Any]]]:
    try:
        content = json.loads((path / "progress.json").read_text())
        own, stated = content.pop("digest"), content["state_sha256"]
        is_own = own == own_digest(content)
        del content["state_sha256"]
        progress = Progress(**content | {"history": tuple(content["history"])})
        actual = digest(path / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error})") from error
    if actual != stated or not is_own:
        raise UsageError(f"{path} is damaged (checksum)")
    return progress, read(path / "state.safetensors")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
