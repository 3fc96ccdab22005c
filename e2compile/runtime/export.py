"""What leaves a program: the state that is meant, its weights and its figures as files."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import save_file

from e2compile.errors import UsageError
from e2compile.runtime import checkpoint
from e2compile.runtime.program import Program
from e2compile.runtime.state import read

DEFAULT_RUN = "default"

Saved = Literal["newest", "best", "averaged", "initial"]


def choose_state(program: Program, run: str | None = None, which: Saved = "newest") -> str:
    """Put a run's state into a program, and say which: its newest checkpoint, the best by validation, or the
    average of its weights.

    Without a run that is the run `default`, or the initial state where nothing was trained.
    Raises UsageError for a run that is not there, or whose state is damaged.
    """
    folder = program.folder / "runs" / (run or DEFAULT_RUN)
    if which == "initial" or (run is None and which == "newest" and not folder.is_dir()):
        return "the initial state"
    if not folder.is_dir():
        raise UsageError(f"{program.folder} has no run {folder.name!r}; {_runs(folder.parent)}")
    if which != "newest":
        return _weights(program, folder, which)
    try:
        found = checkpoint.newest(folder / "checkpoints", program.manifest.fingerprint)
    except UsageError as error:
        error.add_note("  the initial state can be had all the same: --initial")
        raise
    if found is None:
        raise UsageError(f"run {folder.name!r} of {program.folder} has no checkpoint")
    progress, arrays = found
    program.restore(arrays, "the checkpoint")
    program.position = progress.position
    return f"run {folder.name!r} after {progress.position:,} steps"


def _weights(program: Program, folder: Path, which: Saved) -> str:
    path = folder / f"{which}.safetensors"
    if not path.is_file():
        why = {
            "best": "no epoch of it was scored",
            "averaged": "it is made at the end of a run with --swa-start",
        }[which]
        raise UsageError(f"run {folder.name!r} has no {which} state: {why}")
    program.restore(program.arrays() | read(path), str(path))
    return f"the {which} state of run {folder.name!r}"


def _runs(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return f"it has {', '.join(names)}" if names else "it has none: train it first"


def save_weights(program: Program, path: Path) -> int:
    """Write parameters and buffers by the names of the user's module; gives their number.

    `model.load_state_dict(safetensors.torch.load_file(path))` takes them. Written whole or not at all.
    """
    weights = program.state_dict()
    write_whole(path, lambda temporary: save_file(weights, temporary))
    return len(weights)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file by `write`, which is given a temporary one; UsageError where it cannot be written."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: Path | None) -> None:
    """UsageError for a file that cannot be written after the work is done."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"cannot write {path}: its folder is not there, or it is one itself")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures."""
    path.write_text(json.dumps(content, indent=1) + "\n")
