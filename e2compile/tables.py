"""How reports look: what compiling took and gave, what the FPGA's array does layer by layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from e2compile.display import out, say, size, table
from e2compile.runtime.timing import by_layer
from e2compile.targets.vta.report.left import why

if TYPE_CHECKING:
    from e2compile.runtime.timing import HostTime
    from e2compile.targets.vta.report.layers import Figures, HostRow, Report, Row

_WIDTH = 140  # at least: a line that a terminal breaks can still be read, one that is cut cannot
_NUMBERS = ("calls", "cycles", "share", "ms", "bound", "epilogue", "array", "moved")

# What a layer takes the host.
_PARTS = ("forward", "backward", "update", "packing", "unpacking")

# The model's lines of each kernel.
Lines = Mapping[str, Sequence[str]]


def compiled(report: Mapping[str, Any]) -> None:
    """Seconds of each phase, kernels, calls and planned memory."""
    calls = ", ".join(f"{name} {count}" for name, count in report["calls"].items())
    planned = ", ".join(f"{name} {size(count)}" for name, count in report["planned_bytes"].items())
    seconds = [(phase, f"{seconds:.2f} s") for phase, seconds in report["seconds"].items()]
    table([*seconds, ("kernels", str(report["kernels"])), ("calls", calls), ("planned memory", planned)])


def fpga(report: "Report", lines: Lines) -> None:
    """Each function that uses the array, its kernels with the longest first, and what stays on the host."""
    speed = f"{report.macs_per_cycle} multiply-accumulates a cycle, {report.clock_hz / 1e6:.0f} MHz"
    say(f"{report.board} {report.configuration}: {speed}")
    say(f"modelled, with a DRAM latency of {report.latency_cycles} cycles, {report.latency_source}")
    for function, total in report.totals.items():
        if total.cost.cycles:
            _function(function, total, report.rows, lines)
        _left(function, report.host, report.host_calls[function], lines)


def _function(function: str, total: "Figures", rows: Sequence["Row"], lines: Lines) -> None:
    called = [row for row in rows if row.calls.get(function)]
    called.sort(key=lambda row: row.each.cost.cycles * row.calls[function], reverse=True)
    shown = Table(box=SIMPLE_HEAD, title=f"one call of {function}", title_justify="left", show_footer=True)
    shown.add_column("layer", "total", no_wrap=True)
    shown.add_column("phase", no_wrap=True)
    calls = sum(row.calls[function] for row in called)
    for name, text in zip(_NUMBERS, (str(calls), *_numbers(total, 1, total)), strict=True):
        shown.add_column(name, text, justify="right", no_wrap=True)
    shown.add_column("model", overflow="fold")
    for row in called:
        times = row.calls[function]
        numbers = str(times), *_numbers(row.each, times, total)
        shown.add_row(Text(row.text), row.phase, *numbers, _places(lines.get(row.name, ())))
    Console(file=out.file, width=max(out.width, _WIDTH), highlight=False).print(shown)


def _numbers(each: "Figures", times: int, total: "Figures") -> Sequence[str]:
    cycles = each.cost.cycles * times
    return (
        f"{cycles:,}",
        f"{cycles / max(1, total.cost.cycles):.1%}",
        f"{each.seconds * times * 1e3:.3f}",
        f"{each.of_bound:.0%}",
        f"{each.alu_share:.0%}",
        f"{each.utilisation:.1%}",
        size(each.cost.moved_bytes * times),
    )


def _left(function: str, host: Sequence["HostRow"], calls: int, lines: Lines) -> None:
    say(f"{function}: {calls} calls of kernels on the host")
    for row in host:
        if row.calls.get(function):
            work = f"{row.macs * row.calls[function]:,} multiply-accumulates, {why([row], function)}"
            say(f"  {row.text}, {row.phase}: {work}  {_places(lines.get(row.name, ()))}")


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
    Console(file=out.file, width=max(out.width, _WIDTH), highlight=False).print(shown)


def _places(lines: Sequence[str]) -> str:
    """Their numbers by file, "model.py:12,14"; the module's name where there is no line."""
    found: dict[str, set[str]] = {}
    for line in lines:
        file, _, rest = line.partition(":")
        found.setdefault(file, set()).add(rest.partition(":")[0])
    return ", ".join(f"{file}:{','.join(sorted(numbers))}".rstrip(":") for file, numbers in found.items())
