"""The rows of the source that a task of a gather reads: where they are, or a copy of them in a wider type."""

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.emit import at, pointer, scratch, splat, store, when
from e2compile.targets.llvm.gather_plan import Plan
from e2compile.targets.llvm.scaling import PLANE


@dataclass(frozen=True)
class Line:
    """A row of the source from some pixel and channel on: elements of a buffer from `origin` on."""

    buffer: Any
    origin: Any


@dataclass(frozen=True)
class SourceRows:
    """What a target row of the samples at `places` is made of: `buffers` are the whole source, or its byte
    planes, or a copy of their rows.

    A number is that of a sample of the first plane, then of the second. Copied rows are in the order of
    these, then of kernel rows.
    """

    plan: Plan
    buffers: tuple[Any, ...]
    places: list[Any]
    is_copy: bool

    @property
    def numbers(self) -> range:
        return range(self.plan.planes * len(self.places))

    def element(self, number: int, tap_row: Any, row: Any, pixel: Any) -> Any:
        """The first channel of a pixel of source row `row`, which kernel row `tap_row` sees."""
        if self.is_copy:
            line = number * self.plan.rows.kernel + tap_row
        else:
            line = self.places[number % len(self.places)] * self.plan.rows.source + row
        return (line * self.plan.columns.source + pixel) * self.plan.source_pitch

    def line(self, number: int, element: Any) -> Line:
        """A copy is read as what it was written to: through a pointer, TVM would tell LLVM it is another."""
        if self.is_copy:
            return Line(self.buffers[0], T.bind(element))
        return Line(pointer(self.buffers[number // len(self.places)], element), 0)


def source_row(plan: Plan, row: Any, tap_row: Any) -> tuple[Any, Any]:
    """Which row of the source a row of the kernel sees for target row `row`, and whether there is one."""
    axis = plan.rows
    scaled = T.bind(row * axis.scale + tap_row * axis.spread + axis.shift)
    inside = tirx.all(scaled >= 0, scaled < axis.source * axis.divisor, scaled % axis.divisor == 0)
    return scaled // axis.divisor, inside


def source_rows(plan: Plan, sources: tuple[Any, ...], row: Any, places: list[Any]) -> SourceRows:
    """The rows of target row `row` of some samples, copied if the arithmetic wants them otherwise.

    Byte planes that the plan has no sums of their own for are put together then.
    """
    whole = SourceRows(plan, sources, places, False)
    dtype = plan.arithmetic.source_dtype
    if dtype is None:
        return whole
    size = plan.columns.source * plan.source_pitch
    copy = SourceRows(plan, (scratch(len(whole.numbers) * plan.rows.kernel * size, dtype),), places, True)
    with T.serial(plan.rows.kernel) as tap_row:
        seen, inside = source_row(plan, row, tap_row)
        with when(inside):
            for number in whole.numbers:
                first = T.bind(whole.element(number, tap_row, seen, 0))
                own = sources[number // len(places) :: plan.planes]
                lines = [pointer(source, first) for source in own]
                _copy(lines, copy.buffers[0], T.bind(copy.element(number, tap_row, seen, 0)), size, plan)
    return copy


def _copy(lines: list[Any], to: Any, origin: Any, size: int, plan: Plan) -> None:
    for group in groups(size, 2 * plan.machine.lanes, 1):
        (width,) = group.widths
        with T.serial(group.repeat) as number:
            place = T.bind(group.start + number * width)
            value, *rest = [plan.arithmetic.copied(line[at(place, width)], width) for line in lines]
            for low in rest:
                value = value * splat(tirx.const(PLANE, to.dtype), width) + low
            store(to, origin + place, value, width)
