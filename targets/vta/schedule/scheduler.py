"""Streams of work: of the schedules that seem fast the fastest, by the cycle model, cut where it is too long.

A stream is cut between two tiles, when the sums of the first have left: the next one begins with empty
scratchpads, and reads and writes the same buffers.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import islice
from math import prod

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.check import LARGEST_TRANSFER, transferred
from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.stream import INP, OUT, WGT, Stream
from e2compile.targets.vta.schedule import accumulate_tile, correlate_tile, pipeline
from e2compile.targets.vta.schedule.accumulate import AccumulationSchedule
from e2compile.targets.vta.schedule.correlate import CorrelationSchedule
from e2compile.targets.vta.schedule.pipeline import Epilogue
from e2compile.targets.vta.schedule.schedule import Schedule
from e2compile.targets.vta.schedule.work import Correlation, Work

_ENOUGH = 3000  # instructions, that make time for another try too dear


Begin = Callable[[], Schedule]


@lru_cache(maxsize=256)
def streams(
    work: Work, config: Config, epilogue: Epilogue = (), largest: int = LARGEST_TRANSFER
) -> tuple[Stream, ...]:
    """Streams that do the work one after another, none with more than `largest` bytes of instructions or of
    micro-ops: one, where that is possible.

    Raises UsageError where scratchpads, or `largest`, are too small for any part of the work.
    """
    best: tuple[int, tuple[Stream, ...]] | None = None
    refused: UsageError | None = None
    made = 0
    for begin in _schedules(work, config):
        try:
            found = emitted(begin, epilogue, largest)
        except UsageError as error:
            refused = error
            continue
        cycles = sum(timing(stream.instructions, config).total for stream in found)
        if best is None or cycles < best[0]:
            best = cycles, found
        made += sum(len(stream.instructions) for stream in found)
        if made > _ENOUGH:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best[1]


def _schedules(work: Work, config: Config) -> Iterator[Begin]:
    if isinstance(work, Correlation):
        tiles = correlate_tile.candidates(work, config)
        return (partial(CorrelationSchedule, work, config, tile) for tile in tiles)
    others = accumulate_tile.candidates(work, config)
    return (partial(AccumulationSchedule, work, config, tile) for tile in others)


def emitted(begin: Begin, epilogue: Epilogue = (), largest: int = LARGEST_TRANSFER) -> tuple[Stream, ...]:
    """The streams of a schedule, which `begin` gives anew each time.

    Raises UsageError where a tile is too long by itself.
    """
    return tuple(_cut(begin, epilogue, largest, range(sum(1 for _ in begin().tiles()))))


def _cut(begin: Begin, epilogue: Epilogue, largest: int, numbers: range) -> Iterator[Stream]:
    """The streams of some tiles: one of all of them, or those of each half."""
    schedule = begin()
    work, tiles = schedule.work, islice(schedule.tiles(), numbers.start, numbers.stop)
    pipeline.run(schedule.emitter, tiles, epilogue, schedule.has_halves)
    sizes = {INP: prod(work.inp_shape), WGT: prod(work.wgt_shape), OUT: prod(work.out_shape)}
    stream = schedule.emitter.finish(sizes)
    size = max(transferred(stream.instructions, stream.uops).values())
    if size <= largest:
        yield stream
    elif len(numbers) == 1:
        raise UsageError(f"one tile takes {size} bytes of instructions or micro-ops, {largest} at most")
    else:
        middle = len(numbers) // 2
        yield from _cut(begin, epilogue, largest, numbers[:middle])
        yield from _cut(begin, epilogue, largest, numbers[middle:])
