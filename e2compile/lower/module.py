"""The Relax module of a program: functions as sequences of calls of scheduled kernels."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from tvm import IRModule, relax
from tvm.relax.expr import _update_type
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
from e2compile.runtime.engine import memory_of

# The module's attribute that holds `lines`.
LINES = "e2.lines"


class Lowering:
    """Collects functions and their kernels; equal kernels are generated once.

    `kernels` is a target's: see e2compile.targets.base. `planned_bytes` is the memory of each function beside
    state and data.
    """

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.builder = relax.BlockBuilder()
        self.generated: dict[Any, Any] = {}
        self.schedules: dict[str, Schedule] = {}
        self.planned_bytes: dict[str, int] = {}
        self.called: dict[str, tuple[str, ...]] = {}

    def function(self, name: str, fusion: Fusion, states: dict[str, Order]) -> None:
        """Add a function, and with it `memory_of(name)`. Its arguments are the graph's inputs, state in its
        own memory order, and the tensors that the other one makes; it returns the outputs that are not state,
        row-major, in memory that its next call writes again. State is updated in place.
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


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a function: an argument, or what lies at an offset of the function's block."""

    var: Any
    shape: Shape
    dtype: str
    offset: int | None = None


class _Emitter:
    """Emits one function's kernels as calls, and a second function that makes the tensors they write.

    Temporaries and results lie in one block. Their tensors are made once and are arguments of the function,
    so that it calls nothing but kernels; only arguments of the graph may have to be reshaped in it.
    """

    def __init__(self, lowering: Lowering, plan: Schedule, temporaries: Arena) -> None:
        self.lowering, self.graph, self.plan = lowering, plan.graph, plan
        self.builder = lowering.builder
        self.temporaries = temporaries
        self.places: dict[tuple[int, Shape, str], _Tensor] = {}
        self.tensors: dict[Any, _Tensor] = {}
        self.copies: dict[tuple[fx.Node, Order], _Tensor] = {}
        self.live: dict[Live, tuple[_Tensor, _Tensor]] = {}

    def emit(self, name: str) -> None:
        arguments = [
            self._argument(slot, node)
            for slot, node in zip(self.graph.inputs, self.graph.placeholders, strict=True)
        ]
        with self.builder.function(name):
            for number, kernel in enumerate(self.plan.kernels):
                self.number = number
                self._kernel(kernel)
            returned = [self._returned(node).var for node in self.plan.returned]
            inputs = [tensor.var for tensor in [*arguments, *self.places.values()]]
            self.builder.emit_func_output(relax.Tuple(returned), inputs)
        self._emit_memory(memory_of(name))

    def _emit_memory(self, name: str) -> None:
        """The block, and the tensors in it that the function takes after the graph's arguments."""
        with self.builder.function(name, []):
            size = relax.ShapeExpr([self.temporaries.bytes])
            block = self.builder.emit(memory.alloc_storage(size, 0, "global", "uint8"))
            made = []
            for offset, shape, dtype in self.places:
                placed = self.builder.emit(memory.alloc_tensor(block, offset, relax.ShapeExpr(shape), dtype))
                # a tensor's pointer is that of the block; kernels take one to the place itself
                made.append(self.builder.emit(memory.ensure_zero_offset(placed)) if offset else placed)
            self.builder.emit_func_output(relax.Tuple(made))

    def _argument(self, slot: Any, node: fx.Node) -> _Tensor:
        shape, dtype = shape_of(node), dtype_text(node.meta["val"].dtype)
        if slot.kind.is_state:
            shape = physical(shape, self.plan.layout[node])
        var = relax.Var(node.name, relax.TensorType(tuple(shape), dtype))
        self.tensors[node] = _Tensor(var, tuple(shape), dtype)
        return self.tensors[node]

    def _kernel(self, kernel: LoopKernel | Call | Copy | LiveSamples) -> None:
        if isinstance(kernel, Call):
            self._call(kernel)
        elif isinstance(kernel, LiveSamples):
            self._list(kernel)
        elif isinstance(kernel, Copy):
            (tensor,) = self._loop(kernel.kernel)
            if kernel.kernel.loop.donated == (None,):
                self.copies[kernel.node, kernel.order] = tensor
        else:
            for node, tensor in zip(kernel.outputs, self._loop(kernel), strict=True):
                self.tensors[node] = tensor

    def _loop(self, kernel: LoopKernel) -> list[_Tensor]:
        loop = kernel.loop
        arguments = [
            self._shaped(self.tensors[n], b.physical)
            for n, b in zip(kernel.inputs, loop.buffers, strict=False)
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
            copy = self.copies.get((operand.node, operand.order))
            tensor = copy if copy is not None else self.tensors[holder(operand.node)]
            arguments.append(self._shaped(tensor, operand.shape))
        arguments += self.live[kernel.live] if kernel.live else ()
        results = [self._new(result.shape, result.dtype, i) for i, result in enumerate(kernel.results)]
        self._run(kernel, [*arguments, *results])
        for result, tensor in zip(kernel.results, results, strict=True):
            self.tensors[result.node] = tensor

    def _list(self, kernel: LiveSamples) -> None:
        """The index list and its length; one that a predicate narrows keeps its list."""
        outer = self.live.get(kernel.live[:-1])
        mask = kernel.live[-1]
        given = [self._shaped(self.tensors[holder(mask)], shape_of(mask))]
        count = self._new((1,), "int32", 1)
        if outer is None:
            index = self._new((kernel.samples,), "int32", 0)
            self._run(kernel, [*given, index, count])
        else:
            index = outer[0]
            self._run(kernel, [*given, outer[1], count])
        self.live[kernel.live] = index, count

    def _new(self, shape: Shape, dtype: str, result: int) -> _Tensor:
        """The place of a result of the kernel at hand."""
        return self._place(self.temporaries.offsets[self.number, result], tuple(shape), dtype)

    def _place(self, offset: int, shape: Shape, dtype: str) -> _Tensor:
        key = offset, shape, dtype
        if key not in self.places:
            # of any type: of a tensor's the machine would check every argument at every call
            var = relax.Var(f"place{len(self.places)}", relax.AnyType())
            self.places[key] = _Tensor(var, shape, dtype, offset)
        return self.places[key]

    def _run(self, kernel: LoopKernel | Call | LiveSamples, arguments: list[_Tensor]) -> None:
        call = relax.Call(self.lowering.kernel(kernel), [tensor.var for tensor in arguments])
        _update_type(call, relax.TupleType([]))  # not derived from arguments, as these have no type
        self.builder.emit(call)

    def _shaped(self, tensor: _Tensor, shape: Shape) -> _Tensor:
        """A tensor's memory in another shape of as many elements."""
        if tensor.shape == tuple(shape):
            return tensor
        assert math.prod(tensor.shape) == math.prod(shape)
        if tensor.offset is not None:
            return self._place(tensor.offset, tuple(shape), tensor.dtype)
        var = self.builder.emit(relax.op.reshape(tensor.var, shape))
        return _Tensor(var, tuple(shape), tensor.dtype)

    def _returned(self, node: fx.Node) -> _Tensor:
        copy = self.copies.get((node, natural(shape_of(node))))
        return self._shaped(copy if copy is not None else self.tensors[holder(node)], shape_of(node))
