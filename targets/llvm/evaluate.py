"""The body of a loop: its instructions as TIR expressions at one point."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from e2compile.lower import functions
from e2compile.lower.access import full, held_index, is_affine, probe, source_index, strides
from e2compile.lower.kinds import ASSEMBLIES, COMPARISONS
from e2compile.lower.loop import Buffer, Compute, Load, Loop, Value, Window
from e2compile.lower.scalar import RULES, uniform
from e2compile.lower.views import Index
from e2compile.ops import UNIFORM
from e2compile.targets.llvm.integral import as_integer

aten = torch.ops.aten

# Their arguments after the first stay Python numbers.
_WITH_NUMBERS = (aten.pow.Tensor_Scalar, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
# A type, and that of the buffers that hold it.
_NARROW, _BITS = "bfloat16", "uint16"
_LOGICAL = (aten.logical_and.default, aten.logical_or.default, aten.logical_not.default)


@dataclass(frozen=True)
class Axis:
    """Dimensions of a loop run as one, outermost first."""

    dims: tuple[int, ...]
    extent: int
    reduced: bool


def axes(loop: Loop) -> list[Axis]:
    """The loop's dimensions in memory order, merged wherever every access stays linear."""
    reduced = set(loop.reduces[0].dims) if loop.reduces else set()
    accesses = [strides(loop, i)[1] for i in loop.instructions if isinstance(i, Load) and is_affine(i)]
    accesses += [probe(loop.buffers[b].address, len(loop.shape))[1] for _, b in loop.stores]
    mergeable = all(is_affine(i) for i in loop.instructions)
    mergeable = mergeable and not any(r.kind == "argmax" for r in loop.reduces)
    batch = loop.gate.batch if loop.gate is not None else None
    result: list[Axis] = []
    for dim in loop.order:
        axis = Axis((dim,), loop.shape[dim], dim in reduced)
        last = result[-1] if result else None
        is_alone = batch is not None and (dim == batch or (last is not None and batch in last.dims))
        alike = last is not None and mergeable and last.reduced == axis.reduced and not is_alone
        if last is not None and alike and _linear(accesses, last.dims[-1], axis):
            result[-1] = Axis((*last.dims, dim), last.extent * axis.extent, axis.reduced)
        else:
            result.append(axis)
    if not result or result[-1].dims == (batch,):  # samples are listed, so they never are lanes of a vector
        result.append(Axis((), 1, False))
    return result


def _linear(accesses: Sequence[Sequence[int]], outer: int, axis: Axis) -> bool:
    (dim,) = axis.dims
    return all(s[outer] == s[dim] * axis.extent for s in accesses)


@dataclass(frozen=True)
class Segment:
    """A range of the innermost axis; `is_vector` where what is read in it does not depend on the place."""

    start: int
    stop: int
    is_vector: bool


