"""Tiles in turn: while one's products are made, the one before leaves as byte planes.

A plane is stored before the accumulators shift by 8 in place for the next, so the shifts of a tile are put
between parts of the next tile's products, which give the stores time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Emits some products of a piece, all of one pass. Passes follow one another."""

    piece: Piece
    number: int
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
        for i, emit in enumerate(_marked(emitter, tile)):
            _run(shift for at, shift in due if at == i)
            emit()
        _run(shift for at, shift in due if at == len(tile.parts))
        waiting = _bytes(emitter, tile, epilogue)
        if not has_halves:
            _run(waiting)
            waiting = []
    _run(waiting)


def _run(emits: Iterable[Callable[[], None]]) -> None:
    for emit in emits:
        emit()


def _marked(emitter: Emitter, tile: Tile) -> Iterator[Callable[[], None]]:
    """What emits each part, with what comes before and after a pass of a piece.

    A plane leaves between two passes, as the next one cannot change it.
    """
    first, last = dict[tuple[int, int], int](), dict[tuple[int, int], int]()
    keys = [(tile.pieces.index(part.piece), part.number) for part in tile.parts]
    for i, key in enumerate(keys):
        first.setdefault(key, i)
        last[key] = i

    def marked(i: int) -> None:
        part, key = tile.parts[i], keys[i]
        piece = part.piece
        if first[key] == i and part.number == 0:
            emitter.reset(piece.slot, piece.size + piece.idle)
        elif first[key] == i:
            emitter.apply(AluOp.SHR, _BYTE, piece.slot, piece.size)
        part.emit()
        if last[key] == i and part.number < tile.parts[-1].number:
            _store(emitter, piece, part.number)

    return (partial(marked, i) for i in range(len(tile.parts)))


def _store(emitter: Emitter, piece: Piece, plane: int) -> None:
    box = replace(piece.box, begin=(plane, *piece.box.begin[1:]))
    emitter.move(Memory.OUT, box, piece.slot)


def _bytes(emitter: Emitter, tile: Tile, epilogue: Epilogue) -> list[Callable[[], None]]:
    """Emit what stores the plane that the last pass ends in; what makes each of those above."""
    first, planes = tile.parts[-1].number, tile.pieces[0].box.shape[0]
    assert first < planes, "each pass ends in a plane of its own"
    for piece in tile.pieces:
        for op, immediate in epilogue:
            emitter.apply(op, immediate, piece.slot, piece.size)
        _store(emitter, piece, first)

    def shifted(plane: int) -> None:
        for piece in tile.pieces:
            emitter.apply(AluOp.SHR, _BYTE, piece.slot, piece.size)
            _store(emitter, piece, plane)

    return [partial(shifted, plane) for plane in range(first + 1, planes)]
