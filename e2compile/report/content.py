"""What the page shows, gathered from a Program folder: graphs, work and prices, memory, the array, runs."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from e2compile.bill import Pricing, executed, pricing
from e2compile.energy.cashier import DEVICE
from e2compile.energy.log import read
from e2compile.energy.prices import TIME
from e2compile.errors import UsageError
from e2compile.report.graphs import Tables, stage_content
from e2compile.runtime import manifest as manifests
from e2compile.runtime.stages import read_stages
from e2compile.runtime.summary import compile_report
from e2compile.targets import find

SCHEMA = 1

_MEMORY = "report/memory.json"
_VERIFIED = "verify/verify.json"
_POINTS = 400  # of a curve: as many as a screen shows


def content(folder: Path, table: str | None = None, log: Path | None = None) -> dict[str, Any]:
    """What the page of a Program holds, priced by a table (see e2compile.bill.pricing).

    With a log its measured joules stand beside those that the table predicts for the work of its rows.
    Raises UsageError for a folder that is no Program, a table that lacks a price, a log that is none.
    """
    manifest = manifests.read(folder)
    given, tables = pricing(folder, table), Tables()
    stages = [stage_content(stage, tables) for stage in read_stages(folder)]
    rows = {side: _rows(given.work[side], tables) for side in ("before", "after", "evaluation")}
    manifests.check(manifest, folder, (_MEMORY, _VERIFIED))
    accelerated = find(manifest.target).accelerated(folder)
    memory = {name: _alive(found, tables) for name, found in _json(folder / _MEMORY).items()}
    return {
        "schema": SCHEMA,
        "program": {
            "name": folder.resolve().name,
            **{
                key: getattr(manifest, key)
                for key in ("source", "target", "seed", "passes", "data", "epochs")
            },
            **{key: getattr(manifest, key) for key in ("created", "versions", "fingerprint")},
            "batch": [f"{t.dtype}{list(t.shape)}" for t in manifest.batch],
        },
        "compile": compile_report(folder),
        "verified": _json(folder / _VERIFIED),
        "prices": _prices(given, tables),
        "shares": {name: asdict(share) for name, share in given.shares.items()},
        "device": {"each": given.cashier.device, "source": given.device_source},
        "stages": stages,
        "work": rows,
        "tables": tables.content(),
        "memory": memory,
        "array": None if accelerated is None else accelerated.figures,
        "runs": [_run(folder, path.parent.name) for path in sorted((folder / "runs").glob("*/results.json"))],
        "measured": None if log is None else _measured(log, given),
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _rows(work: list[Any], tables: Tables) -> list[list[int]]:
    """Rows of work by their places in the tables: phase, place, operator, amounts, conditions."""
    return [
        [
            tables.phases.add(phase),
            tables.place(module, where),
            tables.operators.add(operator),
            *tables.work(amounts, when),
        ]
        for phase, module, where, operator, amounts, when in work
        if amounts
    ]


def _alive(found: dict[str, Any], tables: Tables) -> dict[str, Any]:
    """Memory over a function, its kernels by their places in the tables: operator, phase, place."""
    kernels = [
        [tables.operators.add(operator), tables.phases.add(phase), tables.place(module, where)]
        for operator, phase, module, where in found["kernels"]
    ]
    return found | {"kernels": kernels}


def _prices(given: Pricing, tables: Tables) -> dict[str, Any]:
    """The table's figures for each counted quantity, in SI units beside their own, and of seconds."""
    table, is_timed = given.cashier.table, TIME in given.cashier.table.prices
    counted = dict.fromkeys(tables.quantities.values, 1.0)
    device = {quantity for each in given.cashier.device.values() for quantity in each}
    priced = [*counted, *sorted(device - {DEVICE}), *[TIME, *device & {DEVICE}] * is_timed]
    bill = table.bill(dict.fromkeys(priced, 1.0))
    figures = {line.quantity: asdict(line.figure) | {"si": line.figure.si} for line in bill}
    seconds = {line.quantity: line.figure.si for line in table.time(counted)} if is_timed else {}
    return {"name": table.name, "about": table.about, "figures": figures, "seconds": seconds}


def _run(folder: Path, name: str) -> dict[str, Any]:
    """A finished run: its shares, and its losses in so many points, each a mean over a stretch of steps."""
    results: dict[str, Any] = _finite(_json(folder / "runs" / name / "results.json"))
    _, shares = executed(folder, name)
    losses = results.pop("loss")
    width = max(1, -(-len(losses) // _POINTS))
    parts = [losses[i : i + width] for i in range(0, len(losses), width)]
    means = [None if None in part else sum(part) / len(part) for part in parts]
    counted = {share: value.value for share, value in shares.items()}
    return results | {"name": name, "shares": counted, "loss": means, "loss_steps": width}


def _finite(value: Any) -> Any:
    """What JSON can hold: a run that diverged has losses that are no numbers."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _measured(path: Path, given: Pricing) -> dict[str, Any]:
    """The rows of a log: measured joules, and the table's for the counted work and the true seconds."""
    log = read(path)
    table, rows = given.cashier.table, []
    if set(log.columns) - {TIME} and TIME not in log.columns and TIME in table.prices:
        raise UsageError(f"{path} has no seconds, which the price table {table.name} prices")
    for i, group in enumerate(log.groups):
        amounts = {quantity: float(values[i]) for quantity, values in log.columns.items()}
        priced = {q: n for q, n in amounts.items() if n and (q != TIME or TIME in table.prices)}
        joules, seconds = float(log.joules[i]), amounts.get(TIME)
        rows.append(
            {"group": group, "measured": joules, "predicted": table.joules(priced), "seconds": seconds}
        )
    return {"source": log.about["source"], "date": log.about["date"], "rows": rows}
