"""The Relax module of a program: functions as sequences of calls of scheduled kernels."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx
from tvm import IRModule, relax
from tvm.relax.op import memory
from tvm.tirx import PrimFunc

from e2compile.errors import CompileError
from e2compile.graph import where
from e2compile.lower.arena import Arena, arena
from e2compile.lower.build import LoopKernel
from e2compile.lower.contraction import Call
from e2compile.lower.fuse import Fusion, holder
from e2compile.lower.inline import Live
from e2compile.lower.layout import Order, natural, physical
from e2compile.lower.liveness import blocks
from e2compile.lower.scalar import dtype_text
from e2compile.lower.schedule import (
    Copy,
    Kernel,
    LiveSamples,
    Schedule,
    schedule,
)
from e2compile.lower.views import Shape, shape_of
from e2compile.lower.workload import Contraction, Convolution

# The module's attribute that holds `lines`.
LINES = "e2.lines"


class Lowering:
    """Collects functions and their kernels; equal kernels are generated once.

    `kernels` is a target's: see e2compile.targets.base. `planned_bytes` is the temporary memory of each
    function; state, data and results come on top.
    """

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.builder = relax.BlockBuilder()
        self.generated: dict[Any, Any] = {}
        self.schedules: dict[str, Schedule] = {}
        self.planned_bytes: dict[str, int] = {}
        self.called: dict[str, tuple[str, ...]] = {}

    def function(self, name: str, fusion: Fusion, states: dict[str, Order]) -> None:
        """Add a function. Its arguments are the graph's inputs, state in its own memory order; it returns
        the outputs that are not state, row-major. State is updated in place.
        """
        self.schedules[name] = schedule(fusion, states)
        temporaries = arena(blocks(self.schedules[name]))
        self.planned_bytes[name] = temporaries.bytes
        _Emitter(self, self.schedules[name], temporaries).emit(name)
        self.called[name] = tuple(str(self.kernel(k).name_hint) for k in _plain(self.schedules[name].kernels))

    def module(self) -> IRModule:
        return self.builder.get().with_attr(LINES, self.lines())

    def lines(self) -> dict[str, list[str]]:
        """The model's lines that each kernel of a contraction or pooling computes something of."""
        found: dict[str, dict[str, None]] = {}
        for plan in self.schedules.values():
            for item in plan.kernels:
                if isinstance(item, Call):
                    lines = found.setdefault(str(self.kernel(item).name_hint), {})
                    lines |= dict.fromkeys(where(r.node) for r in item.results if r.node is not None)
        return {name: list(lines) for name, lines in found.items()}

    def sequence(self) -> dict[str, list[tuple[str, str, str]]]:
        """Of each function the calls in order: the kernel, and phase and layer of its first result."""
        return {
            name: [
                (kernel, *_place(item)) for kernel, item in zip(self.called[name], plan.kernels, strict=True)
            ]
            for name, plan in self.schedules.items()
        }

    def kernel(self, item: LoopKernel | Call | LiveSamples) -> Any:
        """The global variable of a kernel, generated the first time it is asked for."""
        key = _key(item)
        if key not in self.generated:
            function = self._generate(item)
            self.generated[key] = self.builder.add_func(function, str(function.attrs["global_symbol"]))
        return self.generated[key]

    def _generate(self, item: LoopKernel | Call | LiveSamples) -> PrimFunc:
        if isinstance(item, LoopKernel):
            return self.kernels.loop(item.loop)
        if isinstance(item, LiveSamples):
            return self.kernels.live_samples(item.samples, _source(item.live))
        if isinstance(item.workload, Convolution):
            contraction = Contraction(item.method, item.workload, item.signed)
            dtype = item.results[0].dtype
            return contraction_kernel(self.kernels, contraction, item.bias, bool(item.live), dtype)
        return getattr(self.kernels, item.method)(item.workload, gated=bool(item.live))


