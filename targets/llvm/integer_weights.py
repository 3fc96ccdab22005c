"""Weights of integer gathers: the integers of a lane belong to neighbouring source channels."""

from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.arithmetic import Dots
from e2compile.targets.llvm.dot import LANE_BITS, joined, neighbours
from e2compile.targets.llvm.emit import splat, store
from e2compile.targets.llvm.weights import Copy, Matrix


def copy_joined(dots: Dots, sources: int) -> Copy:
    """Copies steps of sums out of a matrix with `sources` source channels; what is beyond them is zero."""
    present = min(sources, dots.depth)
    bits = LANE_BITS // dots.depth

    def copy(matrix: Matrix, step: Any, target: Any, to: Any, place: Any, width: int) -> None:
        first = T.bind(dots.channel(step, sources))
        # What the last step looks back over counts as zero.
        repeated = T.bind(step * dots.depth - first)
        if matrix.source_stride > 1:
            vectors = [matrix.vector(first + each, target, width) for each in range(present)]
            if sources % dots.depth and sources > dots.depth:
                vectors = [_unless(repeated > each, vector, width) for each, vector in enumerate(vectors)]
            store(to, place, joined(vectors, dots.depth, width), width)
            return
        with T.serial(width) as lane:
            value = neighbours(matrix.buffer, matrix.place(first, target + lane), present, dots.depth)
            store(to, place + lane, T.bitwise_and(value, T.shift_left(T.int32(-1), repeated * bits)), 1)

    return copy


def _unless(condition: Any, vector: Any, width: int) -> Any:
    kept = tirx.Select(condition, T.int8(0), T.int8(-1))
    return T.bitwise_and(vector, splat(kept, width))
