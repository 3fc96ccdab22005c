"""Ahead: cache lines of a loop's large buffers are asked for before they are read and written.

What the machine fetches by itself does not reach far enough where a few operations are done on each element:
memory and arithmetic then take turns.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from e2compile.lower.access import is_affine, probe, strides
from e2compile.lower.loop import Load
from e2compile.targets.llvm.emit import prefetch
from e2compile.targets.llvm.evaluate import Body

_BYTES = 2048
# A buffer that is smaller is likely to lie in a cache.
_LEAST = 1 << 20


def ask(body: Body, point: Sequence[Any]) -> None:
    """Asks for what lies a little behind what the loop reads and writes at a point."""
    for buffer, (offset, steps), to_write in _accesses(body):
        size, item = body.loop.buffers[buffer].physical, np.dtype(body.loop.buffers[buffer].dtype).itemsize
        if prod(size) * item >= _LEAST:
            place = body.linear(offset, steps, point) + _BYTES // item
            prefetch(body.views[buffer], place, to_write)


def _accesses(body: Body) -> Iterator[tuple[int, tuple[int, Sequence[int]], bool]]:
    """Each buffer with its offset and strides, and whether it is written."""
    loop = body.loop
    found = {}
    for load in loop.instructions:
        if isinstance(load, Load) and is_affine(load):
            found[load.buffer, strides(loop, load)] = False
    for _, buffer in loop.stores:
        found[buffer, probe(loop.buffers[buffer].address, len(loop.shape))] = True
    for (buffer, access), to_write in found.items():
        yield buffer, access, to_write
