"""How many clock cycles a stream takes: a model of the HLS design's stages, queues, tokens and DMA.

The figures are of the design's generated RTL in simulation; with a latency of 75 cycles they give eight of
the ten published ResNet-18 layers of a Pynq within 9 %. Left out: the stages' use of one memory port at the
same time, DRAM refresh, and what the host does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.analysis.footprint import sram_elements
from e2compile.targets.vta.analysis.order import QUEUE, Order
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Alu, Gemm, Instruction, Memory, Stage, Transfer

START = 92  # cycles from the host's signal until the first instruction starts, such that FINISH ends at 106
IDLE = 14  # of a no-op, FINISH, or a token's way from stage to stage
GEMM = 21  # besides one for each micro-op
ALU = 21  # besides two for each micro-op


@dataclass(frozen=True)
class Latency:
    """Cycles from a DMA read's request to its first beat, and how that is known."""

    cycles: int
    source: str


LATENCIES = {
    "pynq": Latency(75, "fitted to the authors' times of ten ResNet-18 layers, July 2019 (TopHub vta_v0.10)"),
    "de10nano": Latency(75, "assumed: as a Pynq, which has the same clock"),
    "ultra96": Latency(250, "assumed: as long as on a Pynq, 750 ns"),
    "zcu104": Latency(250, "assumed: as long as on a Pynq, 750 ns"),
}


@dataclass(frozen=True)
class _Dma:
    """Cycles of a transfer: `once`, and for each row `row` and the latency and a cycle for each beat.

    A beat is a word of the memory port, as the design's copies are of such words, and `slowness` the cycles
    that each takes; both fixed by measurements with a port of 8 bytes.
    """

    once: int
    row: int
    slowness: int = 1


_DMA = {
    Memory.INP: _Dma(10, 18),
    Memory.WGT: _Dma(6, 14, slowness=2),
    Memory.ACC: _Dma(12, 18),  # measured for one row: 30 + latency; the rows' code is that of INP
    Memory.OUT: _Dma(4, 13),
    Memory.UOP: _Dma(0, 17),
}
_UOP_BEAT = 4  # bytes; micro-ops have a port of their own width


@dataclass(frozen=True)
class Timing:
    """Cycles. `starts` and `ends` are when each instruction starts, with its tokens, and ends."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    busy: dict[Stage, int]
    gemm: int
    alu: int

    @property
    def total(self) -> int:
        """From the host's signal to the last end."""
        return int(self.ends.max(initial=START))

    @property
    def bound(self) -> int:
        """What the compute stage's products and ALU operations take if it never waits or loads."""
        return self.gemm + self.alu

    def seconds(self, config: Config) -> float:
        return self.total / config.board.clock_hz


def timing(instructions: Sequence[Instruction], config: Config, latency: int | None = None) -> Timing:
    """When each instruction of a stream that does not get stuck runs. `latency` is its board's by default."""
    if latency is None:
        latency = LATENCIES[config.target].cycles
    order = Order(instructions)
    costs = [cycles(instruction, config, latency) for instruction in instructions]
    stages = [instruction.stage for instruction in instructions]
    starts, ends = [START] * len(costs), [START] * len(costs)
    fetches = _Fetches(stages, order, -(-16 // config.board.port_bytes))
    free = dict.fromkeys(Stage, START)
    for i in order.sequence:
        stage = stages[i]
        starts[i] = max(free[stage], fetches.of(i, starts), *(ends[j] for j in order.awaited[i]))
        ends[i] = free[stage] = starts[i] + costs[i]
    return Timing(
        np.array(starts),
        np.array(ends),
        {stage: sum(costs[i] for i in queue) for stage, queue in order.queues.items()},
        sum(cost for cost, it in zip(costs, instructions, strict=True) if isinstance(it, Gemm)),
        sum(cost for cost, it in zip(costs, instructions, strict=True) if isinstance(it, Alu)),
    )


def cycles(instruction: Instruction, config: Config, latency: int) -> int:
    """How long an instruction keeps its stage busy once it has its tokens."""
    if isinstance(instruction, Gemm):
        return GEMM + instruction.cycles
    if isinstance(instruction, Alu):
        return ALU + 2 * instruction.cycles
    if not isinstance(instruction, Transfer) or instruction.is_idle:
        return IDLE
    dma, rows = _DMA[instruction.memory], instruction.rows
    padding = sram_elements(instruction) - rows * instruction.columns
    beats = -(
        -instruction.columns * _element_bytes(instruction.memory, config) // _beat(instruction.memory, config)
    )
    return dma.once + rows * (dma.row + latency + beats * dma.slowness) + padding


def _beat(memory: Memory, config: Config) -> int:
    return _UOP_BEAT if memory is Memory.UOP else config.board.port_bytes


def _element_bytes(memory: Memory, config: Config) -> int:
    sizes = {Memory.INP: config.inp_bytes, Memory.WGT: config.wgt_bytes, Memory.ACC: config.acc_bytes}
    return sizes.get(memory, _UOP_BEAT if memory is Memory.UOP else config.out_bytes)


class _Fetches:
    """When each instruction is in its stage's queue: one after another, each once there is room."""

    def __init__(self, stages: Sequence[Stage], order: Order, interval: int) -> None:
        self._interval = interval
        self._room: list[int | None] = [None] * len(stages)
        for queue in order.queues.values():
            for i, earlier in zip(queue[QUEUE:], queue, strict=False):
                self._room[i] = earlier
        self._times: list[int] = []

    def of(self, i: int, starts: Sequence[int]) -> int:
        """`starts` of all that had to start before."""
        while len(self._times) <= i:
            earlier = self._room[len(self._times)]
            next_time = self._times[-1] + self._interval if self._times else START
            self._times.append(next_time if earlier is None else max(next_time, starts[earlier]))
        return self._times[i]
