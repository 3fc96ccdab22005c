"""Partition: the integer kernels of a module that the array can run become calls of their streams."""

from dataclasses import asdict
from math import prod
from typing import Any

from tvm import IRModule, tirx
from tvm.tirx import PrimFunc

from e2compile.lower.workload import Convolution
from e2compile.targets.vta import accumulate, correlate, geometry, isa, offload
from e2compile.targets.vta import kernels as noted
from e2compile.targets.vta.check import check
from e2compile.targets.vta.config import Config
from e2compile.targets.vta.geometry import Gather, Gradient
from e2compile.targets.vta.report import cost
from e2compile.targets.vta.stream import Stream
from e2compile.targets.vta.table import Binary, Operator, Run, Table
from e2compile.targets.vta.work import Correlation, Work

Plan = Gather | Gradient


def partition(module: IRModule, config: Config) -> tuple[IRModule, Table]:
    """A module whose noted kernels, where the array can run them, call the array, and the table they call."""
    found = {
        variable: (kernel, plan)
        for variable, kernel in module.functions_items()
        if isinstance(kernel, PrimFunc) and (plan := _plan(kernel, config)) is not None
    }
    streams = Streams(config)
    operators = [
        operator(str(variable.name_hint), str(kernel.attrs[noted.WHAT]), plan, streams)
        for variable, (kernel, plan) in found.items()
    ]
    table = Table(config, tuple(operators), tuple(streams.binaries))
    functions = dict(module.functions_items())
    for number, (variable, (kernel, plan)) in enumerate(found.items()):
        functions[variable] = _offloaded(str(variable.name_hint), kernel, plan, table, number)
    return IRModule(functions, attrs=module.attrs), table


def _plan(kernel: PrimFunc, config: Config) -> Plan | None:
    if not kernel.attrs or noted.WHAT not in kernel.attrs:
        return None
    gated = bool(kernel.attrs[noted.GATED])
    return planned(str(kernel.attrs[noted.WHAT]), noted.workload(kernel), gated, config)


def planned(what: str, conv: Convolution, gated: bool, config: Config) -> Plan | None:
    """How the array does a contraction; None where it cannot."""
    if what == noted.WEIGHT_GRADIENT:
        return geometry.weight_gradient(conv, config)
    plan = geometry.forward if what == noted.FORWARD else geometry.input_gradient
    return plan(conv, config, gated)


class Streams:
    """The streams of a table, one for each distinct work."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.numbers: dict[Work, int] = {}
        self.binaries: list[Binary] = []

    def __call__(self, work: Work) -> int:
        """The number of a work's stream."""
        if work not in self.numbers:
            stream = compiled(work, self.config)
            self.numbers[work] = len(self.binaries)
            words = isa.encode(stream.instructions, self.config)
            uops = isa.encode_uops(stream.uops, self.config)
            self.binaries.append(Binary(words, uops, cost(stream, self.config)))
        return self.numbers[work]


def compiled(work: Work, config: Config) -> Stream:
    """The checked stream of a work."""
    if isinstance(work, Correlation):
        stream = correlate.stream(work, config)
    else:
        stream = accumulate.stream(work, config)
    check(stream.instructions, stream.uops, config, stream.blocks)
    return stream


def operator(name: str, what: str, plan: Plan, streams: Streams) -> Operator:
    """An operator of a table, its streams among the others."""
    config, conv = streams.config, plan.conv
    runs, wgt, out = [], 0, 0
    works = [part.work for part in plan.parts] if isinstance(plan, Gather) else [plan.work]
    for work in works:
        wgt_bytes = prod(work.wgt_shape) * config.wgt_bytes
        out_bytes = prod(work.out_shape) * config.out_bytes
        runs.append(Run(streams(work), wgt, wgt_bytes, out, out_bytes))
        wgt, out = wgt + wgt_bytes, out + out_bytes
    group = plan.images if isinstance(plan, Gather) else config.block
    return Operator(
        name=name,
        what=what,
        workload=asdict(conv),
        groups=-(-conv.batch // group),
        inp_bytes=prod(works[0].inp_shape) * config.inp_bytes,
        wgt_bytes=wgt,
        out_bytes=out,
        own_weights=isinstance(plan, Gradient),
        runs=tuple(runs),
    )


def _offloaded(name: str, kernel: PrimFunc, plan: Plan, table: Table, number: int) -> PrimFunc:
    signed, gated = (bool(kernel.attrs[key]) for key in (noted.SIGNED, noted.GATED))

    def run(*arguments: Any) -> Any:
        return tirx.call_packed(table.call, number, *arguments)

    if isinstance(plan, Gather):
        function = offload.gather(name, plan, table.config, run, signed, gated)
    else:
        function = offload.gradient(name, plan, table.config, run, signed, gated)
    return function.with_attr("global_symbol", kernel.attrs["global_symbol"])
