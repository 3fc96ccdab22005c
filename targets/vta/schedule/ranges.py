"""Dimensions in parts: ranges, and the products of ranges that tiles are."""

from itertools import pairwise

Range = tuple[int, int]  # where it begins, and its extent
Block = tuple[Range, ...]  # of each dimension


def cut(size: int, most: int) -> list[Range]:
    """Ranges of at most `most`, as even as they can be."""
    count = -(-size // most)
    ends = [size * i // count for i in range(count + 1)]
    return [(a, b - a) for a, b in pairwise(ends)]


def steps(size: int, step: int) -> list[Range]:
    """Ranges of `step`, the last one of what is left."""
    return [(begin, min(step, size - begin)) for begin in range(0, size, step)]


def sizes(extent: int) -> list[int]:
    """The sizes of even parts, the largest first."""
    return sorted({-(-extent // count) for count in range(1, extent + 1)}, reverse=True)


def pieces(block: Block, most: int) -> list[Block]:
    """A block in parts, cut first in its outermost dimension."""
    at = next((i for i, (_, extent) in enumerate(block) if extent > 1), None)
    if at is None or most == 1:
        return [block]
    begin, extent = block[at]
    cuts = cut(extent, -(-extent // most))
    parts = [(*block[:at], (begin + first, size), *block[at + 1 :]) for first, size in cuts]
    return [piece for part in parts for piece in pieces(part, most // len(cuts))]


def reach(outputs: Range, stride: int, taps: list[int]) -> Range:
    """The inputs, in one dimension, that some taps read for a range of outputs."""
    first, extent = outputs
    return first * stride + min(taps), (extent - 1) * stride + max(taps) - min(taps) + 1


def meet(a: Range, b: Range) -> Range:
    """What two ranges share; its extent is not positive if that is nothing."""
    begin = max(a[0], b[0])
    return begin, min(sum(a), sum(b)) - begin