class Body:
    """Evaluates a loop's instructions at a point given as one expression for each axis."""

    def __init__(
        self,
        loop: Loop,
        views: Sequence[Any],
        segment: Segment | None = None,
        along: list[Axis] | None = None,
    ) -> None:
        self.loop, self.views, self.segment = loop, views, segment
        self.axes = axes(loop) if along is None else along

    def segments(self) -> list[Segment]:
        """The innermost axis cut where windows begin and end: each part of it is inside or outside."""
        extent = self.axes[-1].extent
        calls = [i for i in self.loop.instructions if isinstance(i, Compute) and i.op in ASSEMBLIES]
        inner = [
            w for call in calls for _, windows in _parts(call.args) for w in self._innermost(call, windows)
        ]
        cuts = {edge for w in inner for edge in (w.start, w.start + w.extent * w.step) if 0 < edge < extent}
        starts = [0, *sorted(cuts)]
        stops = [*starts[1:], extent]
        is_vector = all(w.step == 1 for w in inner)
        return [Segment(*bounds, is_vector) for bounds in zip(starts, stops, strict=True)]

    def _innermost(self, call: Compute, windows: Sequence[Window]) -> list[Window]:
        kept = [d for d, size in enumerate(call.out) if size != 1]
        last = self.axes[-1].dims
        return [w for w in windows if last and w.dim == kept[last[-1]]]

    def index(self, point: Sequence[Any]) -> Index:
        """The loop index of a point; only where no axes are merged."""
        place: Index = [0] * len(self.loop.shape)
        for axis, value in zip(self.axes, point, strict=True):
            if len(axis.dims) == 1:
                place[axis.dims[0]] = value
        return place

    def address(self, buffer: Buffer, point: Sequence[Any]) -> Any:
        """Where an output over the whole loop is written at a point."""
        _, steps = probe(buffer.address, len(self.loop.shape))
        return self.linear(0, steps, point)

    def linear(self, offset: int, steps: Sequence[int], point: Sequence[Any]) -> Any:
        """A linear address at a point, by its stride along each dimension of the loop."""
        result: Any = offset
        for axis, value in zip(self.axes, point, strict=True):
            step = steps[axis.dims[-1]] if axis.dims else 0
            result = result + value * step if step else result
        return result

    def values(self, point: Sequence[Any]) -> list[Expr]:
        """Each instruction's value, bound to a name so that no expression is built twice.

        What is bfloat16 in memory is float32 here.
        """
        values: list[Expr] = []
        for instruction in self.loop.instructions:
            if isinstance(instruction, Load):
                value = self._load(instruction, point, values)
                # what is overwritten is read before
                values.append(T.bind(value) if instruction.buffer in self.loop.donated else value)
            else:
                value = self._compute(instruction, point, values)
                values.append(T.bind(value) if "float" in instruction.dtype else value)
        return values

    def flag(self, index: int, point: Sequence[Any]) -> Expr:
        """The value at a point of an instruction that loads without others' values."""
        load = self.loop.instructions[index]
        assert isinstance(load, Load)
        return self._load(load, point, [])

    def store(self, target: int, value: Expr, place: Any) -> None:
        """Write an output's element; one of a bfloat16 buffer was made narrow by the instruction it is of."""
        view = self.views[target]
        T.buffer_store(view, functions.upper(value) if view.dtype == _BITS else value, [place])

    def _load(self, load: Load, point: Sequence[Any], values: list[Expr]) -> Expr:
        value = self._element(load, point, values)
        return functions.widened(value) if value.ty.dtype == _BITS else value

    def _element(self, load: Load, point: Sequence[Any], values: list[Expr]) -> Expr:
        view = self.views[load.buffer]
        if is_affine(load):
            return view[self.linear(*strides(self.loop, load), point)]
        index = self.index(point)
        if load.computed is not None:
            dim, value = load.computed
            place = full(index, load.out)
            place[dim] = tirx.Cast("int32", values[value])
            return view[self.loop.buffers[load.buffer].address(held_index(load, place))]
        return view[self.loop.buffers[load.buffer].address(source_index(load, index))]

    def _compute(self, call: Compute, point: Sequence[Any], values: list[Expr]) -> Expr:
        if call.dtype == _NARROW:
            value = self._compute(replace(call, dtype="float32"), point, values)
            return functions.widened(functions.narrowed(value))
        args = [values[a.index] if isinstance(a, Value) else a for a in call.args]
        if call.op in COMPARISONS:
            return RULES[call.op](*_common(args))
        if call.op is aten.where.self:
            condition, *rest = args
            return tirx.Select(condition, *(_cast(v, call.dtype) for v in rest))
        if call.op is aten._to_copy.default and call.dtype in ("int8", "uint8", "int32"):
            whole = as_integer(self.loop.instructions, values, call.args[0])
            return _cast(args[0] if whole is None else whole[0], call.dtype)
        if call.op in (aten._to_copy.default, aten.full.default):
            return _cast(args[0], call.dtype)
        if call.op is UNIFORM:
            return self._uniform(call, point, args)
        if call.op in ASSEMBLIES:
            return self._assemble(call, point, args)
        if call.op is aten.arange.start_step:
            return self._arange(call, point, args)
        if call.op is aten.scatter.value:
            return self._scatter(call, point, args)
        kwargs = dict(call.kwargs)
        if call.op in _WITH_NUMBERS:
            return RULES[call.op](_cast(args[0], call.dtype), *args[1:], **kwargs)
        dtype = "bool" if call.op in _LOGICAL else call.dtype
        kwargs = {key: _cast(value, dtype) for key, value in kwargs.items()}
        return RULES[call.op](*(_cast(a, dtype) for a in args), **kwargs)

    def _uniform(self, call: Compute, point: Sequence[Any], args: list[Any]) -> Expr:
        linear: Any = 0
        for i, size in zip(full(self.index(point), call.out), call.out, strict=True):
            linear = linear * size + i
        linear = tirx.const(linear, "int32") if isinstance(linear, int) else linear
        return uniform(args[0], args[1], args[2], linear)

    def _arange(self, call: Compute, point: Sequence[Any], args: list[Any]) -> Expr:
        (place,) = full(self.index(point), call.out)
        place = tirx.const(place, "int64") if isinstance(place, int) else place
        step = args[2] if len(args) > 2 else 1
        return _cast(args[0], call.dtype) + _cast(place, call.dtype) * _cast(step, call.dtype)

    def _assemble(self, call: Compute, point: Sequence[Any], args: list[Any]) -> Expr:
        """Each part where it is, and nothing read where it is not."""
        place = full(self.index(point), call.out)
        result = _cast(args[-1], call.dtype)
        for part, windows in reversed(_parts(args)):
            value = _cast(part, call.dtype)
            conditions = self._inside(call, windows, place)
            if False not in conditions:
                dynamic = [c for c in conditions if c is not True]
                result = T.if_then_else(tirx.all(*dynamic), value, result) if dynamic else value
        return result

    def _inside(self, call: Compute, windows: Sequence[Window], place: Index) -> list[Any]:
        """What holds where a part is: known in a segment, along the innermost axis."""
        conditions: list[Any] = []
        for window in windows:
            known = self.segment is not None and window in self._innermost(call, windows)
            offset = (self.segment.start if known else place[window.dim]) - window.start  # type: ignore[union-attr]
            conditions += [offset >= 0, offset < window.extent * window.step]
            if window.step > 1:
                conditions.append(tirx.EQ((place[window.dim] - window.start) % window.step, 0))
        return conditions

    def _scatter(self, call: Compute, point: Sequence[Any], args: list[Any]) -> Expr:
        """scatter along a dimension of an index that has one place there: a comparison with the place."""
        source, dim, index, value = args
        place = full(self.index(point), call.out)[dim]
        hit = tirx.EQ(tirx.Cast("int32", index), place)
        return tirx.Select(hit, _cast(value, call.dtype), _cast(source, call.dtype))


