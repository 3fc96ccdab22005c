"""What a schedule is chosen by: the cycle model's figures, of parts of a stream that is not made yet."""

from math import prod

from e2compile.targets.vta.analysis.timing import ALU, GEMM, LATENCIES
from e2compile.targets.vta.analysis.timing import cycles as cycles_of
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Memory
from e2compile.targets.vta.schedule.emit import Box

# Elements that load in the time that another DMA row takes to begin.
ROW = 46


def moved(memory: Memory, box: Box, config: Config) -> int:
    """Of the transfers of a box. Likewise below, of instructions, by their number and their micro-ops."""
    one = next(box.transfers(memory, 0))
    count = prod(box.extent) // (one.rows * one.columns)
    return count * cycles_of(one, config, LATENCIES[config.target].cycles)


def gemm(count: int, uops: int) -> int:
    return GEMM * count + uops


def alu(count: int, uops: int) -> int:
    return ALU * count + 2 * uops
