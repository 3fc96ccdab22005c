"""A run of channels cut into vectors, and the vectors into groups that share a register tile."""

from dataclasses import dataclass
from itertools import accumulate, groupby


@dataclass(frozen=True)
class Group:
    """`repeat` groups of vectors of the given widths, the first beginning at channel `start`."""

    start: int
    widths: tuple[int, ...]
    repeat: int

    @property
    def step(self) -> int:
        return sum(self.widths)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each vector begins within the group."""
        return (0, *accumulate(self.widths[:-1]))


def vectors(channels: int, lanes: int) -> list[int]:
    """Widths, each a power of two, that cover the channels exactly: no channel is computed twice."""
    rest = channels % lanes
    tail = [1 << bit for bit in reversed(range(lanes.bit_length())) if rest >> bit & 1]
    return [lanes] * (channels // lanes) + tail


def groups(channels: int, lanes: int, size: int) -> list[Group]:
    """The vectors of the channels, `size` to a group, with groups of equal widths together."""
    widths = vectors(channels, lanes)
    cut = [tuple(widths[first : first + size]) for first in range(0, len(widths), size)]
    result, start = [], 0
    for shape, same in groupby(cut):
        result.append(Group(start, shape, len(list(same))))
        start += result[-1].step * result[-1].repeat
    return result


def group_sizes(channels: int, lanes: int, most: int) -> range:
    """The sizes of groups up to `most`, each of which cuts the channels differently, worth considering."""
    return range(1, min(most, -(-channels // lanes) + 1, len(vectors(channels, lanes))) + 1)


@dataclass(frozen=True)
class Cut:
    """`repeat` pieces of `size` channels, the first beginning at channel `start`."""

    start: int
    size: int
    repeat: int


def cuts(channels: int, most: int) -> list[Cut]:
    """Channels in pieces of at most `most`, and what is left."""
    whole, rest = divmod(channels, most)
    pieces = [Cut(0, most, whole), Cut(channels - rest, rest, 1)]
    return [piece for piece in pieces if piece.size and piece.repeat]
