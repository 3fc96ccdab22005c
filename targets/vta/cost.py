"""What a schedule is chosen by: the cycle model's figures, of parts of a stream that is not made yet."""

from e2compile.targets.vta.config import Config
from e2compile.targets.vta.emit import Box
from e2compile.targets.vta.isa import Memory
from e2compile.targets.vta.stream import Stream
from e2compile.targets.vta.timing import ALU, GEMM, LATENCIES, cycles, timing


def total(stream: Stream, config: Config) -> int:
    """Cycles of a stream."""
    return timing(stream.instructions, config).total


def moved(memory: Memory, box: Box, config: Config) -> int:
    """Of the transfers of a box. Likewise below, of instructions, by their number and their micro-ops."""
    latency = LATENCIES[config.target].cycles
    return sum(cycles(transfer, config, latency) for transfer in box.transfers(memory, 0))


def gemm(count: int, uops: int) -> int:
    return GEMM * count + uops


def alu(count: int, uops: int) -> int:
    return ALU * count + 2 * uops
