"""Partition: the integer kernels of a module that the array can run become calls of their streams."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from typing import Any

from tvm import IRModule, tirx
from tvm.tirx import PrimFunc

from e2compile.errors import CompileError, UsageError
from e2compile.lower.module import LINES
from e2compile.lower.workload import Convolution
from e2compile.targets.vta.analysis.check import LARGEST_TRANSFER, check
from e2compile.targets.vta.host import geometry, offload
from e2compile.targets.vta.host import kernels as noted
from e2compile.targets.vta.host.choice import Reason, Times, times
from e2compile.targets.vta.host.geometry import Gather, Gradient, Unsuitable
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import encode, encode_uops
from e2compile.targets.vta.isa.stream import Stream
from e2compile.targets.vta.program.cost import cost
from e2compile.targets.vta.program.table import (
    FORWARD,
    WEIGHT_GRADIENT,
    Binary,
    Operator,
    Run,
    Table,
    phase,
    words,
)
from e2compile.targets.vta.schedule.scheduler import streams
from e2compile.targets.vta.schedule.work import Work

Plan = Gather | Gradient


@dataclass(frozen=True)
class Partition:
    """A module whose noted kernels, where the array can run them, call the array, the table that they call,
    and of the others by name why they are left to the host."""

    module: IRModule
    table: Table
    left: dict[str, Reason]


@dataclass(frozen=True)
class Product:
    """A product of integers by its kernel's name, and the model's lines that it computes something of."""

    name: str
    what: str
    conv: Convolution
    gated: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Assignment:
    """What the array does: its table, the plan of each operator, and why others are left to the host."""

    table: Table
    plans: dict[str, Plan]
    left: dict[str, Reason]


def partition(module: IRModule, config: Config, largest: int = LARGEST_TRANSFER) -> Partition:
    """Give the array what it can do.

    Raises CompileError as `assign` does.
    """
    kernels = {
        str(variable.name_hint): (variable, kernel)
        for variable, kernel in module.functions_items()
        if isinstance(kernel, PrimFunc) and kernel.attrs and noted.WHAT in kernel.attrs
    }
    made = assign((_product(module, name, kernel) for name, (_, kernel) in kernels.items()), config, largest)
    functions = dict(module.functions_items())
    for number, (name, plan) in enumerate(made.plans.items()):
        variable, kernel = kernels[name]
        functions[variable] = _offloaded(name, kernel, plan, made.table, number)
    return Partition(IRModule(functions, attrs=module.attrs), made.table, made.left)


def assign(products: Iterable[Product], config: Config, largest: int = LARGEST_TRANSFER) -> Assignment:
    """Plan what the array can do of these products; of those in groups, where it is faster than the host.

    A stream has at most `largest` bytes of instructions and of micro-ops. Products in groups that have no
    stream on such an array are the host's; for others CompileError is raised, which names all their layers.
    """
    plans, left = dict[str, Plan](), dict[str, Reason]()
    streams, operators, refused = _Streams(config, largest), list[Operator](), list[str]()
    for product in products:
        try:
            plan = _plan(product, config)
        except Unsuitable as unsuitable:
            left[product.name] = Reason(str(unsuitable))
            continue
        reason = _host_reason(product, plan, config, largest) if plan.conv.groups > 1 else None
        if reason is not None:
            left[product.name] = reason
            continue
        try:
            operators.append(_operator(product, plan, streams))
            plans[product.name] = plan
        except UsageError as error:
            layer = f"{words(plan.conv)}, {phase(product.what)}"
            refused += [f"{layer}: {error}", *(f"  {line}" for line in product.lines)]
    if refused:
        raise CompileError(f"an array of {config.name} cannot run all layers", refused)
    return Assignment(Table(config, tuple(operators), tuple(streams.binaries)), plans, left)


def _host_reason(product: Product, plan: Plan, config: Config, largest: int) -> Reason | None:
    """Why a product in groups is left to the host: it is the faster one, or no stream can be made."""
    kind = "depthwise" if plan.conv.is_depthwise else "in groups"
    try:
        modelled = _times(product, plan, _Streams(config, largest))
    except UsageError as error:
        return Reason(f"{kind}: {error}")
    return Reason(kind, modelled) if modelled.host <= modelled.array else None


def _times(product: Product, plan: Plan, alone: "_Streams") -> Times:
    """What a product takes the array and what it takes the host, given streams of no other."""
    operator = _operator(product, plan, alone)
    table = Table(alone.config, (operator,), tuple(alone.binaries))
    return times(operator, table.cost(operator), alone.config)


def _product(module: IRModule, name: str, kernel: PrimFunc) -> Product:
    what, is_gated = str(kernel.attrs[noted.WHAT]), bool(kernel.attrs[noted.GATED])
    return Product(name, what, noted.workload(kernel), is_gated, _lines(module, name))


def _plan(product: Product, config: Config) -> Plan:
    if product.what == WEIGHT_GRADIENT:
        return geometry.weight_gradient(product.conv, config)
    plan = geometry.forward if product.what == FORWARD else geometry.input_gradient
    return plan(product.conv, config, product.gated)


def _lines(module: IRModule, name: str) -> tuple[str, ...]:
    """The model's lines that a kernel computes something of, where they are known."""
    known = module.attrs[LINES] if module.attrs and LINES in module.attrs else {}
    return tuple(str(line) for line in known[name]) if name in known else ()


class _Streams:
    """The streams of a table, those of each distinct work once."""

    def __init__(self, config: Config, largest: int) -> None:
        self.config, self.largest = config, largest
        self.numbers: dict[Work, tuple[int, ...]] = {}
        self.binaries: list[Binary] = []

    def __call__(self, work: Work) -> tuple[int, ...]:
        """The numbers of a work's streams."""
        if work not in self.numbers:
            found = _binaries(work, self.config, self.largest)
            first = len(self.binaries)
            self.binaries += found
            self.numbers[work] = tuple(range(first, len(self.binaries)))
        return self.numbers[work]


@cache
def _binaries(work: Work, config: Config, largest: int) -> tuple[Binary, ...]:
    """A work's streams, checked. Kept: an estimate asks for the same work after every pass."""
    return tuple(_checked(stream, config) for stream in streams(work, config, largest=largest))


def _checked(stream: Stream, config: Config) -> Binary:
    check(stream.instructions, stream.uops, config, stream.blocks)
    words, uops = encode(stream.instructions, config), encode_uops(stream.uops, config)
    return Binary(words, uops, cost(stream, config))


def _operator(product: Product, plan: Plan, numbers: _Streams) -> Operator:
    config, conv = numbers.config, plan.conv
    runs, inp, wgt, out = [], 0, 0, 0
    works = [part.work for part in plan.parts] if isinstance(plan, Gather) else [plan.work]
    inp_bytes = prod(works[0].inp_shape) * config.inp_bytes
    for _ in range(plan.bundles.count):
        for work in works:
            wgt_bytes = prod(work.wgt_shape) * config.wgt_bytes
            out_bytes = prod(work.out_shape) * config.out_bytes
            runs.append(Run(numbers(work), inp, inp_bytes, wgt, wgt_bytes, out, out_bytes))
            wgt, out = wgt + wgt_bytes, out + out_bytes
        inp += inp_bytes
    group = plan.images if isinstance(plan, Gather) else config.block
    return Operator(
        name=product.name,
        what=product.what,
        workload=asdict(conv),
        groups=-(-conv.batch // group),
        inp_bytes=inp,
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
