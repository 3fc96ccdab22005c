"""What all schedules are: tiles in slots of the scratchpads, each in pieces that have accumulators."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, Protocol

from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Memory
from e2compile.targets.vta.schedule import pipeline
from e2compile.targets.vta.schedule.emit import Box, Emitter, Scratchpad
from e2compile.targets.vta.schedule.pipeline import Part, Piece
from e2compile.targets.vta.schedule.ranges import Block, pieces
from e2compile.targets.vta.schedule.work import Work


class Tile(Protocol):
    """How much is worked on at once: the pieces that it leaves in, slots of scratchpads, their elements."""

    @property
    def pieces(self) -> int: ...

    @property
    def inp_slots(self) -> int: ...

    @property
    def wgt_slots(self) -> int: ...

    @property
    def acc_slots(self) -> int: ...

    @property
    def wgt_elements(self) -> int: ...

    @property
    def piece_elements(self) -> int: ...

    def inp_elements(self, work: Any) -> int: ...

    def room(self, sums: int) -> int:
        """Accumulators that a piece of so many sums takes, idle ones included."""


class Schedule(ABC):
    """Tiles of some work, and the emitter that takes their instructions."""

    work: Work
    tile: Tile

    def __init__(self, work: Work, config: Config, tile: Tile) -> None:
        self.work = work
        self.tile = tile
        self.emitter = Emitter(config)
        self.inps = Scratchpad(self.emitter, Memory.INP, tile.inp_elements(work), tile.inp_slots)
        self.wgts = Scratchpad(self.emitter, Memory.WGT, tile.wgt_elements, tile.wgt_slots)
        self.accs = self.emitter.slots(Memory.ACC, tile.piece_elements, tile.acc_slots * tile.pieces)

    @property
    def has_halves(self) -> bool:
        """Whether the accumulators of two tiles in turn are distinct."""
        return self.tile.acc_slots > 1

    def tiles(self) -> Iterator[pipeline.Tile]:
        for i, block in enumerate(self._blocks()):
            first = i % self.tile.acc_slots * self.tile.pieces
            made = []
            for part, slot in zip(pieces(block, self.tile.pieces), self.accs[first:], strict=False):
                box = Box.of(self.work.out_shape, (0, 1), *part)
                size = prod(box.extent)
                made.append((part, Piece(box, size, self.tile.room(size) - size, slot)))
            yield pipeline.Tile([piece for _, piece in made], list(self._parts(block, made)))

    @abstractmethod
    def _blocks(self) -> Iterator[Block]:
        """The outputs of each tile."""

    @abstractmethod
    def _parts(self, block: Block, made: Sequence[tuple[Block, Piece]]) -> Iterable[Part]:
        """The products of a tile, given its pieces and which outputs each has."""
