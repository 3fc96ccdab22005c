"""Groups become kernels: loops as data, contractions and poolings as workloads."""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import fx

from e2compile.lower.fuse import Fusion, Group, aligned, holder, producer
from e2compile.lower.inline import Live, live_of
from e2compile.lower.kinds import (
    ASSEMBLIES,
    CONSTANTS,
    REDUCTIONS,
    Work,
    is_constant,
    is_elementwise,
    reduced_dims,
    work,
)
from e2compile.lower.layout import Layout, Order
from e2compile.lower.loop import Buffer, Compute, Gate, Load, Loop, Reduce, Value, View, Window
from e2compile.lower.scalar import dtype_text, memory_text
from e2compile.lower.views import Shape, shape_of, source_of, squeezed
from e2compile.lower.windows import windows
from e2compile.ops import MOMENTS

aten = torch.ops.aten


@dataclass(frozen=True)
class LoopKernel:
    """A loop with the holders of its inputs and outputs; `donated` names the state an output overwrites.

    An output that nothing reads is None.
    """

    loop: Loop
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node | None, ...]
    live: Live = ()


class LoopBuilder:
    """Writes one loop: instructions are added on demand, from what is stored back to what is loaded."""

    def __init__(
        self,
        fusion: Fusion,
        layout: Layout,
        group: Group | None,
        shape: Shape,
        order: Order,
        live: Live = (),
        batch: int | None = None,
    ) -> None:
        self.fusion, self.layout, self.group = fusion, layout, group
        self.live, self.gate = live, Gate(batch) if live else None
        self.shape, self.loop_order = shape, order
        self.inputs: list[fx.Node] = []
        self.instructions: list[Load | Compute] = []
        self.values: dict[Any, int] = {}
        self.outputs: list[tuple[fx.Node | None, Buffer, fx.Node | None]] = []
        self.stores: list[tuple[int, int]] = []
        self.reduces: list[tuple[str, int, tuple[int, ...], tuple[int, ...], float, float]] = []

    def buffer(self, node: fx.Node) -> int:
        if node not in self.inputs:
            self.inputs.append(node)
        return self.inputs.index(node)

    def _emit(self, instruction: Load | Compute) -> int:
        if instruction not in self.values:
            self.values[instruction] = len(self.instructions)
            self.instructions.append(instruction)
        return self.values[instruction]

    def operand(self, node: fx.Node, out: Shape) -> int:
        """The value of a call's operand, broadcast to the call's shape."""
        source, _ = source_of(node)
        if is_constant(source):
            return self.load(node, out)
        if aligned(node, self.shape) and is_elementwise(source):
            is_inside = self.group is not None and self.fusion.of[source] is self.group
            if is_inside or self.fusion.is_recomputed(source):
                return self.compute(source)
        return self.load(node, out)

    def load(self, node: fx.Node, out: Shape, windows: tuple[Window, ...] = ()) -> int:
        """The value of a holder's element, read through views, or of a constant."""
        source, views_taken = source_of(node)
        if is_constant(source):
            value = source.args[CONSTANTS[source.target]]  # type: ignore[index]
            return self._emit(
                Compute(aten.full.default, (value,), (), dtype_text(node.meta["val"].dtype), out)
            )
        views = _views(views_taken)
        load = Load(self.buffer(source), out, shape_of(node), views, shape_of(source), None, windows)
        return self._emit(load)

    def compute(self, node: fx.Node) -> int:
        """The value of an element-wise call."""
        if node in self.values:
            return self.values[node]
        out = shape_of(node)
        if node.target is aten.gather.default:
            return self._gather(node, out)
        op: Any = node.target
        kwargs: tuple[tuple[str, Any], ...] = ()
        if node.target in REDUCTIONS:  # over a single element
            source: fx.Node = node.args[0]  # type: ignore[assignment]
            args: tuple[Any, ...] = (Value(self.operand(source, shape_of(source))),)
            op = aten._to_copy.default
        elif node.target in ASSEMBLIES:
            args = self._assembled(node, out)
        else:
            args = tuple(
                Value(self.operand(a, out)) if isinstance(a, fx.Node) else _static(a) for a in node.args
            )
            dropped = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking")
            kwargs = tuple((k, _static(v)) for k, v in sorted(node.kwargs.items()) if k not in dropped)
        index = self._emit(Compute(op, args, kwargs, dtype_text(node.meta["val"].dtype), out))
        self.values[node] = index
        return index

    def _assembled(self, node: fx.Node, out: Shape) -> tuple[Any, ...]:
        """A value and its windows in turn, and last, what is elsewhere."""
        parts, rest = windows(node)
        pairs = [(Value(self.load(part, out, places)), places) for part, places in parts]
        elsewhere = Value(self.load(rest, out)) if isinstance(rest, fx.Node) else rest
        return *chain.from_iterable(pairs), elsewhere

    def _gather(self, node: fx.Node, out: Shape) -> int:
        """gather(x, dim, places): a load whose index along dim is a value."""
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        dim: int = node.args[1]  # type: ignore[assignment]
        value = self.operand(node.args[2], out)  # type: ignore[arg-type]
        held, chain = source_of(source)
        if is_constant(held):
            return self.load(source, out)
        shape = shape_of(source)
        load = Load(self.buffer(held), out, shape, _views(chain), shape_of(held), (dim % len(shape), value))
        index = self._emit(load)
        self.values[node] = index
        return index

    def _output(self, node: fx.Node | None, buffer: Buffer, donor: fx.Node | None = None) -> int:
        self.outputs.append((node, buffer, donor))
        return len(self.outputs) - 1

    def store(
        self, node: fx.Node, order: Order, donor: fx.Node | None = None, value: int | None = None
    ) -> None:
        dtype = memory_text(node.meta["val"].dtype)
        value = self.compute(node) if value is None else value
        if donor is not None:
            self.buffer(donor)
        self.stores.append((value, self._output(node, Buffer(self.shape, order, dtype), donor)))

    def reduce(self, node: fx.Node) -> None:
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        dims = reduced_dims(node)
        kind = REDUCTIONS[node.target]  # type: ignore[index]
        value = self.operand(source, shape_of(source))
        count = 1
        for d in dims:
            count *= self.shape[d]
        scale = 1 / count if node.target in (aten.mean.default, aten.mean.dim) else 1.0
        correction = 0.0
        if node.target is aten.var_mean.correction:
            correction = float(node.kwargs.get("correction", 1))  # type: ignore[arg-type]
        if self.gate is not None and node.target is MOMENTS and not live_of(node):
            self.gate = replace(self.gate, always=True)
        kept = [d for d in range(len(self.shape)) if d not in dims]
        shape = tuple(self.shape[d] for d in kept)
        order = tuple(kept.index(d) for d in self.loop_order if d not in dims)
        outputs = tuple(
            self._output(result, Buffer(shape, order, dtype)) for result, dtype in reduction_results(node)
        )
        self.reduces.append((kind, value, dims, outputs, scale, correction))

    def finish(self) -> LoopKernel:
        first = len(self.inputs)
        buffers = [
            Buffer(squeezed(shape_of(n)), self.layout[n], memory_text(n.meta["val"].dtype))
            for n in self.inputs
        ]
        buffers += [buffer for _, buffer, _ in self.outputs]
        donated = tuple(self.inputs.index(d) if d is not None else None for *_, d in self.outputs)
        reduces = tuple(
            Reduce(kind, value, dims, tuple(first + o for o in outputs), scale, correction)
            for kind, value, dims, outputs, scale, correction in self.reduces
        )
        loop = Loop(
            self.shape,
            self.loop_order,
            tuple(buffers),
            first,
            tuple(self.instructions),
            tuple((value, first + output) for value, output in self.stores),
            reduces,
            donated,
            self._name(),
            self.gate,
        )
        return LoopKernel(loop, tuple(self.inputs), tuple(node for node, *_ in self.outputs), self.live)

    def _name(self) -> str:
        """The first and last operators, so that a profile can be read."""
        calls = [str(i.op).split(".")[1] for i in self.instructions if isinstance(i, Compute)]
        calls += [kind for kind, *_ in self.reduces]
        names = [c for c in calls if c not in ("full", "_to_copy")] or ["copy"]
        return "_".join(["loop", *names[:2], *names[2:][-2:]])


