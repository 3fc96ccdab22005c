"""Winograd's minimal filtering of 3 x 3 kernels: 16 products where a 2 x 2 tile of outputs needs 36.

F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016, section
4.1), the last row of B^T and the last column of A^T negated, so that one B^T serves forward pass and weight
gradient. The latter is F(3 x 3, 2 x 2): the tile of the output's gradient takes the place of the kernel.
Sums have a ninth of the terms of a direct convolution's, which outweighs what the transforms round.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import prod
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.blocks import vectors
from e2compile.targets.llvm.emit import Samples, prefetch, splat, zero

# Outputs and inputs of a tile along an axis, and the products that each takes in both.
OUT = 2
IN = 4
PRODUCTS = IN * IN
_KERNEL = 3
# Narrower channels spend more on the transforms than the products save.
_LEAST_CHANNELS = 16
# Transforming weights costs as much as the products of some tiles, their gradients' sums of more.
_LEAST_TILES = 16
_LEAST_TILES_OF_GRADIENT = 128
# Products of a tile over the border are made all the same: the most of a direct convolution's that pays.
_WORTH = 0.8
# Products apart by a multiple of a page would share a set of the first-level cache.
_PAD = 16

Values = Sequence[Any]
Transform = Callable[[Values], list[Any]]


def serves(conv: Convolution) -> bool:
    """Whether a forward pass and an input gradient are worth transforming."""
    return is_suited(conv) and _tiles(conv) >= _LEAST_TILES


def serves_weights(conv: Convolution) -> bool:
    """Whether a weight gradient is."""
    return is_suited(conv) and _tiles(conv) >= _LEAST_TILES_OF_GRADIENT


def is_suited(conv: Convolution) -> bool:
    """Whether the transforms can compute a convolution's contractions, with fewer products."""
    suits = (
        conv.kernel == (_KERNEL, _KERNEL)
        and conv.stride == conv.dilation == (1, 1)
        and max(conv.padding) < _KERNEL
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
    )
    if not suits:
        return False
    extents = zip((conv.height, conv.width), (conv.out_height, conv.out_width), conv.padding, strict=True)
    direct = conv.batch * prod(_taps(*extent) for extent in extents)
    return PRODUCTS * _tiles(conv) <= _WORTH * direct


def _tiles(conv: Convolution) -> int:
    return conv.batch * -(-conv.out_height // OUT) * -(-conv.out_width // OUT)


def _taps(inputs: int, outputs: int, padding: int) -> int:
    """Pairs of an output and a kernel position along an axis that see an input and not padding."""
    return sum(0 <= out + tap - padding < inputs for out in range(outputs) for tap in range(_KERNEL))


def of_inputs(d: Values) -> list[Any]:
    """B^T d of four inputs."""
    return _bound(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1])


def of_weights(g: Values) -> list[Any]:
    """G g of three weights."""
    half = T.float32(0.5)
    outer, inner = _bound((g[0] + g[2]) * half, g[1] * half)
    return [g[0], *_bound(outer + inner, outer - inner), g[2]]


def to_outputs(m: Values) -> list[Any]:
    """A^T m: two outputs of four products."""
    return _bound(m[0] + m[1] + m[2], m[1] - m[2] + m[3])


def of_gradients(g: Values) -> list[Any]:
    """2 G g of two gradients of outputs, the doubled rows as they are."""
    return [g[0], *_bound(g[0] + g[1], g[0] - g[1]), g[1]]


def to_weights(m: Values) -> list[Any]:
    """A^T m of F(3, 2): three weights' gradients of four sums of products, halving what was doubled."""
    half = T.float32(0.5)
    even, odd = _bound((m[1] + m[2]) * half, (m[1] - m[2]) * half)
    return _bound(m[0] + even, odd, even + m[3])


def along_both(transform: Transform, square: Sequence[Values]) -> list[list[Any]]:
    """The transform of a square's columns, then of its rows."""
    columns = [transform(column) for column in zip(*square, strict=True)]
    return [transform(row) for row in zip(*columns, strict=True)]


def _bound(*values: Any) -> list[Any]:
    return [T.bind(value) for value in values]


@dataclass(frozen=True)
class Image:
    """A batch of images as one buffer; `before` rows and columns of zeros precede each."""

    buffer: Any
    height: int
    width: int
    channels: int
    before: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Grid:
    """The tiles of all live samples, in order: `rows` x `columns` of them in each image."""

    live: Samples
    rows: int
    columns: int

    @property
    def number(self) -> Any:
        return self.live.number * (self.rows * self.columns)

    def place(self, number: Any) -> tuple[Any, Any, Any]:
        """The sample of a tile, and its first output row and column."""
        sample = T.bind(self.live[number // (self.rows * self.columns)])
        row = T.bind(number // self.columns % self.rows * OUT)
        return sample, row, T.bind(number % self.columns * OUT)


def grid(conv: Convolution, live: Samples, transposed: bool) -> Grid:
    """The tiles of a convolution's outputs; transposed, those of its inputs."""
    height, width = (conv.height, conv.width) if transposed else (conv.out_height, conv.out_width)
    return Grid(live, -(-height // OUT), -(-width // OUT))


@dataclass(frozen=True)
class Window:
    """`size` x `size` pixels of an image, zeros outside it."""

    image: Image
    places: dict[tuple[int, int], tuple[Any, Any]]
    size: int

    def square(self, channel: Any, width: int) -> list[list[Any]]:
        """A vector of channels of each pixel."""
        return [[self._pixel(row, column, channel, width) for column in self._range] for row in self._range]

    def prefetch(self, channel: Any, to_write: bool, below: int = 0) -> None:
        """Asks for the pixels that so many rows further down are new to a tile: those of its outputs."""
        step = below * self.image.width * self.image.channels
        for row, column in product(range(OUT), repeat=2):
            prefetch(self.image.buffer, self.places[row, column][1] + step + channel, to_write)

    @property
    def _range(self) -> range:
        return range(self.size)

    def _pixel(self, row: int, column: int, channel: Any, width: int) -> Any:
        inside, place = self.places[row, column]
        index = place + channel
        value = self.image.buffer[index if width == 1 else T.ramp(index, 1, width)]
        return T.bind(tirx.Select(splat(inside, width), value, zero(width)))


def window(image: Image, place: tuple[Any, Any, Any], size: int) -> Window:
    """The pixels from a tile's first on; reads of pixels outside go to one inside."""
    sample, row, column = place
    rows = [_clamped(row - image.before[0] + i, image.height) for i in range(size)]
    columns = [_clamped(column - image.before[1] + i, image.width) for i in range(size)]
    places = {}
    for i, j in product(range(size), repeat=2):
        line = sample * image.height + rows[i][1]
        index = (line * image.width + columns[j][1]) * image.channels
        places[i, j] = T.bind(tirx.all(rows[i][0], columns[j][0])), T.bind(index)
    return Window(image, places, size)


def _clamped(position: Any, size: int) -> tuple[Any, Any]:
    inside = T.bind(tirx.all(position >= 0, position < size))
    return inside, T.bind(tirx.max(tirx.min(position, size - 1), 0))


def pitch(tiles: int, channels: int) -> int:
    """Elements from one product of a block of tiles to the next: (product, tile, channel)."""
    return tiles * channels + _PAD


def spans(channels: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """Channels as runs of vectors: first channel, width of a vector, number of vectors."""
    first = 0
    for width, same in groupby(vectors(channels, lanes)):
        number = len(list(same))
        yield first, width, number
        first += width * number
