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
    """Outputs, `box` in their first byte plane, and the accumulators that hold their sums."""

    box: Box
    size: int
    slot: Slot


@dataclass(frozen=True)
class Tile:
    """Pieces that share operands. Each of `parts` emits some of their products."""

    pieces: Sequence[Piece]
    parts: Sequence[Callable[[], None]]


def run(emitter: Emitter, tiles: Iterable[Tile], epilogue: Epilogue, has_halves: bool) -> None:
    """Emit tiles; `has_halves` says whether the accumulators of two tiles in turn are distinct."""
    waiting: list[Callable[[], None]] = []
    for tile in tiles:
        gap = len(tile.parts) / (len(waiting) + 1)
        due = [round((i + 1) * gap) for i in range(len(waiting))]
        for i in range(len(tile.parts) + 1):
            _run(emit for at, emit in zip(due, waiting, strict=True) if at == i)
            _run(tile.parts[i : i + 1])
        waiting = _bytes(emitter, tile.pieces, epilogue)
        if not has_halves:
            _run(waiting)
            waiting = []
    _run(waiting)


def _run(emits: Iterable[Callable[[], None]]) -> None:
    for emit in emits:
        emit()


def _bytes(emitter: Emitter, pieces: Sequence[Piece], epilogue: Epilogue) -> list[Callable[[], None]]:
    """Emit what stores the first plane; what makes each of the others."""
    for piece in pieces:
        for op, immediate in epilogue:
            emitter.apply(op, immediate, piece.slot, piece.size)
        emitter.move(Memory.OUT, piece.box, piece.slot)

    def shifted(plane: int) -> Callable[[], None]:
        def emit() -> None:
            for piece in pieces:
                emitter.apply(AluOp.SHR, _BYTE, piece.slot, piece.size)
                box = replace(piece.box, begin=(plane, *piece.box.begin[1:]))
                emitter.move(Memory.OUT, box, piece.slot)

        return emit

    return [shifted(plane) for plane in range(1, pieces[0].box.shape[0])]
