"""Tiles in turn: while one's products are made, the one before leaves as byte planes.

A plane is stored before the accumulators shift by 8 in place for the next, so the shifts of a tile are put
between parts of the next tile's products, which give the stores time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from e2compile.targets.vta.emit import Box, Emitter, Slot
from e2compile.targets.vta.isa import AluOp, Memory

Epilogue = tuple[tuple[AluOp, int], ...]  # operations, with immediates, on each sum before its bytes leave
_BYTE = 8


@dataclass(frozen=True)
class Piece:
    """Outputs, `box` in their first byte plane, and their accumulators, `size` of them and idle ones."""

    box: Box
    size: int
    idle: int
    slot: Slot


@dataclass(frozen=True)
class Tile:
    """Pieces that share operands. Each of `parts` emits some of their products, pass by pass."""

    pieces: Sequence[Piece]
    parts: Sequence[Callable[[], None]]
    passes: int
    planes: int


def run(emitter: Emitter, tiles: Iterable[Tile], epilogue: Epilogue, has_halves: bool) -> None:
    """Emit tiles; `has_halves` says whether the accumulators of two tiles in turn are distinct."""
    waiting: list[Callable[[], None]] = []
    for tile in tiles:
        gap = len(tile.parts) / (len(waiting) + 1)
        due = [round((i + 1) * gap) for i in range(len(waiting))]
        for i in range(len(tile.parts) + 1):
            _run(emit for at, emit in zip(due, waiting, strict=True) if at == i)
            _run(tile.parts[i : i + 1])
        waiting = _bytes(emitter, tile, epilogue)
        if not has_halves:
            _run(waiting)
            waiting = []
    _run(waiting)


def _run(emits: Iterable[Callable[[], None]]) -> None:
    for emit in emits:
        emit()


def next_pass(emitter: Emitter, piece: Piece, number: int) -> None:
    """Make a piece ready for a pass of products, from 0: the planes below leave before."""
    if number == 0:
        emitter.reset(piece.slot, piece.size + piece.idle)
    else:
        _store(emitter, piece, number - 1)
        emitter.apply(AluOp.SHR, _BYTE, piece.slot, piece.size)


def _store(emitter: Emitter, piece: Piece, plane: int) -> None:
    box = replace(piece.box, begin=(plane, *piece.box.begin[1:]))
    emitter.move(Memory.OUT, box, piece.slot)


def _bytes(emitter: Emitter, tile: Tile, epilogue: Epilogue) -> list[Callable[[], None]]:
    """Emit what stores the plane that the last pass ends in; what makes each of those above."""
    for piece in tile.pieces:
        for op, immediate in epilogue:
            emitter.apply(op, immediate, piece.slot, piece.size)
        _store(emitter, piece, tile.passes - 1)

    def shifted(plane: int) -> Callable[[], None]:
        def emit() -> None:
            for piece in tile.pieces:
                emitter.apply(AluOp.SHR, _BYTE, piece.slot, piece.size)
                _store(emitter, piece, plane)

        return emit

    return [shifted(plane) for plane in range(tile.passes, tile.planes)]
