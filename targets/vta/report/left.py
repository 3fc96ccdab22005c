"""What the array leaves to its host, said in a line."""

from collections import Counter
from collections.abc import Sequence

from e2compile.targets.vta.report.layers import HostRow, Report


def left(report: Report) -> str | None:
    """For the products of a step; None without any."""
    called = [row for row in report.host if row.calls.get("step")]
    if not called:
        return None
    count: Counter[str] = Counter()
    for row in called:
        count[row.reason] += row.calls["step"]
    reasons = ", ".join(
        f"{number} {why([row for row in called if row.reason == reason], 'step')}"
        for reason, number in count.most_common()
    )
    every = count.total() + sum(row.calls.get("step", 0) for row in report.rows)
    return f"{count.total()} of {every} integer products of a step, which the host does: {reasons}"


def why(rows: Sequence[HostRow], function: str) -> str:
    """The reason that some rows share; where times decide, with what they take in a call of the function."""
    timed = [
        (row.calls.get(function, 0) * row.host_seconds, row.calls.get(function, 0) * row.array_seconds)
        for row in rows
        if row.host_seconds is not None and row.array_seconds is not None
    ]
    if not timed:
        return rows[0].reason
    on_host, on_array = (sum(seconds) * 1e3 for seconds in zip(*timed, strict=True))
    return f"{rows[0].reason} ({on_host:.3g} ms, by the array {on_array:.3g} ms, modelled)"
