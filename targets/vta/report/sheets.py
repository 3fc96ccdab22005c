"""What `report` shows of the array: what each function takes it, kernel by kernel, what stays on the host."""

from collections.abc import Iterator, Sequence

from e2compile.targets.base import Lines, Sheet
from e2compile.targets.vta.report.layers import Figures, Report, Row
from e2compile.targets.vta.report.left import why

_NUMBERS = ("calls", "cycles", "share", "ms", "bound", "epilogue", "array", "moved")


def shown(made: Report, lines: Lines) -> Iterator[str | Sheet]:
    """Each function that uses the array, its kernels with the longest first, and what stays on the host."""
    speed = f"{made.macs_per_cycle} multiply-accumulates a cycle, {made.clock_hz / 1e6:.0f} MHz"
    yield f"{made.board} {made.configuration}: {speed}"
    yield f"modelled, with a DRAM latency of {made.latency_cycles} cycles, {made.latency_source}"
    for function, total in made.totals.items():
        if total.cost.cycles:
            yield _sheet(function, total, made.rows, lines)
        yield from _left(function, made, lines)


def _sheet(function: str, total: Figures, rows: Sequence[Row], lines: Lines) -> Sheet:
    called = [row for row in rows if row.calls.get(function)]
    called.sort(key=lambda row: row.each.cost.cycles * row.calls[function], reverse=True)
    calls = sum(row.calls[function] for row in called)
    return Sheet(
        title=f"one call of {function}",
        columns=("layer", "phase", *_NUMBERS, "model"),
        totals=dict(zip(_NUMBERS, (str(calls), *_numbers(total, 1, total)), strict=True)),
        rows=tuple(_cells(row, row.calls[function], total, lines) for row in called),
    )


def _cells(row: Row, times: int, total: Figures, lines: Lines) -> tuple[str, ...]:
    numbers = str(times), *_numbers(row.each, times, total)
    return row.text, row.phase, *numbers, _places(lines.get(row.name, ()))


def _numbers(each: Figures, times: int, total: Figures) -> tuple[str, ...]:
    cycles = each.cost.cycles * times
    return (
        f"{cycles:,}",
        f"{cycles / max(1, total.cost.cycles):.1%}",
        f"{each.seconds * times * 1e3:.3f}",
        f"{each.of_bound:.0%}",
        f"{each.alu_share:.0%}",
        f"{each.utilisation:.1%}",
        f"{each.cost.moved_bytes * times / 2**10:,.1f} KiB",
    )


def _left(function: str, made: Report, lines: Lines) -> Iterator[str]:
    yield f"{function}: {made.host_calls[function]} calls of kernels on the host"
    for row in made.host:
        if row.calls.get(function):
            work = f"{row.macs * row.calls[function]:,} multiply-accumulates, {why([row], function)}"
            yield f"  {row.text}, {row.phase}: {work}  {_places(lines.get(row.name, ()))}"


def _places(lines: Sequence[str]) -> str:
    """Their numbers by file, "model.py:12,14"; the module's name where there is no line."""
    found: dict[str, set[str]] = {}
    for line in lines:
        file, _, rest = line.partition(":")
        found.setdefault(file, set()).add(rest.partition(":")[0])
    return ", ".join(f"{file}:{','.join(sorted(numbers))}".rstrip(":") for file, numbers in found.items())
