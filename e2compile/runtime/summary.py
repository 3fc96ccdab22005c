"""What compiling found out about a program, read back from its folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from e2compile.runtime import manifest as manifests
from e2compile.runtime.program import Program
from e2compile.runtime.stages import find_stage, read_stages

_FILES = ("report/compile.json", "verify/verify.json")


@dataclass(frozen=True)
class Check:
    """The comparison that came closest to its bound."""

    name: str
    target: str
    error: float
    bound: float


@dataclass(frozen=True)
class Summary:
    """Sizes in bytes: `state` lives as long as the program, `planned` is the largest function's temporaries.

    `operators` counts those of the whole step before joint passes, `calls` each function's kernel calls.
    `passed` is None for a program that was not verified; `ran` says what was compared.
    `dense` says which guarded blocks run for all samples, and why.
    """

    operators: int
    calls: dict[str, int]
    kernels: int
    state: int
    planned: int
    passed: bool | None
    worst: Check | None
    ran: str | None = None
    dense: tuple[str, ...] = ()


def summarise(program: Program) -> Summary:
    """Read a summary; UsageError where its files are missing or damaged."""
    manifests.check(program.manifest, program.folder, _FILES)
    report, verified = (_load(program.folder / name) for name in _FILES)
    state = sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in program.manifest.state)
    planned = max(report["planned_bytes"].values())
    worst = _worst(verified["worst"])
    operators = find_stage(read_stages(program.folder), "differentiated").calls
    dense = tuple(note for s in report["stages"] if s["name"] == "outlined" for note in s["notes"])
    calls, kernels = report["calls"], report["kernels"]
    return Summary(
        operators, calls, kernels, state, planned, verified["passed"], worst, verified["ran"], dense
    )


def compile_report(folder: Path) -> dict[str, Any]:
    """What compiling a Program took and gave; UsageError where it is none, or the file is damaged."""
    manifests.check(manifests.read(folder), folder, _FILES[:1])
    return _load(folder / _FILES[0])


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _worst(rows: dict[str, dict[str, Any]]) -> Check | None:
    """Exact comparisons have no bound to come close to."""
    inexact = [(name, row) for name, row in rows.items() if row["bound"]]
    checks = [Check(name, row["target"], row["error"], row["bound"]) for name, row in inexact]
    return max(checks, key=lambda check: check.error / check.bound, default=None)
