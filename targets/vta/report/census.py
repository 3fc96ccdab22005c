"""Counts a module's kernels: how often each function calls each, which ones the array leaves to the host."""

from collections import Counter
from typing import Any

from tvm import IRModule, ir, relax
from tvm.tirx import PrimFunc

from e2compile.targets.vta.host import kernels as noted
from e2compile.targets.vta.program.table import Table
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
        if isinstance(expr, relax.Call) and expr.args and isinstance(expr.args[0], ir.GlobalVar):
            found[str(expr.args[0].name_hint)] += 1

    relax.analysis.post_order_visit(function, visit)
    return found


def left(module: IRModule, table: Table) -> list[Left]:
    """The noted kernels of a module that are no operators of its table."""
    taken = {operator.name for operator in table.operators}
    return [
        Left(str(variable.name_hint), str(function.attrs[noted.WHAT]), noted.workload(function))
        for variable, function in module.functions_items()
        if isinstance(function, PrimFunc)
        and function.attrs
        and noted.WHAT in function.attrs
        and variable.name_hint not in taken
    ]
