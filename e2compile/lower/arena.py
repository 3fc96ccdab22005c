"""Arena: where in one block of memory each temporary of a function lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from e2compile.lower.liveness import Block

# What TVM's tensors are aligned to, in bytes.
ALIGNMENT = 64


@dataclass(frozen=True)
class Arena:
    """`bytes` of memory, and by (kernel, result) the offset of each temporary in it."""

    bytes: int
    offsets: dict[tuple[int, int], int]


def arena(blocks: Sequence[Block]) -> Arena:
    """Places temporaries so that none shares bytes with another that lives at the same time.

    The largest first, each at the lowest offset where it fits: "greedy by size" of Pisarchyk and Lee,
    Efficient Memory Management for Deep Neural Net Inference, 2020.
    """
    order = sorted(range(len(blocks)), key=lambda i: (-blocks[i].bytes, blocks[i].first, blocks[i].result))
    # of those that are placed already, in the order of placing
    first, last, start, end = (np.zeros(len(blocks), np.int64) for _ in range(4))
    for placed, number in enumerate(order):
        block = blocks[number]
        size = -(-block.bytes // ALIGNMENT) * ALIGNMENT
        meets = (first[:placed] <= block.last) & (last[:placed] >= block.first)
        start[placed] = _lowest(start[:placed][meets], end[:placed][meets], size)
        end[placed] = start[placed] + size
        first[placed], last[placed] = block.first, block.last
    offsets = {
        (blocks[i].first, blocks[i].result): int(offset) for i, offset in zip(order, start, strict=True)
    }
    return Arena(int(end.max(initial=0)), offsets)


def _lowest(starts: np.ndarray, ends: np.ndarray, size: int) -> int:
    """The lowest offset with `size` bytes free beside the taken ranges."""
    by_start = np.argsort(starts, kind="stable")
    free_from = np.concatenate([[0], np.maximum.accumulate(ends[by_start])])
    fits = np.append(starts[by_start] - free_from[:-1] >= size, True)
    return int(free_from[np.argmax(fits)])