def reduction_results(node: fx.Node) -> list[tuple[fx.Node | None, str]]:
    """The holders of a reduction's results with their types; None for one that nothing reads."""
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        return [(node, memory_text(value.dtype))]
    items = {use.args[1]: use for use in node.users}
    return [(items.get(i), memory_text(v.dtype)) for i, v in enumerate(value)]


def _views(chain: tuple[fx.Node, ...]) -> tuple[View, ...]:
    return tuple(
        View(v.target, shape_of(v), shape_of(v.args[0]), _static(v.args[1:]))  # type: ignore
        for v in chain
    )


def _static(value: Any) -> Any:
    """A Python argument as a value that hashes."""
    if isinstance(value, (list, tuple)):
        return tuple(_static(v) for v in value)
    return value


def group_loop(
    fusion: Fusion, layout: Layout, group: Group, wanted: set[fx.Node], donors: dict[fx.Node, fx.Node]
) -> LoopKernel:
    """The loop of a group that stores what is wanted of it."""
    assert group.shape is not None
    builder = LoopBuilder(fusion, layout, group, group.shape, layout.loops[group], group.live, group.batch)
    for node in group.nodes:
        if work(node) is Work.REDUCE:
            if any(result in wanted for result, _ in reduction_results(node)):
                builder.reduce(node)
        elif node in wanted:
            donor = donors.get(node)
            builder.store(node, layout[donor] if donor is not None else layout[node], donor)
    return builder.finish()


def _batch(fusion: Fusion, node: fx.Node) -> int | None:
    """The dimension of a copy's loop that counts samples."""
    axis, shape = fusion.axes[node], shape_of(node)
    return None if axis is None or shape[axis] == 1 else sum(size != 1 for size in shape[:axis])


def copy_loop(
    fusion: Fusion, layout: Layout, node: fx.Node, order: Order, donor: fx.Node | None
) -> LoopKernel:
    """A loop that writes a node, read through whatever views, in an order of memory."""
    shape = squeezed(shape_of(node))
    live = live_of(producer(holder(node)))
    builder = LoopBuilder(fusion, layout, None, shape, order, live, _batch(fusion, node) if live else None)
    builder.store(node, order, donor, builder.load(node, shape_of(node)))
    return builder.finish()
