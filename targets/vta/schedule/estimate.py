"""What a schedule is chosen by: the cycle model's figures, of parts of a stream that is not made yet."""

from collections.abc import Iterable
from math import prod

from e2compile.targets.vta.analysis.timing import ALU, GEMM, LATENCIES, timing
from e2compile.targets.vta.analysis.timing import cycles as cycles_of
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Memory
from e2compile.targets.vta.isa.stream import Stream
from e2compile.targets.vta.schedule.emit import Box

# Elements that load in the time that another DMA row takes to begin.
ROW = 46
_ENOUGH = 3000  # instructions, that make time for another try too dear


def fastest(streams: Iterable[Stream], config: Config) -> Stream:
    """Of some streams, or of the first ones where they are long."""
    best: tuple[int, Stream] | None = None
    made = 0
    for stream in streams:
        cycles = timing(stream.instructions, config).total
        if best is None or cycles < best[0]:
            best = cycles, stream
        made += len(stream.instructions)
        if made > _ENOUGH:
            break
    assert best is not None
    return best[1]


def moved(memory: Memory, box: Box, config: Config) -> int:
    """Of the transfers of a box. Likewise below, of instructions, by their number and their micro-ops."""
    one = next(box.transfers(memory, 0))
    count = prod(box.extent) // (one.rows * one.columns)
    return count * cycles_of(one, config, LATENCIES[config.target].cycles)


def gemm(count: int, uops: int) -> int:
    return GEMM * count + uops


def alu(count: int, uops: int) -> int:
    return ALU * count + 2 * uops
