"""Sums that wait in memory until they are scaled, on their way from tiles to the target."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.emit import least, load, padded, prefetch, store
from e2compile.targets.llvm.nearest import ROUNDING, WIDTH, is_denormal, nearest
from e2compile.targets.llvm.scaling import product, result
from e2compile.targets.llvm.tile_plan import TilePlan
from e2compile.targets.llvm.tiles import LANES, ROWS, SIZE, Tiles


@dataclass(frozen=True)
class Vectors:
    """How a tile's sums, and those of groups abreast, become vectors of so many lanes: `pitch` apart in the
    target, and without gaps in memory."""

    lanes: int
    number: int
    pitch: int


class Sums:
    """The sums of a visit, plane by plane and row by row, each pixel's channels of all groups together."""

    def __init__(self, plan: TilePlan, step: Any, target: Any) -> None:
        self.plan, self.step, self.target = plan, step, target
        self.memory = padded(plan.sums * plan.abreast * SIZE, "int32")

    def take(self, tiles: Tiles, number: int) -> None:
        """Stores the tiles of sums of the `number`-th of the groups."""
        pitch = self.plan.abreast * LANES
        for total in range(self.plan.sums):
            tiles.store(total, self.memory, total * ROWS * pitch + number * LANES, pitch)

    def prefetch(self, place: Any) -> None:
        """Asks for the lines of the target that will be written to, from `place` on.

        Stores leave the CPU in order: sums cannot be read back before what was stored earlier is out.
        """
        if self._vectors.lanes == WIDTH and self.plan.is_small:
            with T.serial(self._number) as number:
                prefetch(self.target, place + self._offset(number), to_write=True)

    def scale_share(self, place: Any, run: Any, seen: int) -> None:
        """The vectors to scale beside a run's products with a row that is seen; the last ones may repeat."""
        share = -(-self._number // self.plan.runs)
        first, end = (share * row // self.plan.seen for row in (seen, seen + 1))
        self._scale(place, [least(run * share + each, self._number - 1) for each in range(first, end)])

    def scale_all(self, place: Any) -> None:
        with T.serial(self._number) as number:
            self._scale(place, [number])

    def rounding(self) -> AbstractContextManager[Any]:
        """Around all that scales."""
        return T.attr(0, "pragma_import_llvm", ROUNDING) if self._is_rounded else nullcontext()

    def _scale(self, place: Any, numbers: Sequence[Any]) -> None:
        """Vectors by their numbers to the target, where the first one is at `place`."""
        if not self._is_rounded:
            self._store(place, numbers, self._result)
            return
        # No sum times a normal number is denormal.
        with T.If(is_denormal(self.step[0])):
            with T.Then():
                self._store(place, numbers, self._result)
            with T.Else():
                self._store(place, numbers, self._rounded)

    def _store(self, place: Any, numbers: Sequence[Any], result: Callable[[list[Any]], Any]) -> None:
        lanes, plane_size = self._vectors.lanes, self.plan.rows * self._row_size
        for number in numbers:
            row, column = number // self._vectors.number, number % self._vectors.number
            first = T.bind(row * self._row_size + column * lanes)
            sums = [load(self.memory, first + plane * plane_size, lanes) for plane in range(self.plan.planes)]
            store(self.target, place + self._offset(number), result(sums), lanes)

    @property
    def _row_size(self) -> int:
        return self.plan.abreast * SIZE

    @property
    def _number(self) -> int:
        """Vectors of a visit."""
        return self.plan.rows * self._vectors.number

    def _offset(self, number: Any) -> Any:
        """Where a vector goes in the target, counted from the first one's place."""
        row, column = number // self._vectors.number, number % self._vectors.number
        return row * self.plan.target_line + column * self._vectors.pitch

    def _result(self, planes: list[Any]) -> Any:
        return result(planes, self.step, self.target.dtype, self._vectors.lanes)

    def _rounded(self, planes: list[Any]) -> Any:
        return nearest(product(planes, self.step, WIDTH))

    @property
    def _is_rounded(self) -> bool:
        """Whether the CPU's instruction makes bfloat16 of what is scaled."""
        is_native = not self.plan.machine.is_emulated
        return is_native and self.target.dtype == "uint16" and self._vectors.lanes == WIDTH

    @cached_property
    def _vectors(self) -> Vectors:
        plan = self.plan
        if plan.abreast > 1:
            return Vectors(plan.abreast * LANES, plan.positions, plan.targets)
        if plan.targets == LANES and plan.positions % 2 == 0:
            return Vectors(2 * LANES, plan.positions // 2, 2 * LANES)
        return Vectors(LANES, plan.positions, plan.targets)
