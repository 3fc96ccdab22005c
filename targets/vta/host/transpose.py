"""Squares of bytes transposed in vector registers."""

from collections.abc import Sequence
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx


def transposed(rows: Sequence[Any]) -> list[Any]:
    """The columns of as many vectors as each has lanes, a power of two.

    Each round interleaves the first half of the vectors with the second: after as many rounds as their number
    has bits, a lane's number and its vector's have changed places.
    """
    size = len(rows)
    half = size // 2
    lower = [lane // 2 + lane % 2 * size for lane in range(size)]
    found = [T.bind(row) for row in rows]
    for _ in range(size.bit_length() - 1):
        pairs = [list(pair) for pair in zip(found[:half], found[half:], strict=True)]
        orders = [[first + lane for lane in lower] for first in (0, half)]
        found = [T.bind(tirx.Shuffle(pair, order)) for pair in pairs for order in orders]
    return found
