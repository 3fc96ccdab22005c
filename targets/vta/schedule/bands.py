"""The rows of an image in bands, each of which is loaded as one."""

from dataclasses import dataclass

from e2compile.targets.vta.schedule import estimate
from e2compile.targets.vta.schedule.ranges import Range, reach
from e2compile.targets.vta.schedule.work import Accumulation


@dataclass(frozen=True)
class Bands:
    """What some taps read for chunks of `height` output rows: a band for each.

    A band holds all rows that its chunk reads, or only the new ones, if a chunk `keeps` the bands before.
    """

    work: Accumulation
    taps: Range
    height: int
    keeps: bool

    @property
    def size(self) -> int:
        """Rows of a band."""
        return self.height * self.work.stride[0] if self.keeps else self._read

    @property
    def used(self) -> int:
        """Bands that a chunk reads."""
        return -(-self._read // self.size)

    def rows(self, band: int) -> Range:
        """Of a band; it is moved up where rows are missing at the bottom, so that all are of one size."""
        first = self._top + band * self.height * self.work.stride[0]
        return min(first, self.work.in_height - self.size), self.size

    def columns(self, outputs: Range) -> Range:
        """The input columns for some output columns, and what fills a DMA row."""
        taps = self.work.taps[self.taps[0] : sum(self.taps)]
        wide = reach(outputs, self.work.stride[1], [right for _, right in taps])
        is_nearly_all = outputs[1] == self.work.out_width and self.work.in_width - wide[1] < estimate.ROW
        return (0, self.work.in_width) if is_nearly_all else wide

    def of(self, taps: Range, y: int) -> list[int]:
        """The band in which the input row lies that each of some of the taps reads for an output row."""
        if not self.keeps:
            return [y // self.height] * taps[1]
        first = y * self.work.stride[0] - self._top
        return [(first + down) // self.size for down, _ in self.work.taps[taps[0] : sum(taps)]]

    @property
    def _downs(self) -> list[int]:
        return [down for down, _ in self.work.taps[self.taps[0] : sum(self.taps)]]

    @property
    def _top(self) -> int:
        return min(self._downs)

    @property
    def _read(self) -> int:
        """Input rows that a chunk reads."""
        return reach((0, self.height), self.work.stride[0], self._downs)[1]
