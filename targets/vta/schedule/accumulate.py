"""Streams of accumulations: weight gradients, whose sums run over pixels and samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product

from e2compile.targets.vta.schedule.accumulate_tile import Tile
from e2compile.targets.vta.schedule.bands import Bands
from e2compile.targets.vta.schedule.emit import Box
from e2compile.targets.vta.schedule.nest import Axis, Nest, Step
from e2compile.targets.vta.schedule.pipeline import Part, Piece
from e2compile.targets.vta.schedule.ranges import Block, Range, cut, meet, steps
from e2compile.targets.vta.schedule.schedule import Schedule
from e2compile.targets.vta.schedule.work import Accumulation


@dataclass(frozen=True)
class _Chunk:
    """A part of the pixels."""

    columns: Range
    rows: Range


class AccumulationSchedule(Schedule):
    """Tiles are parts of the sums, which run over chunks of pixels and, in each, groups of channels."""

    work: Accumulation
    tile: Tile

    def _parts(self, block: Block, made: Sequence[tuple[Block, Piece]]) -> Iterator[Part]:
        work, tile = self.work, self.tile
        taps, (c, channels), outputs = block
        bands = tile.bands(work, taps)
        for columns, rows in product(cut(work.out_width, tile.width), steps(work.out_height, tile.height)):
            for begin, size in cut(channels, tile.group):
                group = c + begin, size
                for part, piece in made:
                    if meet(part[1], group)[1] > 0:
                        yield self._products(part, piece, _Chunk(columns, rows), group, outputs, bands)

    def _blocks(self) -> Iterator[Block]:
        work, tile = self.work, self.tile
        outputs = cut(work.outputs, tile.outputs)
        rest = list(product(cut(len(work.taps), tile.taps), cut(work.channels, tile.channels)))
        if tile.outputs_first:
            yield from ((taps, channels, o) for o in outputs for taps, channels in rest)
        else:
            yield from ((taps, channels, o) for taps, channels in rest for o in outputs)

    def _products(
        self, part: Block, piece: Piece, chunk: _Chunk, group: Range, outputs: Range, bands: Bands
    ) -> Part:
        """A chunk's products of those channels of a piece that are in a group.

        `outputs` are the blocks whose weights load together.
        """
        xs, ys = chunk.columns, chunk.rows

        def emit() -> None:
            wgt_box = Box.of(self.work.wgt_shape, outputs, ys, xs)
            wgt = self.wgts.load(wgt_box)
            numbers = sorted({band for y in range(ys[0], sum(ys)) for band in bands.of(part[0], y)})
            shape, wide = self.work.inp_shape, bands.columns(xs)
            boxes = [Box.of(shape, group, bands.rows(band), wide) for band in numbers]
            inps = [self.inps.load(box) for box in boxes]
            channels = meet(part[1], group)
            idle = piece.slot.base + piece.size
            for places, run in groupby(range(ys[0], sum(ys)), lambda y: bands.of(part[0], y)):
                rows = list(run)
                found = [numbers.index(band) for band in places]
                inp = [(inps[i].base, boxes[i]) for i in found]
                points = self._points((piece.slot.base, part), channels[0], rows[0], (wgt.base, wgt_box), inp)
                axes = self._axes(part, channels[1], len(rows), boxes[0], wgt_box)
                self.emitter.multiply(Nest(axes, tuple(points), idle), piece.slot, inps, [wgt])

        return Part(piece, emit)

    def _axes(self, part: Block, channels: int, rows: int, inp_box: Box, wgt_box: Box) -> tuple[Axis, ...]:
        outputs = part[2][1]
        dy, dx = self.work.stride
        _, high, wide = inp_box.extent
        _, height, width = wgt_box.extent
        return (
            Axis(rows, src=dy * wide, wgt=width),
            Axis(width, src=dx, wgt=1),
            Axis(channels, dst=outputs, src=high * wide),
            Axis(outputs, dst=1, wgt=height * width),
        )

    def _points(
        self,
        acc: tuple[int, Block],
        channel: int,
        y: int,
        wgt: tuple[int, Box],
        inps: Sequence[tuple[int, Box]],
    ) -> Iterator[Step]:
        """Of each tap, the indices of the first product, given where its operands lie."""
        acc_base, (taps, (c, channels), (o, outputs)) = acc
        dy, dx = self.work.stride
        wgt_base, wgt_box = wgt
        (first_output, first_y, first_x), (_, height, width) = wgt_box.begin, wgt_box.extent
        w = wgt_base + ((o - first_output) * height + y - first_y) * width
        for i, (base, box) in enumerate(inps):
            down, right = self.work.taps[taps[0] + i]
            (first_channel, first_row, first_column), (_, rows, wide) = box.begin, box.extent
            row = (channel - first_channel) * rows + y * dy + down - first_row
            src = base + row * wide + first_x * dx + right - first_column
            yield acc_base + (i * channels + channel - c) * outputs, src, w
