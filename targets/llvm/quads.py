"""Weights as quads: the four bytes of a lane belong to four neighbouring source channels."""

from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.arithmetic import Dots
from e2compile.targets.llvm.dot import BYTES, quad
from e2compile.targets.llvm.emit import splat, store, typed
from e2compile.targets.llvm.weights import Copy, Matrix


def copy_quads(dots: Dots, sources: int) -> Copy:
    """Copies quads out of a matrix with `sources` source channels; bytes beyond them are zero."""

    def copy(matrix: Matrix, step: Any, target: Any, to: Any, place: Any, width: int) -> None:
        first = T.bind(dots.channel(step, sources))
        # What the last step looks back over counts as zero.
        repeated = T.bind(step * BYTES - first)
        if matrix.source_stride > 1:
            store(to, place, _interleaved(matrix, first, target, sources, repeated, width), width)
            return
        with T.serial(width) as lane:
            value = quad(matrix.buffer, matrix.place(first, target + lane), min(sources, BYTES))
            store(to, place + lane, T.bitwise_and(value, T.shift_left(T.int32(-1), repeated * 8)), 1)

    return copy


def _interleaved(matrix: Matrix, first: Any, target: Any, sources: int, repeated: Any, width: int) -> Any:
    """Four vectors of bytes, one from each source channel, as one of quads."""
    total: Any = None
    for byte in range(min(sources, BYTES)):
        lanes = matrix.vector(first + byte, target, width)
        lanes = T.Cast(typed("int32", width), T.reinterpret(typed("uint8", width), lanes))
        lanes = T.shift_left(lanes, splat(T.int32(8 * byte), width))
        if sources % BYTES and sources > BYTES:
            lanes = T.bitwise_and(lanes, splat(tirx.Select(repeated <= byte, T.int32(-1), T.int32(0)), width))
        total = lanes if total is None else T.bitwise_or(total, lanes)
    return total
