"""Sums that wait in memory until they are scaled, on their way from tiles to the target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.emit import load, padded, prefetch, store
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

    def prefetch(self, places: Sequence[Any]) -> None:
        """Asks for the lines of the target that `scale` will write to.

        Sums leave the CPU's store buffer in order: they cannot be read before what was stored earlier is out.
        """
        plan, vectors = self.plan, self._vectors
        if vectors.lanes < 2 * LANES or not plan.is_small:
            return
        for place in places:
            with T.serial(vectors.number) as number:
                prefetch(self.target, place + number * vectors.pitch, to_write=True)

    def scale(self, places: Sequence[Any]) -> None:
        """Sums to the target, each row's to its place there."""
        if not self._is_rounded:
            self._scale(places, self._result)
            return
        # No sum times a normal number is denormal.
        with T.attr(0, "pragma_import_llvm", ROUNDING), T.If(is_denormal(self.step[0])):
            with T.Then():
                self._scale(places, self._result)
            with T.Else():
                self._scale(places, self._rounded)

    def _scale(self, places: Sequence[Any], result: Callable[[list[Any]], Any]) -> None:
        vectors, size = self._vectors, self.plan.abreast * SIZE
        for row, place in enumerate(places):
            with T.serial(vectors.number) as number:
                sums = [
                    load(self.memory, total * size + number * vectors.lanes, vectors.lanes)
                    for total in range(row, self.plan.sums, self.plan.rows)
                ]
                store(self.target, place + number * vectors.pitch, result(sums), vectors.lanes)

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
