"""What tiles are loaded from: weights in their order of use, and a task's own rows of the source."""

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.blocks import groups
from e2compile.targets.llvm.dot import joined, neighbours
from e2compile.targets.llvm.emit import at, padded, pointer, prefetch, scratch, store, tasks, when, zero
from e2compile.targets.llvm.tile_plan import TilePlan
from e2compile.targets.llvm.tiles import BYTES, DEPTH, LANES, ROWS, SIZE
from e2compile.targets.llvm.weights import Matrix


def weight_tile(plan: TilePlan, group: Any, run: Any, row: Any) -> Any:
    """Where the packed weights of a row of the kernel begin, for a group of targets and a run of sources."""
    return ((group * plan.runs + run) * plan.conv.kernel[0] + row) * SIZE


def packed_weights(weight: Any, plan: TilePlan) -> Any:
    """The weights as tiles; what the last run has beyond the kernel's row is zero."""
    memory = padded(plan.groups * plan.runs * plan.conv.kernel[0] * SIZE, "int32")
    with tasks(plan.groups * plan.conv.kernel[0]) as task:
        group, row = T.bind(task // plan.conv.kernel[0]), T.bind(task % plan.conv.kernel[0])
        used = plan.conv.kernel[1] * plan.sources // DEPTH
        with T.serial(used) as step:
            place = T.bind(weight_tile(plan, group, step // ROWS, row) + step % ROWS * LANES)
            _pack(weight, plan, (group, row, step), memory, place)
        with T.serial(plan.runs * ROWS - used) as rest:
            last = weight_tile(plan, group, plan.runs - 1, row)
            store(memory, last + (ROWS - 1 - rest) * LANES, zero(LANES, "int32"), LANES)
    return memory


def _pack(weight: Any, plan: TilePlan, at_step: tuple[Any, Any, Any], memory: Any, place: Any) -> None:
    """Four source channels' weights for a group of targets."""
    (group, row, step), (height, width) = at_step, plan.conv.kernel
    column, source = T.bind(step * DEPTH // plan.sources), T.bind(step * DEPTH % plan.sources)
    if not plan.transposed:
        matrix = Matrix(weight, (row * width + column) * plan.sources * plan.targets, plan.targets, 1)
        vectors = [matrix.vector(source + each, group * LANES, LANES) for each in range(DEPTH)]
        store(memory, place, joined(vectors, DEPTH, LANES), LANES)
        return
    mirrored = (height - 1 - row) * width + width - 1 - column
    matrix = Matrix(weight, mirrored * plan.sources * plan.targets, 1, plan.sources)
    with T.serial(LANES) as lane:
        value = neighbours(weight, matrix.place(source, group * LANES + lane), DEPTH, DEPTH)
        store(memory, place + lane, value, 1)


@dataclass(frozen=True)
class Rows:
    """Rows of the source, `pitch` bytes apart: the first pixel that any position sees is at `origin`."""

    buffer: Any
    origin: Any


def source_rows(source: Any, plan: TilePlan, sample: Any, first: Any) -> Rows:
    """What a band sees of a sample, from its row `first` on: where it is, or a copy with zeros around."""
    if plan.is_copied:
        return Rows(_copied(source, plan, sample, first), plan.lead - plan.border)
    return Rows(source, T.bind((sample * plan.source_shape[1] + first) * plan.pitch))


def fetch_ahead(source: Any, plan: TilePlan, place: Any, visit: Any) -> None:
    """Asks for a visit's share of the band that begins at `place`."""
    share = -(-plan.band * plan.conv.stride[0] * plan.line // (plan.visits * BYTES))
    first = T.bind(place + visit * (share * BYTES))
    for line in range(share):
        prefetch(source, first + line * BYTES)


def _copied(source: Any, plan: TilePlan, sample: Any, first: Any) -> Any:
    """Tiles read beyond the last row: what is there meets weights that are zero."""
    _, height, width, channels = plan.source_shape
    size, whole = width * channels, plan.source_rows * plan.pitch
    rows = scratch(plan.lead + whole + BYTES, source.dtype)
    clear(rows, 0, plan.lead)
    clear(rows, plan.lead + whole, BYTES)
    with T.serial(plan.source_rows) as number:
        row = T.bind(first + number - plan.padding[0])
        to = T.bind(plan.lead + number * plan.pitch)
        inside = tirx.all(row >= 0, row < height)
        with when(inside):
            _copy(pointer(source, (sample * height + row) * size), rows, to, size)
        with when(tirx.Not(inside)):
            clear(rows, to, size)
        clear(rows, to + size, plan.pitch - size)
    return rows


def _copy(line: Any, to: Any, origin: Any, size: int) -> None:
    for group in groups(size, BYTES, 1):
        (width,) = group.widths
        with T.serial(group.repeat) as number:
            place = T.bind(group.start + number * width)
            store(to, origin + place, line[at(place, width)], width)


def clear(to: Any, origin: Any, size: int) -> None:
    """Zeros to memory."""
    for group in groups(size, BYTES, 1):
        (width,) = group.widths
        with T.serial(group.repeat) as number:
            store(to, origin + group.start + number * width, zero(width, to.dtype), width)
