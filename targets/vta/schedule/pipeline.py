"""Tiles in turn: while one's products are made, the one before leaves as byte planes.

A plane is stored before the accumulators shift by 8 in place for the next, so the shifts of a tile are put
between parts of the next tile's products, which give the stores time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from e2compile.targets.vta.isa.instructions import AluOp, Memory
from e2compile.targets.vta.schedule.emit import Box, Emitter, Slot

Epilogue = tuple[tuple[AluOp, int], ...]  # operations, with immediates, on each sum after its last product
_BYTE = 8


@dataclass(frozen=True)
class Piece:
    """Outputs, `box` in their first byte plane, and their accumulators, `size` of them and idle ones."""

    box: Box
    size: int
    idle: int
    slot: Slot


@dataclass(frozen=True)
class Part:
    """Emits some products of a piece."""

    piece: Piece
    emit: Callable[[], None]


@dataclass(frozen=True)
class Tile:
    """Pieces that share operands, and all parts of their products."""

    pieces: Sequence[Piece]
    parts: Sequence[Part]


def run(emitter: Emitter, tiles: Iterable[Tile], epilogue: Epilogue, has_halves: bool) -> None:
    """Emit tiles; `has_halves` says whether the accumulators of two tiles in turn are distinct."""
    waiting: list[Callable[[], None]] = []
    for tile in tiles:
        gap = len(tile.parts) / (len(waiting) + 1)
        due = [(round((i + 1) * gap), emit) for i, emit in enumerate(waiting)]
        begun: list[Piece] = []
        for i, part in enumerate(tile.parts):
            _run(shift for at, shift in due if at == i)
            if part.piece not in begun:
                begun.append(part.piece)
                emitter.reset(part.piece.slot, part.piece.size + part.piece.idle)
            part.emit()
        _run(shift for at, shift in due if at == len(tile.parts))
        waiting = _bytes(emitter, tile, epilogue)
        if not has_halves:
            _run(waiting)
            waiting = []
    _run(waiting)


def _run(emits: Iterable[Callable[[], None]]) -> None:
    for emit in emits:
        emit()


def _store(emitter: Emitter, piece: Piece, plane: int) -> None:
    box = replace(piece.box, begin=(plane, *piece.box.begin[1:]))
    emitter.move(Memory.OUT, box, piece.slot)


def _bytes(emitter: Emitter, tile: Tile, epilogue: Epilogue) -> list[Callable[[], None]]:
    """Emit what stores the first plane; what makes each of those above."""
    for piece in tile.pieces:
        for op, immediate in epilogue:
            emitter.apply(op, immediate, piece.slot, piece.size)
        _store(emitter, piece, 0)

    def shifted(plane: int) -> None:
        for piece in tile.pieces:
            emitter.apply(AluOp.SHR, _BYTE, piece.slot, piece.size)
            _store(emitter, piece, plane)

    return [partial(shifted, plane) for plane in range(1, tile.pieces[0].box.shape[0])]
