"""The register tile of a gather: samples x positions x vectors of channels, summed in registers."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.axis import Lattice, Tile
from e2compile.targets.llvm.blocks import Group
from e2compile.targets.llvm.emit import (
    fetch,
    keep,
    load,
    pointer,
    registers,
    splat,
    store,
    when,
    zero,
)
from e2compile.targets.llvm.gather_plan import Memory, Plan
from e2compile.targets.llvm.offsets import Offsets
from e2compile.targets.llvm.scaling import result
from e2compile.targets.llvm.source_rows import Line, SourceRows, source_row
from e2compile.targets.llvm.tiling import fits_reuse
from e2compile.targets.llvm.weights import Weights


@dataclass(frozen=True)
class Site:
    """Where a tile is: its samples, target row, target channel, and the part of the channels it is in."""

    rows: SourceRows
    row: Any
    channel: Any
    part: Any


@dataclass(frozen=True)
class GatherTile:
    """One register tile at one site, `run` saying which of its repeats; `emit` writes its code."""

    plan: Plan
    memory: Memory
    weights: Weights
    offsets: Offsets | None
    steps: Any
    group: Group
    lattice: Lattice
    tile: Tile
    run: Any
    site: Site

    def emit(self) -> None:
        cells = range(len(self.site.rows.numbers) * self.tile.size)
        widths = [width for _, _, width in self._vectors()]
        sums = [registers(widths, self.plan.arithmetic.dtype) for _ in cells]
        for cell in cells:
            self._begin(sums[cell])
        with T.serial(self.plan.rows.kernel) as tap_row:
            row, inside = source_row(self.plan, self.site.row, tap_row)
            with when(inside):
                self._sum_row(sums, tap_row, T.bind(row))
        for sample, position in product(range(len(self._places)), range(self.tile.size)):
            numbers = self.site.rows.numbers[sample :: len(self._places)]
            self._end([sums[number * self.tile.size + position] for number in numbers], sample, position)

    @property
    def _places(self) -> list[Any]:
        return self.site.rows.places

    def _vectors(self) -> Iterator[tuple[int, int, int]]:
        """Each vector of the group: its number, its first channel in the group, its width."""
        for number, (start, width) in enumerate(zip(self.group.starts, self.group.widths, strict=True)):
            yield number, start, self.plan.arithmetic.width(width)

    def _begin(self, sums: list[Any]) -> None:
        start = self.memory.start
        for number, first, width in self._vectors():
            dtype = self.plan.arithmetic.dtype
            value = zero(width, dtype) if start is None else load(start, self.site.channel + first, width)
            keep(sums[number], value, width)

    def _end(self, planes: list[list[Any]], sample: int, position: int) -> None:
        columns = self.plan.columns
        column = self.lattice.start + self.lattice.step * (self._first_position() + position)
        line = self._places[sample] * self.plan.rows.target + self.site.row
        index = (line * columns.target + column) * self.plan.target_pitch + self.site.channel
        for (number, first, _), width in zip(self._vectors(), self.group.widths, strict=True):
            values = [fetch(sums[number], width) for sums in planes]
            if self.memory.step is None:
                store(self.memory.target, index + first, values[0], width)
            else:
                value = result(values, self.memory.step, self.memory.target.dtype, width)
                store(self.memory.target, index + first, value, width)

    def _first_position(self) -> Any:
        return self.tile.first + self.run * self.tile.size

    def _sum_row(self, sums: list[list[Any]], tap_row: Any, row: Any) -> None:
        """Adds what one row of the kernel contributes, channel by channel."""
        if self.offsets is not None:
            self._add_offsets(self.offsets, sums, tap_row)
        strides = self.weights.strides(self.group.step)
        origin = T.bind(self.weights.origin(self.site.channel) + tap_row * strides.row)
        column = self.lattice.stride * self._first_position()
        first = self.site.channel if self.plan.depthwise else self.site.part * self.plan.sources
        rows = self.site.rows
        bases = [T.bind(rows.element(number, tap_row, row, column) + first) for number in rows.numbers]
        if self.plan.depthwise:
            lines = [rows.line(number, base) for number, base in enumerate(bases)]
            self._sum_own_channels(sums, pointer(self.weights.buffer, origin), lines)
            return
        with T.serial(self.steps) as step:
            channel = T.bind(self.plan.arithmetic.channel(step, self.plan.sources))
            lines = [rows.line(number, base + channel) for number, base in enumerate(bases)]
            self._sum_channel(sums, pointer(self.weights.buffer, origin + step * strides.channel), lines)

    def _add_offsets(self, offsets: Offsets, sums: list[list[Any]], tap_row: Any) -> None:
        """Takes back what a row of the kernel adds because its sources are read as more than they are."""
        for position in range(self.tile.size):
            place = offsets.place(tap_row, self.lattice.seen(self.tile, position), self.site.channel)
            for number, first, width in self._vectors():
                value = load(offsets.buffer, place + first, width)
                for cell in range(position, len(sums), self.tile.size):
                    keep(sums[cell][number], fetch(sums[cell][number], width) + value, width)

    def _weight(self, weights: Any, tap: int, first: int, width: int) -> Any:
        column = self.weights.strides(self.group.step).column
        place = self.lattice.taps[tap].kernel * column + first
        return self.plan.arithmetic.vector(weights, place, width)

    def _sum_channel(self, sums: list[list[Any]], matrix: Any, lines: list[Line]) -> None:
        """One source channel, read lane by lane the same, times vectors of weights."""
        for taps in self._tap_groups(len(sums)):
            weights = {
                (tap, number): self._weight(matrix, tap, first, width)
                for tap, (number, first, width) in product(taps, self._vectors())
            }
            for (row, line), (offset, pairs) in product(enumerate(lines), self.tile.reads):
                used = [(position, tap) for position, tap in pairs if tap in taps]
                if not used:
                    continue
                place = line.origin + offset * self.plan.source_pitch
                value = self.plan.arithmetic.source(line.buffer, place, self.plan.sources)
                wide = {width: T.bind(splat(value, width)) for _, _, width in self._vectors()}
                for (position, tap), (number, _, width) in product(used, self._vectors()):
                    target = sums[row * self.tile.size + position][number]
                    self.plan.arithmetic.add(target, wide[width], weights[tap, number], width)

    def _tap_groups(self, cells: int) -> list[range]:
        """All taps at once, so that each source is read once, if registers suffice; else tap by tap."""
        vectors, taps = len(self.group.widths), len(self.lattice.taps)
        if fits_reuse(cells * vectors, vectors, taps, self.plan.machine):
            return [range(taps)]
        return [range(tap, tap + 1) for tap in range(taps)]

    def _sum_own_channels(self, sums: list[list[Any]], matrix: Any, lines: list[Line]) -> None:
        """Vectors of source channels, each times its own weight."""
        for number, first, width in self._vectors():
            weights = [self._weight(matrix, tap, first, width) for tap in range(len(self.lattice.taps))]
            for (row, line), (offset, pairs) in product(enumerate(lines), self.tile.reads):
                place = line.origin + offset * self.plan.source_pitch + first
                value = self.plan.arithmetic.vector(line.buffer, place, width)
                for position, tap in pairs:
                    target = sums[row * self.tile.size + position][number]
                    self.plan.arithmetic.add(target, value, weights[tap], width)
