"""An integer gather by tiles: which shapes it serves, and how it is cut."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.errors import CompileError
from e2compile.lower.workload import Convolution
from e2compile.ops import MOST_TERMS
from e2compile.targets.llvm.emit import least
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tiles import BYTES, DEPTH, LANES, NUMBER, ROWS, SIZE

# Each row of the kernel has a register of its own, and there must be some left for sums.
_MOST_KERNEL_ROWS = 3
# With fewer positions to a tile it waits for weights.
_LEAST_WIDTH = 4
# Weights stay in the second-level cache.
_MOST_WEIGHTS = 1 << 20
# Few enough of them stay in the first-level cache beside a task's pixels.
_FEW_WEIGHTS = 1 << 14
# A task copies about so many bytes of its source: they stay in the first-level cache.
_BAND_BYTES = 1 << 15


@dataclass(frozen=True)
class TilePlan:
    """A convolution, or its input gradient if `transposed`, of `planes` sources with one weight.

    An input gradient has stride 1. A tile of the source is `positions` pixels of a row, a stride apart, by 64
    bytes of what the kernel's row sees from each on; a tile of the target is as many pixels by 16 channels.
    """

    conv: Convolution
    transposed: bool
    machine: Machine
    planes: int = 1

    @property
    def sources(self) -> int:
        """Channels of the source."""
        return self.conv.out_channels if self.transposed else self.conv.in_channels

    @property
    def targets(self) -> int:
        return self.conv.in_channels if self.transposed else self.conv.out_channels

    @property
    def source_shape(self) -> tuple[int, int, int, int]:
        return self.conv.y_shape if self.transposed else self.conv.x_shape

    @property
    def target_shape(self) -> tuple[int, int, int, int]:
        return self.conv.x_shape if self.transposed else self.conv.y_shape

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of zeros before the source, and after it."""
        (height, width), (rows, columns) = self.conv.kernel, self.conv.padding
        return (height - 1 - rows, width - 1 - columns) if self.transposed else (rows, columns)

    @property
    def border(self) -> int:
        """Bytes of zeros that are seen beside a row of the source."""
        return self.padding[1] * self.sources

    @property
    def pitch(self) -> int:
        """Bytes from a row of the source to the next: a border between them, in whole lines, if copied."""
        return _lines(self.line + self.border) if self.is_copied else self.line

    @property
    def line(self) -> int:
        """Bytes of a row of the source."""
        return self.source_shape[2] * self.sources

    @property
    def target_line(self) -> int:
        """Elements of a row of the target."""
        return self.target_shape[2] * self.targets

    @property
    def is_copied(self) -> bool:
        """Whether tiles are loaded from a copy of the source: they would read beyond it."""
        return self.padding != (0, 0) or self.conv.kernel[1] * self.sources % self.depth != 0

    @property
    def lead(self) -> int:
        """Bytes before the first row."""
        return _lines(self.border)

    @property
    def depth(self) -> int:
        """Bytes that a tile has of what a row of the kernel sees: loads that cross a cache line are slow."""
        return min(BYTES, self.conv.kernel[1] * self.sources)

    @property
    def runs(self) -> int:
        """Tiles that what a row of the kernel sees is cut into, the last one perhaps partly used."""
        return -(-self.conv.kernel[1] * self.sources // BYTES)

    @property
    def positions(self) -> int:
        return min(ROWS, self.target_shape[2])

    @property
    def rows(self) -> int:
        """Rows of the target that are summed together, so that they share what they see."""
        return min(self.band, (NUMBER - 1 - self.conv.kernel[0]) // self.planes)

    @property
    def sums(self) -> int:
        """Tiles of sums: of each row and plane."""
        return self.rows * self.planes

    @property
    def seen(self) -> int:
        """Rows of the source that these see."""
        return self._seen(self.rows)

    def _seen(self, rows: int) -> int:
        return (rows - 1) * self.conv.stride[0] + self.conv.kernel[0]

    @property
    def band(self) -> int:
        """Rows of the target that a task computes; the last one's may repeat others'."""
        height = self.target_shape[1]
        fitting = _BAND_BYTES // (self.pitch * self.planes) - self.conv.kernel[0]
        return -(-height // -(-height // max(fitting // self.conv.stride[0] + 1, 1)))

    @property
    def bands(self) -> int:
        return -(-self.target_shape[1] // self.band)

    @property
    def columns(self) -> int:
        """Tiles that a row of the target is cut into."""
        return -(-self.target_shape[2] // self.positions)

    @property
    def steps(self) -> int:
        """Of a band: each sums some rows of a tile's positions."""
        return -(-self.band // self.rows) * self.columns

    def site(self, step: Any) -> tuple[Any, Any]:
        """A step's first row in its band, and its first column: the last ones repeat what others sum."""
        row = least(step // self.columns * self.rows, self.band - self.rows)
        column = least(step % self.columns * self.positions, self.target_shape[2] - self.positions)
        return T.bind(row), T.bind(column)

    @property
    def abreast(self) -> int:
        """Groups that are summed one after the other: scaled, the sums of two fill a line of memory."""
        return 2 if self.groups % 2 == 0 else 1

    @property
    def visits(self) -> int:
        """Of a band: each sums the same step for groups abreast."""
        return self.steps * self.groups // self.abreast

    def summed(self, visit: Any) -> list[tuple[Any, Any]]:
        """The step of a visit, with each of its groups."""
        sets = self.groups // self.abreast
        step, number = (
            (visit // sets, visit % sets) if self.is_small else (visit % self.steps, visit // self.steps)
        )
        step, first = T.bind(step), T.bind(number * self.abreast)
        return [(step, first + each) for each in range(self.abreast)]

    @property
    def keeps_weights(self) -> bool:
        """Whether all weights stay in tiles."""
        return self.runs == self.groups == 1

    @property
    def is_small(self) -> bool:
        """Whether weights leave room in the first-level cache."""
        return self.groups * self.runs * self.conv.kernel[0] * SIZE * DEPTH <= _FEW_WEIGHTS

    @property
    def source_rows(self) -> int:
        """Rows of the source that a band sees."""
        return self._seen(self.band)

    @property
    def groups(self) -> int:
        """Tiles that the target's channels are cut into."""
        return self.targets // LANES


def serves(conv: Convolution, transposed: bool, machine: Machine) -> bool:
    """Whether tiles compute a convolution, or its input gradient, and are fast at it."""
    plan = TilePlan(folded(conv), transposed, machine)
    return (
        machine.tiles
        and (is_plain(conv) if transposed else is_dense(conv) and conv.stride[0] <= conv.kernel[0])
        and conv.kernel[0] <= _MOST_KERNEL_ROWS
        and min(plan.padding) >= 0
        and plan.target_shape[2] >= _LEAST_WIDTH
        and prod(conv.weight_shape) <= _MOST_WEIGHTS
    )


def _lines(size: int) -> int:
    return -(-size // BYTES) * BYTES


def is_plain(conv: Convolution) -> bool:
    """Whether each position sees its neighbours, and channels come in tiles."""
    return conv.stride == (1, 1) and is_dense(conv)


def is_dense(conv: Convolution) -> bool:
    """The same but for the stride."""
    is_whole = conv.in_channels % LANES == conv.out_channels % LANES == 0
    return conv.dilation == (1, 1) and conv.groups == 1 and is_whole


def plan(conv: Convolution, transposed: bool, machine: Machine, planes: int = 1) -> TilePlan:
    """Raises CompileError for sums that may not fit int32."""
    whole = TilePlan(folded(conv), transposed, machine, planes)
    terms = prod(conv.kernel) * whole.sources
    if terms > MOST_TERMS:
        raise CompileError(f"an integer convolution that adds up {terms} products may overflow")
    return whole


def folded(conv: Convolution) -> Convolution:
    """An image whose pixels the kernel sees one by one in rows of a tile's length, if they are so many."""
    pixels = conv.height * conv.width
    if conv.kernel != (1, 1) or conv.padding != (0, 0) or pixels % ROWS or not is_plain(conv):
        return conv
    return replace(conv, height=pixels // ROWS, width=ROWS)