def _parts(args: Sequence[Any]) -> list[tuple[Any, tuple[Window, ...]]]:
    """The values and windows that an assembly's arguments hold in turn before the last."""
    return list(zip(args[:-1:2], args[1::2], strict=True))


def _cast(value: Any, dtype: str) -> Expr:
    if isinstance(value, (bool, int, float)):
        return tirx.const(value, dtype)
    if value.ty.dtype == dtype:
        return value
    if dtype == "bool":
        return functions.unequal(value, tirx.const(0, value.ty.dtype))
    if value.ty.dtype == "bool":
        # not a cast: TVM's analysis of bound values looks into those, and cannot take vectors of booleans
        return tirx.Select(value, tirx.const(1, dtype), tirx.const(0, dtype))
    if isinstance(value, tirx.Select):  # the same analysis fails on a cast of integers whose range it knows
        return tirx.Select(value.condition, _cast(value.true_value, dtype), _cast(value.false_value, dtype))
    return tirx.Cast(dtype, value)


def _common(args: list[Any]) -> list[Expr]:
    """Operands of a comparison in their common type; a Python float raises an integer to float32."""
    tensors = [a for a in args if not isinstance(a, (bool, int, float))]
    dtype = tensors[0].ty.dtype
    for other in tensors[1:]:
        dtype = str(torch.promote_types(getattr(torch, dtype), getattr(torch, other.ty.dtype))).removeprefix(
            "torch."
        )
    if any(isinstance(a, float) for a in args) and "float" not in dtype:
        dtype = "float32"
    if dtype == "bool":  # LLVM has no comparison of bits for TVM
        dtype = "int64"
    return [_cast(a, dtype) for a in args]
