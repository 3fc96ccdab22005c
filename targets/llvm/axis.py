"""One spatial axis of a convolution: which source positions a target position reads, tap by tap."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Tap:
    """Kernel position `kernel` reads source position `stride * t + offset` of a lattice's target `t`."""

    kernel: int
    offset: int


@dataclass(frozen=True)
class Tile:
    """`repeat` runs of `size` lattice positions from `first` on, all reading alike.

    `reads` says, for each source position relative to a run's own origin, which (position in the run,
    index of the tap) pairs use it; reads outside the source are left out.
    """

    first: int
    size: int
    repeat: int
    reads: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

    @property
    def uses(self) -> int:
        """Products that one run adds up, per channel."""
        return sum(len(pairs) for _, pairs in self.reads)


@dataclass(frozen=True)
class Lattice:
    """Target positions start + step * t, t < count, that all see the same taps."""

    start: int
    step: int
    count: int
    stride: int
    source: int
    taps: tuple[Tap, ...]

    def tiles(self, size: int) -> list[Tile]:
        """The lattice in runs of `size` positions, equal ones together, so that no run tests for borders."""
        runs = [(first, *self._run(first, size)) for first in range(0, self.count, size)]
        tiles = []
        for (length, reads), same in groupby(runs, key=lambda run: run[1:]):
            members = list(same)
            tiles.append(Tile(members[0][0], length, len(members), reads))
        return tiles

    def seen(self, tile: Tile, position: int) -> tuple[int, ...]:
        """The kernel positions that a position of a tile's runs sees."""
        pairs = [pair for _, pairs in tile.reads for pair in pairs]
        return tuple(sorted(self.taps[tap].kernel for at, tap in pairs if at == position))

    def _run(self, first: int, size: int) -> tuple[int, tuple[tuple[int, tuple[tuple[int, int], ...]], ...]]:
        length = min(size, self.count - first)
        reads: dict[int, list[tuple[int, int]]] = {}
        for position in range(length):
            for index, tap in enumerate(self.taps):
                relative = self.stride * position + tap.offset
                if 0 <= self.stride * first + relative < self.source:
                    reads.setdefault(relative, []).append((position, index))
        return length, tuple((at, tuple(pairs)) for at, pairs in sorted(reads.items()))


@dataclass(frozen=True)
class Axis:
    """Target position p and tap k read source (scale * p + spread * k + shift) / divisor, if that is whole.

    A forward pass divides by 1; an input gradient divides by the stride.
    """

    source: int
    target: int
    kernel: int
    scale: int
    spread: int
    shift: int
    divisor: int

    def lattices(self) -> Iterator[Lattice]:
        """The targets by their remainder: each class has its own taps, and none multiplies a zero."""
        for start in range(min(self.divisor, self.target)):
            count = -(-(self.target - start) // self.divisor)
            yield Lattice(start, self.divisor, count, self.scale, self.source, tuple(self._taps(start)))

    def _taps(self, start: int) -> Iterator[Tap]:
        for kernel in range(self.kernel):
            whole, rest = divmod(self.scale * start + self.spread * kernel + self.shift, self.divisor)
            if rest == 0:
                yield Tap(kernel, whole)


def forward_axis(source: int, target: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """Output positions reading the input."""
    return Axis(source, target, kernel, stride, dilation, -padding, 1)


def gradient_axis(source: int, target: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """Input positions reading the gradient of the output; source is the output's extent."""
    return Axis(source, target, kernel, 1, -dilation, padding, stride)