def contraction_kernel(
    kernels: Any,
    contraction: Contraction,
    bias: bool = False,
    gated: bool = False,
    dtype: str = "float32",
) -> PrimFunc:
    """A target's kernel of a contraction; `dtype` is that of a result that it scales."""
    method, conv = getattr(kernels, contraction.method), contraction.conv
    if contraction.method == "convolution":
        return method(conv, bias, gated=gated)
    if contraction.method in ("integer_convolution", "integer_weight_gradient"):
        return method(conv, contraction.signed, gated=gated)
    if contraction.method == "scaled_convolution":
        return method(conv, contraction.signed, dtype, gated=gated)
    if contraction.method in ("scaled_input_gradient", "planes_input_gradient"):
        return method(conv, dtype, gated=gated)
    return method(conv, gated=gated)


def contractions(plan: Schedule) -> Counter[Contraction]:
    """How often each contraction is called."""
    calls = (item for item in plan.kernels if isinstance(item, Call))
    return Counter(
        Contraction(call.method, call.workload, call.signed)
        for call in calls
        if isinstance(call.workload, Convolution)
    )


def _place(item: Kernel) -> tuple[str, str]:
    """The phase and the module of what a kernel computes."""
    if isinstance(item, Call):
        node = item.results[0].node
    elif isinstance(item, LoopKernel):
        node = next((output for output in item.outputs if output is not None), None)
    else:
        node = item.node if isinstance(item, Copy) else item.live[-1]
    meta = {} if node is None else node.meta
    return meta.get("phase", ""), meta.get("module", "")


def _plain(kernels: Sequence[Kernel]) -> Iterator[LoopKernel | Call | LiveSamples]:
    for kernel in kernels:
        yield kernel.kernel if isinstance(kernel, Copy) else kernel


def _key(item: LoopKernel | Call | LiveSamples) -> Any:
    """What two kernels of one function have in common."""
    if isinstance(item, LoopKernel):
        return item.loop
    if isinstance(item, LiveSamples):
        return item.samples, _source(item.live)
    dtypes = tuple(result.dtype for result in item.results)
    return item.method, item.workload, item.bias, item.signed, bool(item.live), dtypes


def _source(live: Live) -> str:
    """What live samples are listed from: a guard's mask, a predicate, or a list and a predicate."""
    is_mask = live[-1].meta["val"].dim() == 1
    if len(live) == 1:
        return "mask" if is_mask else "predicate"
    if is_mask or len(live) > 2:
        message = "a block within a guarded block cannot have a guard of its own"
        raise CompileError(message, [where(live[-1])])
    return "list"


