"""Reducing kernels: sums, extrema and moments with their element-wise producers fused in.

The reduced axis is cut into a fixed number of parts, each summed in blocks, so that the result depends
neither on the number of threads nor on their timing and rounding grows with the root of a block.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from e2compile.lower import functions
from e2compile.lower.loop import Compute, Loop, Reduce
from e2compile.targets.llvm import ahead
from e2compile.targets.llvm.evaluate import Axis, Body
from e2compile.targets.llvm.gating import Rows
from e2compile.targets.llvm.loops import PARALLEL_ELEMENTS, kernel, lanes, unflatten, vectorized
from e2compile.targets.llvm.machine import Machine

aten = torch.ops.aten

_PARTS = 32
_BLOCK = 64
# Fewer neighbours than this are summed one by one.
_LEAST_LANES = 4


@dataclass(frozen=True)
class _Accumulator:
    """One running value of a reduction: its type, start, step from (old, values, position) and merge."""

    dtype: str
    start: Any
    step: Callable[..., Any]
    merge: Callable[[Any, Any], Any]


def _extreme(dtype: str, lowest: bool) -> Any:
    if dtype == "bool":
        return tirx.const(not lowest, dtype)
    if "float" in dtype:
        return tirx.const(-math.inf if lowest else math.inf, dtype)
    return tirx.min_value(dtype) if lowest else tirx.max_value(dtype)


def _is_magnitude(loop: Loop, index: int) -> bool:
    """Whether a value is known to be a float that is not negative."""
    call = loop.instructions[index]
    if not isinstance(call, Compute) or "float" not in call.dtype:
        return False
    if call.op is aten.where.self:
        return all(_is_magnitude(loop, value.index) for value in call.args[1:])
    if call.op is aten.full.default:
        return bool(call.args[0] >= 0)
    return call.op in (aten.abs.default, aten.relu.default)


def _accumulators(loop: Loop, reduce: Reduce) -> list[_Accumulator]:
    dtype = loop.buffers[reduce.outputs[0]].dtype

    def add(a: Any, b: Any) -> Any:
        return a + b

    zero = tirx.const(0, dtype)
    if reduce.kind == "sum":
        return [_Accumulator(dtype, zero, lambda old, x, _: old + tirx.Cast(dtype, x), add)]
    if reduce.kind == "amax" and _is_magnitude(loop, reduce.value):
        greater = functions.greatest_magnitude
        return [_Accumulator(dtype, zero, lambda old, x, _: greater(old, x), greater)]
    if reduce.kind == "amax":
        return [
            _Accumulator(
                dtype, _extreme(dtype, True), lambda old, x, _: functions.maximum(x, old), functions.maximum
            )
        ]
    if reduce.kind == "amin":
        return [
            _Accumulator(
                dtype, _extreme(dtype, False), lambda old, x, _: functions.minimum(x, old), functions.minimum
            )
        ]
    return [
        _Accumulator(dtype, zero, lambda old, x, shift: old + (x - shift), add),
        _Accumulator(dtype, zero, lambda old, x, shift: old + (x - shift) * (x - shift), add),
    ]


def reduction(loop: Loop, machine: Machine) -> PrimFunc:
    """A loop with reductions over one set of dimensions, and stores of what they are taken of."""
    result: list[PrimFunc] = []
    with kernel(loop, result) as (views, live):
        _Reduction(loop, views, live, machine).emit()
    return result[0]


class _Reduction:
    def __init__(self, loop: Loop, views: list[Any], live: Rows, machine: Machine) -> None:
        self.loop, self.views, self.live, self.body = loop, views, live, Body(loop, views)
        *_, last = axes = self.body.axes
        self.is_argmax = any(r.kind == "argmax" for r in loop.reduces)
        self.inner = Axis((), 1, False) if last.reduced else last
        self.width = lanes(self.inner.extent, machine)
        if self.inner.extent % self.width:
            self.width = math.gcd(self.inner.extent, machine.lanes)
        # The axis whose neighbours are summed in lanes of their own, and those last.
        shared = math.gcd(last.extent, machine.lanes)
        is_across = last.reduced and shared >= _LEAST_LANES and not self.is_argmax and self._has_lanes
        self.across = last if is_across else None
        if is_across:
            self.width = shared
        vectors = max(self.inner.extent // self.width, 1)
        most = 1 if self.is_argmax else max(1, machine.registers * 5 // 8 // len(self._specs()))
        # Vectors summed together, so that memory is read in its order, and groups of as many.
        self.together = max(n for n in range(1, most + 1) if vectors % n == 0)
        self.blocks = vectors // self.together
        self.kept = [a for a in axes if not a.reduced and a is not last]
        self.reduced = [a for a in axes if a.reduced]
        self.rows = math.prod(live.extent(a) for a in self.kept)
        self.most_rows = math.prod(a.extent for a in self.kept)
        large = math.prod(loop.shape) >= PARALLEL_ELEMENTS
        split = large and self.most_rows < 4 * _PARTS and not self.is_argmax
        first = self.reduced[0]
        self.parts = min(_PARTS, first.extent // self._step(first)) if split else 1
        self.loop_kind = T.parallel if large else T.serial

    def emit(self) -> None:
        if self.is_argmax:
            self._argmax()
        elif self.parts == 1:
            with self.loop_kind(0, self.rows * self.blocks) as task:
                row, block = unflatten(task, [self.rows, self.blocks])
                for vector, totals in zip(self._vectors(block), self._sums(row, block, 0), strict=True):
                    self._finish(row, vector, totals)
        else:
            self._in_parts()

    def _in_parts(self) -> None:
        """Each part's sums to a scratch tensor, then their sum in order."""
        specs = self._specs()
        vectors = self.blocks * self.together
        size = self.parts * self.most_rows * vectors * self.width
        scratch = [T.alloc_buffer((size,), spec.dtype, scope="global") for _, spec in specs]

        def place(part: Any, row: Any, vector: Any) -> Any:
            return ((part * self.rows + row) * vectors + vector) * self.width

        with T.parallel(0, self.parts * self.rows * self.blocks) as task:
            part, row, block = unflatten(task, [self.parts, self.rows, self.blocks])
            for vector, sums in zip(self._vectors(block), self._sums(row, block, part), strict=True):
                start = place(part, row, vector)
                for buffer, total in zip(scratch, sums, strict=True):
                    vectorized(self.width, _storing(buffer, total, start))
        with T.serial(0, self.rows * vectors) as task:
            row, vector = unflatten(task, [self.rows, vectors])
            totals = self._start(specs)
            with T.serial(0, self.parts) as part:
                for total, buffer, (_, spec) in zip(totals, scratch, specs, strict=True):
                    start = place(part, row, vector)
                    _merge(total, spec, _loading(buffer, start), self.width)
            self._finish(row, vector, totals)

    def _vectors(self, block: Any) -> list[Any]:
        """The vectors that are summed together."""
        return [block * self.together + i for i in range(self.together)]

    def _specs(self) -> list[tuple[Reduce, _Accumulator]]:
        return [(r, a) for r in self.loop.reduces for a in _accumulators(self.loop, r)]

    def _start(self, specs: Sequence[tuple[Reduce, _Accumulator]]) -> list[Any]:
        totals = [T.alloc_buffer((self.width,), spec.dtype, scope="global") for _, spec in specs]
        for total, (_, spec) in zip(totals, specs, strict=True):
            vectorized(self.width, _filling(total, spec.start))
        return totals

    @property
    def _has_lanes(self) -> bool:
        """Not where running values are booleans: LLVM has their vectors in two types, which TVM mixes."""
        return all(spec.dtype != "bool" for _, spec in self._specs())

    def _step(self, axis: Axis) -> int:
        """Elements of a reduced axis that are visited together."""
        return self.width if axis is self.across else 1

    def _visits(self, axis: Axis) -> Any:
        return self.live.extent(axis) if axis is not self.across else axis.extent // self.width

    def _sums(self, row: Any, block: Any, part: Any) -> list[list[Any]]:
        """The sums of one part of a row, for each vector of a block."""
        totals = [self._start(self._specs()) for _ in range(self.together)]
        extent = self._visits(self.reduced[0])
        size = (extent + (self.parts - 1)) // self.parts
        stretch = part * size, T.min(size, extent - part * size)
        self._outer(self.reduced, stretch, [], row, block, totals)
        return totals

    def _outer(
        self, axes: Sequence[Axis], stretch: Any, outer: list[Any], row: Any, block: Any, totals: list[Any]
    ) -> None:
        """Adds what lies in a stretch of the first of some axes, block by block of what is inside of it."""
        (first, *rest), (begin, count) = axes, stretch
        inside = math.prod(axis.extent // self._step(axis) for axis in rest)
        if inside > _BLOCK:
            with T.serial(0, count) as i:
                place = self.live.place(first, begin + i)
                self._outer(rest, (0, self._visits(rest[0])), [*outer, place], row, block, totals)
            return
        specs, step = self._specs(), _BLOCK // inside
        with T.serial(0, (count + (step - 1)) // step) as group:
            partial = [self._start(specs) for _ in range(self.together)]
            with T.serial(0, T.min(step, count - group * step)) as i:
                place = self.live.place(first, begin + group * step + i)
                self._inner(rest, [*outer, place], row, block, partial)
            for vector, values in zip(totals, partial, strict=True):
                for total, value, (_, spec) in zip(vector, values, specs, strict=True):
                    _merge(total, spec, value.__getitem__, self.width)

    def _inner(
        self, rest: Sequence[Axis], outer: list[Any], row: Any, block: Any, partial: list[list[Any]]
    ) -> None:
        if rest:
            with T.serial(0, self._visits(rest[0])) as i:
                self._inner(rest[1:], [*outer, self.live.place(rest[0], i)], row, block, partial)
            return
        for vector, sums in zip(self._vectors(block), partial, strict=True):
            ahead.ask(self.body, self._point(row, outer, vector, 0))
            vectorized(self.width, self._adding(outer, row, vector, sums))

    def _adding(self, outer: list[Any], row: Any, vector: Any, sums: list[Any]) -> Callable[[Any], None]:
        """What one lane of a vector does at a place: its stores, and its part of the sums."""

        def step(lane: Any) -> None:
            values = self.body.values(point := self._point(row, outer, vector, lane))
            for value, target in self.loop.stores:
                place = self.body.address(self.loop.buffers[target], point)
                self.body.store(target, values[value], place)
            shifts = {
                id(r): self._shift(r, row, vector, lane) for r in self.loop.reduces if r.kind == "moments"
            }
            for total, (reduce, spec) in zip(sums, self._specs(), strict=True):
                new = spec.step(total[lane], values[reduce.value], shifts.get(id(reduce)))
                T.buffer_store(total, new, [lane])

        return step

    def _shift(self, reduce: Reduce, row: Any, vector: Any, lane: Any) -> Any:
        """The first element: sums of differences from it do not cancel as sums of squares do."""
        first = [self.live.place(axis, 0) for axis in self.reduced]
        lane = lane if self.across is None else 0
        return self.body.values(self._point(row, first, vector, lane))[reduce.value]

    def _point(self, row: Any, reduced: Sequence[Any], vector: Any, lane: Any) -> list[Any]:
        places = self._kept(row) | dict(zip(map(id, self.reduced), reduced, strict=True))
        if self.across is not None:
            places[id(self.across)] = places[id(self.across)] * self.width + lane
        return [places.get(id(axis), vector * self.width + lane) for axis in self.body.axes]

    def _kept(self, row: Any) -> dict[int, Any]:
        """The places of a row along the axes that are not reduced."""
        positions = unflatten(row, [self.live.extent(a) for a in self.kept])
        return {
            id(axis): self.live.place(axis, position)
            for axis, position in zip(self.kept, positions, strict=True)
        }

    def _finish(self, row: Any, vector: Any, totals: list[Any]) -> None:
        """Write each reduction's results from its totals."""
        line = self._line(row)
        width = self.width
        if self.across is not None:
            totals, width = self._joined(totals), 1

        def write(lane: Any) -> None:
            position = 0
            place = (line * (self.blocks * self.together) + vector) * width + lane
            for reduce in self.loop.reduces:
                if reduce.kind != "moments":
                    value = totals[position][lane]
                    scaled = value if reduce.scale == 1 else value * tirx.const(reduce.scale, value.ty.dtype)
                    T.buffer_store(self.views[reduce.outputs[0]], scaled, [place])
                    position += 1
                    continue
                sums = totals[position][lane], totals[position + 1][lane]
                self._write_moments(reduce, *sums, place, self._shift(reduce, row, vector, lane))
                position += 2

        vectorized(width, write)

    def _joined(self, totals: Sequence[Any]) -> list[Any]:
        """The totals of all lanes as one, in their order."""
        specs = self._specs()
        joined = [T.alloc_buffer((1,), spec.dtype, scope="global") for _, spec in specs]
        for one, total, (_, spec) in zip(joined, totals, specs, strict=True):
            T.buffer_store(one, total[0], [0])
            with T.serial(1, self.width) as lane:
                T.buffer_store(one, spec.merge(one[0], total[lane]), [0])
        return joined

    def _line(self, row: Any) -> Any:
        """The row of the results that a row of the loop belongs to."""
        places, line = self._kept(row), 0
        for axis in self.kept:
            line = line * axis.extent + places[id(axis)]
        return line

    def _write_moments(self, reduce: Reduce, first: Any, second: Any, place: Any, shift: Any) -> None:
        """Variance and mean from the sums of differences from `shift` and of their squares."""
        dtype = first.ty.dtype
        n: Any = math.prod(self.live.extent(a) for a in self.reduced)
        count = tirx.const(n, dtype) if isinstance(n, int) else tirx.Cast(dtype, tirx.max(n, 1))
        variance = (second - first * first / count) / (count - tirx.const(reduce.correction, dtype))
        mean = shift + first / count
        if self.loop.gate is not None and self.loop.gate.always:
            mean = tirx.Select(self.live.count > 0, mean, tirx.const(0, dtype))
        T.buffer_store(self.views[reduce.outputs[0]], variance, [place])
        T.buffer_store(self.views[reduce.outputs[1]], mean, [place])

    def _argmax(self) -> None:
        """The first place of the largest value along a dimension; a NaN counts as the largest, as in ATen."""
        (reduce,) = self.loop.reduces
        (axis,) = self.reduced
        with T.serial(0, self.rows * self.inner.extent) as task:
            row, lane = unflatten(task, [self.rows, self.inner.extent])
            best = T.alloc_buffer((1,), self._value_dtype(reduce), scope="global")
            where = T.alloc_buffer((1,), "int64", scope="global")
            T.buffer_store(where, tirx.const(0, "int64"), [0])
            with T.serial(0, axis.extent) as i:
                value = self.body.values(self._argmax_point(row, i, lane))[reduce.value]
                is_first = (
                    functions.negation(functions.is_nan(best[0])) if functions.is_float(value) else True
                )
                greater = tirx.all(functions.greater(value, best[0]), is_first)
                with T.If(tirx.any(i == 0, greater)), T.Then():
                    T.buffer_store(best, value, [0])
                    T.buffer_store(where, tirx.Cast("int64", i), [0])
            T.buffer_store(
                self.views[reduce.outputs[0]], where[0], [self._line(row) * self.inner.extent + lane]
            )

    def _argmax_point(self, row: Any, i: Any, lane: Any) -> list[Any]:
        kept = self._kept(row)
        return [i if axis.reduced else kept.get(id(axis), lane) for axis in self.body.axes]

    def _value_dtype(self, reduce: Reduce) -> str:
        instruction = self.loop.instructions[reduce.value]
        if hasattr(instruction, "dtype"):
            return str(instruction.dtype)
        return self.loop.buffers[instruction.buffer].dtype


def _merge(total: Any, spec: _Accumulator, value: Callable[[Any], Any], width: int) -> None:
    vectorized(width, lambda lane: T.buffer_store(total, spec.merge(total[lane], value(lane)), [lane]))


def _storing(buffer: Any, values: Any, start: Any) -> Callable[[Any], Any]:
    return lambda lane: T.buffer_store(buffer, values[lane], [start + lane])


def _loading(buffer: Any, start: Any) -> Callable[[Any], Any]:
    return lambda lane: buffer[start + lane]


def _filling(buffer: Any, value: Any) -> Callable[[Any], Any]:
    return lambda lane: T.buffer_store(buffer, value, [lane])
