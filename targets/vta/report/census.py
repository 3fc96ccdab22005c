"""Counts a module's kernels: how often each function calls each, which ones the array leaves to the host."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tvm import IRModule, ir, relax

from e2compile.targets.vta.host import kernels as noted
from e2compile.targets.vta.host.choice import Reason
from e2compile.targets.vta.report.layers import Left


def calls(module: IRModule) -> dict[str, Counter[str]]:
    """Of each Relax function, how often it calls each kernel."""
    return {
        str(variable.name_hint): _called(function)
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function)
    }


def _called(function: relax.Function) -> Counter[str]:
    found: Counter[str] = Counter()

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, ir.GlobalVar):
            found[str(expr.op.name_hint)] += 1

    relax.analysis.post_order_visit(function, visit)
    return found


def left(module: IRModule, reasons: Mapping[str, Reason]) -> list[Left]:
    """The noted kernels of a module that are left to the host, by name with a reason."""
    kernels = {name: module[name] for name in reasons}
    return [
        Left(name, str(kernel.attrs[noted.WHAT]), noted.workload(kernel), reasons[name])
        for name, kernel in kernels.items()
    ]