class _Emitter:
    """Emits one function's kernels as calls, what they write given to them: temporaries in one block."""

    def __init__(self, lowering: Lowering, plan: Schedule, temporaries: Arena) -> None:
        self.lowering, self.graph, self.plan = lowering, plan.graph, plan
        self.builder = lowering.builder
        self.temporaries = temporaries
        self.vars: dict[Any, Any] = {}
        self.copies: dict[tuple[fx.Node, Order], Any] = {}
        self.live: dict[Live, tuple[Any, Any]] = {}

    def emit(self, name: str) -> None:
        arguments = [self._argument(slot, node) for slot, node in self._inputs()]
        with self.builder.function(name, arguments):
            size = relax.ShapeExpr([self.temporaries.bytes])
            self.block = self.builder.emit(memory.alloc_storage(size, 0, "global", "uint8"))
            for number, kernel in enumerate(self.plan.kernels):
                self.number = number
                self._kernel(kernel)
            self.builder.emit_func_output(relax.Tuple([self._returned(n) for n in self.plan.returned]))

    def _inputs(self) -> Sequence[tuple[Any, fx.Node]]:
        return list(zip(self.graph.inputs, self.graph.placeholders, strict=True))

    def _argument(self, slot: Any, node: fx.Node) -> Any:
        shape = shape_of(node)
        if slot.kind.is_state:
            shape = physical(shape, self.plan.layout[node])
        self.vars[node] = relax.Var(node.name, _type(shape, dtype_text(node.meta["val"].dtype)))
        return self.vars[node]

    def _kernel(self, kernel: LoopKernel | Call | Copy | LiveSamples) -> None:
        if isinstance(kernel, Call):
            self._call(kernel)
        elif isinstance(kernel, LiveSamples):
            self._list(kernel)
        elif isinstance(kernel, Copy):
            (var,) = self._loop(kernel.kernel)
            if kernel.kernel.loop.donated == (None,):
                self.copies[kernel.node, kernel.order] = var
        else:
            for node, var in zip(kernel.outputs, self._loop(kernel), strict=True):
                self.vars[node] = var

    def _loop(self, kernel: LoopKernel) -> list[Any]:
        loop = kernel.loop
        arguments = [
            self._shaped(self.vars[n], b.physical) for n, b in zip(kernel.inputs, loop.buffers, strict=False)
        ]
        if loop.gate is not None:
            index, count = self.live[kernel.live]
            arguments += [count] if loop.gate.batch is None else [index, count]
        results = [
            self._new(b.physical, b.dtype, i) if donor is None else arguments[donor]
            for i, (b, donor) in enumerate(zip(loop.buffers[loop.inputs :], loop.donated, strict=True))
        ]
        new = [result for result, donor in zip(results, loop.donated, strict=True) if donor is None]
        self._run(kernel, [*arguments, *new])
        return results

    def _call(self, kernel: Call) -> None:
        arguments = []
        for operand in kernel.operands:
            var = self.copies.get((operand.node, operand.order))
            var = var if var is not None else self.vars[holder(operand.node)]
            arguments.append(self._shaped(var, operand.shape))
        arguments += self.live[kernel.live] if kernel.live else ()
        results = [self._new(result.shape, result.dtype, i) for i, result in enumerate(kernel.results)]
        self._run(kernel, [*arguments, *results])
        for result, var in zip(kernel.results, results, strict=True):
            self.vars[result.node] = var

    def _list(self, kernel: LiveSamples) -> None:
        """The index list and its length; one that a predicate narrows keeps its list."""
        outer = self.live.get(kernel.live[:-1])
        mask = kernel.live[-1]
        given = [self._shaped(self.vars[holder(mask)], shape_of(mask))]
        count = self._new((1,), "int32", 1)
        if outer is None:
            index = self._new((kernel.samples,), "int32", 0)
            self._run(kernel, [*given, index, count])
        else:
            index = outer[0]
            self._run(kernel, [*given, outer[1], count])
        self.live[kernel.live] = index, count

    def _new(self, shape: Shape, dtype: str, result: int) -> Any:
        """Memory for a result of the kernel at hand: its place among temporaries, or its own if returned."""
        offset = self.temporaries.offsets.get((self.number, result))
        sizes = relax.ShapeExpr(shape)
        if offset is None:
            return self.builder.emit(relax.op.builtin.alloc_tensor(sizes, dtype, 0))
        placed = self.builder.emit(memory.alloc_tensor(self.block, offset, sizes, dtype))
        # a tensor's pointer is that of the block; kernels take one to the place itself
        return self.builder.emit(memory.ensure_zero_offset(placed)) if offset else placed

    def _run(self, kernel: LoopKernel | Call | LiveSamples, arguments: list[Any]) -> None:
        self.builder.emit(relax.Call(self.lowering.kernel(kernel), arguments))

    def _shaped(self, var: Any, shape: Shape) -> Any:
        """A variable's memory in another shape of as many elements."""
        known = tuple(int(s) for s in var.ty.shape)
        if known == tuple(shape):
            return var
        assert math.prod(known) == math.prod(shape)
        return self.builder.emit(relax.op.reshape(var, shape))

    def _returned(self, node: fx.Node) -> Any:
        var = self.copies.get((node, natural(shape_of(node))))
        return self._shaped(var if var is not None else self.vars[holder(node)], shape_of(node))


def _type(shape: Shape, dtype: str) -> Any:
    return relax.TensorType(tuple(shape), dtype)
