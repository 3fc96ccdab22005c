"""Streams of correlations: convolutions, their input gradients and matrix products."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from e2compile.targets.vta.schedule.correlate_tile import Tile, window
from e2compile.targets.vta.schedule.emit import Box
from e2compile.targets.vta.schedule.nest import Axis, Nest
from e2compile.targets.vta.schedule.pipeline import Part, Piece
from e2compile.targets.vta.schedule.ranges import Block, Range, cut
from e2compile.targets.vta.schedule.schedule import Schedule
from e2compile.targets.vta.schedule.work import Correlation


@dataclass(frozen=True)
class _Chunk:
    """A part of the reduction."""

    inputs: Range
    taps: Range


class CorrelationSchedule(Schedule):
    """Tiles are parts of the outputs; their sums run over chunks of input blocks and taps."""

    work: Correlation
    tile: Tile

    def _parts(self, block: Block, made: Sequence[tuple[Block, Piece]]) -> Iterator[Part]:
        work, tile = self.work, self.tile
        for inputs, taps in product(cut(work.inputs, tile.inputs), cut(len(work.taps), tile.taps)):
            for part, piece in made:
                yield self._products(block, part, piece, _Chunk(inputs, taps))

    def _blocks(self) -> Iterator[Block]:
        work, tile = self.work, self.tile
        outputs = cut(work.outputs, tile.outputs)
        rows, columns = cut(work.out_height, tile.height), cut(work.out_width, tile.width)
        places = list(product(cut(work.images, tile.images), rows, columns))
        if tile.outputs_first:
            yield from ((o, *place) for o in outputs for place in places)
        else:
            yield from ((o, *place) for place in places for o in outputs)

    def _products(self, block: Block, part: Block, piece: Piece, chunk: _Chunk) -> Part:
        """The products of a piece and a chunk."""

        def emit() -> None:
            inp_box, wgt_box = self._inp_box(block, chunk), self._wgt_box(block, chunk)
            wgt, inp = self.wgts.load(wgt_box), self.inps.load(inp_box)
            nest = self._nest(part, chunk, piece.slot.base, (inp.base, inp_box), (wgt.base, wgt_box))
            self.emitter.multiply(nest, piece.slot, [inp], [wgt])

        return Part(piece, emit)

    def _inp_box(self, block: Block, chunk: _Chunk) -> Box:
        _, images, rows, columns = block
        places = window(self.work, chunk.taps, rows, columns)
        return Box.of(self.work.inp_shape, chunk.inputs, images, *places)

    def _wgt_box(self, block: Block, chunk: _Chunk) -> Box:
        return Box.of(self.work.wgt_shape, block[0], chunk.inputs, chunk.taps)

    def _nest(self, part: Block, chunk: _Chunk, acc: int, inp: tuple[int, Box], wgt: tuple[int, Box]) -> Nest:
        """The products, given where each operand lies."""
        (o, outputs), (n, images), (y, height), (x, width) = part
        (inp_base, inp_box), (wgt_base, wgt_box) = inp, wgt
        _, inp_images, rows, columns = inp_box.extent
        _, inputs, taps = wgt_box.extent
        dy, dx = self.work.stride
        axes = (
            Axis(outputs, dst=images * height * width, wgt=inputs * taps),
            Axis(images, dst=height * width, src=rows * columns),
            Axis(height, dst=width, src=dy * columns),
            Axis(width, dst=1, src=dx),
            Axis(inputs, src=inp_images * rows * columns, wgt=taps),
        )
        _, first_image, first_row, first_column = inp_box.begin
        top, left = y * dy - first_row, x * dx - first_column
        src = inp_base + (n - first_image) * rows * columns
        first_wgt = wgt_base + (o - wgt_box.begin[0]) * inputs * taps
        offsets = self.work.taps[chunk.taps[0] : sum(chunk.taps)]
        size = outputs * images * height * width
        points = ((acc, src + (top + i) * columns + left + j, first_wgt) for i, j in offsets)
        return Nest(axes, tuple((a, s, w + k) for k, (a, s, w) in enumerate(points)), acc + size)
