"""How reports look: what compiling took and gave, what a target says of its accelerator, the host's time."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from e2compile.display import out, say, size, table
from e2compile.runtime.timing import by_layer

if TYPE_CHECKING:
    from e2compile.runtime.timing import HostTime
    from e2compile.targets.base import Sheet

_WIDTH = 140  # at least: a line that a terminal breaks can still be read, one that is cut cannot

# What a layer takes the host.
_PARTS = ("forward", "backward", "update", "packing", "unpacking")


def compiled(report: Mapping[str, Any]) -> None:
    """Seconds of each phase, kernels, calls and planned memory."""
    calls = ", ".join(f"{name} {count}" for name, count in report["calls"].items())
    planned = ", ".join(f"{name} {size(count)}" for name, count in report["planned_bytes"].items())
    seconds = [(phase, f"{seconds:.2f} s") for phase, seconds in report["seconds"].items()]
    table([*seconds, ("kernels", str(report["kernels"])), ("calls", calls), ("planned memory", planned)])


def accelerated(parts: Iterable["str | Sheet"]) -> None:
    """What a target says of a Program on its accelerator."""
    for part in parts:
        if isinstance(part, str):
            say(part)
        else:
            _sheet(part)


def _sheet(sheet: "Sheet") -> None:
    shown = Table(box=SIMPLE_HEAD, title=sheet.title, title_justify="left", show_footer=True)
    *columns, last = sheet.columns
    for i, name in enumerate(columns):
        total = sheet.totals.get(name, "" if i else "total")
        shown.add_column(name, total, justify="right" if name in sheet.totals else "left", no_wrap=True)
    shown.add_column(last, sheet.totals.get(last, ""), overflow="fold")
    for row in sheet.rows:
        shown.add_row(*map(Text, row))
    _print(shown)


def host(found: "HostTime") -> None:
    """What a step takes the host, by layer and phase, the longest first."""
    where = f"{found.machine}, {found.threads} thread{'s' * (found.threads != 1)}"
    total = sum(call.total for call in found.calls)
    shown = Table(
        box=SIMPLE_HEAD,
        title=f"the host in a step: {total * 1e3:.3f} ms, {found.tag} on {where}",
        title_justify="left",
        caption=f"medians of {found.steps} steps; waiting for the array, or simulating it, left out",
        caption_justify="left",
        show_footer=True,
    )
    layers = by_layer(found.calls)
    present = [name for name in _PARTS if any(row.get(name) for row in layers.values())]
    shown.add_column("layer", "total")
    for name in present:
        milliseconds = sum(row.get(name, 0.0) for row in layers.values()) * 1e3
        shown.add_column(f"{name} [ms]".replace("[", r"\["), f"{milliseconds:.3f}", justify="right")
    shown.add_column("share", "100.0%", justify="right")
    for layer, row in sorted(layers.items(), key=lambda item: -sum(item[1].values())):
        numbers = [f"{row.get(name, 0.0) * 1e3:.3f}" for name in present]
        shown.add_row(Text(layer or "the step"), *numbers, f"{sum(row.values()) / max(total, 1e-12):.1%}")
    _print(shown)


def _print(shown: Table) -> None:
    Console(file=out.file, width=max(out.width, _WIDTH), highlight=False).print(shown)
