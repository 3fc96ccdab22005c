"""What a program costs the array, layer by layer, by the cycle model; and what stays on the host."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2compile.energy.cashier import Array
from e2compile.energy.work import Amounts
from e2compile.errors import UsageError
from e2compile.lower.workload import Convolution
from e2compile.targets.vta.analysis.timing import LATENCIES
from e2compile.targets.vta.host.choice import Reason
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.program.cost import Cost
from e2compile.targets.vta.program.table import Operator, Table, phase, words

REPORT = "report/fpga.json"
SCHEMA = 3

# Of each function, how often it calls each kernel.
Calls = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Figures:
    """Useful multiply-accumulates, those with padding left out, and what they cost.

    `utilisation` is what they are of all that the array could have done in its cycles, `of_bound` the compute
    stage's own cycles of all, `alu_share` the ALU's of those.
    """

    macs: int
    cost: Cost
    seconds: float
    utilisation: float
    of_bound: float
    alu_share: float

    @staticmethod
    def of(macs: int, cost: Cost, config: Config) -> "Figures":
        return Figures(
            macs=macs,
            cost=cost,
            seconds=cost.cycles / config.board.clock_hz,
            utilisation=macs / max(1, config.macs * cost.cycles),
            of_bound=cost.bound / max(1, cost.cycles),
            alu_share=cost.alu / max(1, cost.bound),
        )


@dataclass(frozen=True)
class Row:
    """A kernel on the array; `each` is one call of it, for all samples. Equal layers share a kernel."""

    name: str
    phase: str
    text: str
    workload: dict[str, Any]
    calls: dict[str, int]
    groups: int
    runs: int
    each: Figures


@dataclass(frozen=True)
class HostRow:
    """A product of integers that the host computes: `reason` says why.

    Where times decide, the modelled seconds of a call on the host and, with the host's part, on the array.
    """

    name: str
    phase: str
    text: str
    workload: dict[str, Any]
    calls: dict[str, int]
    macs: int
    reason: str
    host_seconds: float | None
    array_seconds: float | None


@dataclass(frozen=True)
class Report:
    """`totals` has the figures of one call of each function; `host_calls` all its calls of host kernels."""

    board: str
    configuration: str
    clock_hz: float
    macs_per_cycle: int
    latency_cycles: int
    latency_source: str
    rows: tuple[Row, ...]
    host: tuple[HostRow, ...]
    host_calls: dict[str, int]
    totals: dict[str, Figures]


@dataclass(frozen=True)
class Left:
    """A kernel that was not given to the array: its name, what it computes, of what, and why."""

    name: str
    what: str
    conv: Convolution
    reason: Reason


def report(table: Table, calls: Calls, left: Iterable[Left]) -> Report:
    """The report of a table whose operators, and the kernels left to the host, are called so often."""
    config = table.config
    rows = tuple(_row(operator, table, calls) for operator in table.operators)
    names = {row.name for row in rows}
    return Report(
        board=config.target,
        configuration=config.name,
        clock_hz=config.board.clock_hz,
        macs_per_cycle=config.macs,
        latency_cycles=LATENCIES[config.target].cycles,
        latency_source=LATENCIES[config.target].source,
        rows=rows,
        host=tuple(_host(item, calls) for item in left),
        host_calls={
            function: sum(count for name, count in counts.items() if name not in names)
            for function, counts in calls.items()
        },
        totals={function: _total(rows, function, config) for function in calls},
    )


def _row(operator: Operator, table: Table, calls: Calls) -> Row:
    conv = operator.conv
    return Row(
        name=operator.name,
        phase=phase(operator.what),
        text=words(conv),
        workload=operator.workload,
        calls=_of(operator.name, calls),
        groups=operator.groups,
        runs=sum(len(run.streams) for run in operator.runs) * operator.groups,
        each=Figures.of(useful_macs(conv), table.cost(operator) * operator.groups, table.config),
    )


def _host(item: Left, calls: Calls) -> HostRow:
    conv, times = item.conv, item.reason.times
    return HostRow(
        name=item.name,
        phase=phase(item.what),
        text=words(conv),
        workload=asdict(conv),
        calls=_of(item.name, calls),
        macs=useful_macs(conv),
        reason=item.reason.text,
        host_seconds=None if times is None else times.host,
        array_seconds=None if times is None else times.array,
    )


def _of(name: str, calls: Calls) -> dict[str, int]:
    return {function: counts[name] for function, counts in calls.items() if counts.get(name)}


def _total(rows: Iterable[Row], function: str, config: Config) -> Figures:
    macs, total = 0, Cost()
    for row in rows:
        times = row.calls.get(function, 0)
        macs, total = macs + row.each.macs * times, total + row.each.cost * times
    return Figures.of(macs, total, config)


def useful_macs(conv: Convolution) -> int:
    """Multiply-accumulates of one contraction that are not with padding."""
    rows, columns = (_products(conv, axis) for axis in (0, 1))
    return conv.batch * rows * columns * conv.in_channels // conv.groups * conv.out_channels


def _products(conv: Convolution, axis: int) -> int:
    """Pairs of an output pixel and a tap, along an axis, that meet a pixel of the input."""
    size, outputs = ((conv.height, conv.out_height), (conv.width, conv.out_width))[axis]
    stride, padding, dilation = conv.stride[axis], conv.padding[axis], conv.dilation[axis]
    taps = range(conv.kernel[axis])
    return sum(0 <= o * stride - padding + k * dilation < size for o in range(outputs) for k in taps)


def write(made: Report, folder: Path) -> None:
    """Write a report into a Program folder."""
    path = folder / REPORT
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"schema": SCHEMA} | asdict(made), indent=1) + "\n")


def read(folder: Path) -> Report:
    """The report of a Program folder. Raises UsageError where it is not one that this version writes."""
    path = folder / REPORT
    try:
        content = json.loads(path.read_text())
        if content.pop("schema") != SCHEMA:
            raise UsageError(f"{path} has another schema than {SCHEMA}, which this version reads")
        rows = tuple(Row(**(row | {"each": _figures(row["each"])})) for row in content["rows"])
        host = tuple(HostRow(**row) for row in content["host"])
        totals = {name: _figures(figures) for name, figures in content["totals"].items()}
        return Report(**(content | {"rows": rows, "host": host, "totals": totals}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: compile the program again") from error


def array(made: Report) -> Array:
    """What a step, with everything executed, takes of the array."""
    costs, done, left = dict[str, Cost](), Counter[str](), Counter[str]()
    for row in made.rows:
        calls = row.calls.get("step", 0)
        costs[row.phase] = costs.get(row.phase, Cost()) + row.each.cost * calls
        done[row.phase] += calls * row.each.macs
    for other in made.host:
        left[other.phase] += other.calls.get("step", 0) * other.macs
    shares = {phase: macs / (macs + left[phase]) for phase, macs in done.items() if macs}
    source = f"the cycle model of the streams; a read's latency: {made.latency_source}"
    cycles = {phase: cost.cycles for phase, cost in costs.items()}
    moved = {phase: _moved(cost) for phase, cost in costs.items()}
    return Array(made.board, made.clock_hz, cycles, moved, shares, source)


def _moved(cost: Cost) -> Amounts:
    """Bytes by memory, as work is counted."""
    return {
        "read.dram": cost.loaded_bytes,
        "write.dram": cost.out_bytes,
        "read.sram": cost.sram_read_bytes,
        "write.sram": cost.sram_written_bytes,
    }


def _figures(content: dict[str, Any]) -> Figures:
    return Figures(**(content | {"cost": Cost(**content["cost"])}))
