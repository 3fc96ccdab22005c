"""Emits a stream: tokens follow from what each instruction reads and writes, micro-ops are kept and shared.

Every token runs forward in the stream: from an instruction to a later one of a neighbouring stage. The first
instruction that has not run therefore never waits for one that is fetched after it, so no depth of the
queues can make a stream hang.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from e2compile.errors import UsageError
from e2compile.targets.vta.isa import stream
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Memory,
    Stage,
    Tokens,
    Transfer,
    Uop,
)
from e2compile.targets.vta.isa.stream import Stream
from e2compile.targets.vta.schedule import nest
from e2compile.targets.vta.schedule.nest import Nest, Points
from e2compile.targets.vta.schedule.ranges import Range

_MOST = (1 << 16) - 1  # of a transfer's rows, columns and stride
_MOST_ITERATIONS = (1 << 14) - 1
# Tokens that wait are as many as slots at most; one implementation counts to 255.
MOST_SLOTS = 64


@dataclass(eq=False)
class Slot:
    """Elements of a scratchpad from `base`, and the instructions that touched them last."""

    base: int
    written: int = -1
    read: int = -1


@dataclass(frozen=True)
class Box:
    """A part of an array in DRAM, row-major: `extent` elements from `begin` in each dimension of `shape`."""

    shape: tuple[int, ...]
    begin: tuple[int, ...]
    extent: tuple[int, ...]

    @staticmethod
    def of(shape: tuple[int, ...], *ranges: Range) -> "Box":
        """Of a range in each dimension."""
        begin, extent = zip(*ranges, strict=True)
        return Box(shape, begin, extent)

    def transfers(self, memory: Memory, sram: int) -> Iterator[Transfer]:
        """Those that move it to or from `sram`, packed there, in the fewest and longest DMA rows."""
        strides = [1]
        for size in reversed(self.shape[1:]):
            strides.insert(0, strides[0] * size)
        dram = sum(b * s for b, s in zip(self.begin, strides, strict=True))
        levels: list[tuple[int, int]] = []
        for extent, stride in zip(self.extent, strides, strict=True):
            if levels and levels[-1][1] == extent * stride:
                levels[-1] = levels[-1][0] * extent, stride
            elif extent > 1:
                levels.append((extent, stride))
        if not levels or levels[-1][1] != 1:
            levels.append((1, 1))
        columns = levels.pop()[0]
        rows, stride = levels.pop() if levels and levels[-1][1] <= _MOST else (1, columns)
        for i, steps in enumerate(product(*(range(0, e * s, s) for e, s in levels))):
            yield Transfer(memory, sram + i * rows * columns, dram + sum(steps), rows, columns, stride)


@dataclass
class _Epoch:
    """Micro-ops that lie in the scratchpad together, and the instruction that loads them."""

    load: int
    begin: int
    places: dict[bytes, int] = field(default_factory=dict)
    used: int = 0


class Emitter:
    def __init__(self, config: Config) -> None:
        self.config = config
        self._instructions: list[Instruction] = []
        self._pops: list[set[Stage]] = []
        self._pushes: list[set[Stage]] = []
        self._synced: dict[tuple[Stage, Stage], int] = {}
        self._last: dict[Stage, int] = {}
        self._uops: list[Points] = []
        self._epoch: _Epoch | None = None

    def slots(self, memory: Memory, size: int, count: int) -> list[Slot]:
        """`count` parts of `size` elements of a scratchpad. Raises UsageError if it has fewer."""
        logs = self.config.log_inps, self.config.log_wgts, self.config.log_accs
        depth = 1 << dict(zip((Memory.INP, Memory.WGT, Memory.ACC), logs, strict=True))[memory]
        if size * count > depth:
            raise UsageError(f"a tile takes {count} x {size} elements of {memory.name}, which has {depth}")
        return [Slot(i * size) for i in range(count)]

    def move(self, memory: Memory, box: Box, slot: Slot) -> None:
        """Load a box into a slot, or store it from there."""
        for transfer in box.transfers(memory, slot.base):
            if memory is Memory.OUT:
                self._emit(transfer, reads=[slot])
            else:
                self._emit(transfer, writes=[slot])

    def reset(self, slot: Slot, size: int) -> None:
        for base, count in _linear(slot.base, size):
            uops = self._placed(np.array([[base, 0, 0]]))
            self._emit(Gemm(uops, (1, count), dst=(0, 1), reset=True), writes=[slot])

    def multiply(self, products: Nest, acc: Slot, inps: Sequence[Slot], wgts: Sequence[Slot]) -> None:
        """Add products, whose indices are absolute, to the accumulators of a slot."""
        base = np.array(products.points[0])
        for plan in nest.plans(products.relative(), 1 << self.config.log_uops):
            outer, inner = plan.loops
            dst, src, wgt = zip(outer.step, inner.step, strict=True)
            uops = self._placed(plan.uops + base)
            gemm = Gemm(uops, (outer.extent, inner.extent), dst, src, wgt)
            self._emit(gemm, reads=[*inps, *wgts], writes=[acc])

    def apply(self, op: AluOp, immediate: int, slot: Slot, size: int) -> None:
        """Change accumulators in place."""
        for base, count in _linear(slot.base, size):
            uops = self._placed(np.array([[base, base, 0]]))
            self._emit(Alu(op, uops, (1, count), (0, 1), (0, 1), immediate), writes=[slot])

    def finish(self, blocks: dict[str, int]) -> Stream:
        """The stream, whose last instruction waits for all others; `blocks` are its buffers' sizes."""
        ends = [Slot(0, written=self._last.get(stage, -1)) for stage in (Stage.LOAD, Stage.STORE)]
        self._emit(Transfer(Memory.UOP), reads=ends)
        self._emit(Finish())
        self._close()
        tokens = map(_tokens, self._instructions, self._pops, self._pushes)
        done = (replace(i, tokens=t) for i, t in zip(self._instructions, tokens, strict=True))
        uops = tuple(Uop(*row) for rows in self._uops for row in rows.tolist())
        return Stream(tuple(done), uops, blocks | {stream.UOP: len(uops)})

    def _emit(
        self, instruction: Instruction, reads: Sequence[Slot] = (), writes: Sequence[Slot] = ()
    ) -> None:
        here, stage = len(self._instructions), instruction.stage
        self._instructions.append(instruction)
        self._pops.append(set())
        self._pushes.append(set())
        befores = [slot.written for slot in (*reads, *writes)] + [slot.read for slot in writes]
        for before in sorted(befores, reverse=True):
            if self._waits(before, stage):
                producer = self._instructions[before].stage
                self._synced[producer, stage] = before
                self._pops[here].add(producer)
                self._pushes[before].add(stage)
        for slot in reads:
            slot.read = here
        for slot in writes:
            slot.written = here
        self._last[stage] = here

    def _waits(self, before: int, stage: Stage) -> bool:
        """Whether a stage does not know yet that an earlier instruction has run."""
        if before < 0 or self._instructions[before].stage is stage:
            return False
        return self._synced.get((self._instructions[before].stage, stage), -1) < before

    def _placed(self, uops: Points) -> tuple[int, int]:
        """The range of the scratchpad where micro-ops lie when the next instruction runs."""
        key = uops.astype(np.int32).tobytes()
        epoch = self._epoch
        if epoch is not None and key in epoch.places:
            return epoch.places[key], epoch.places[key] + len(uops)
        if epoch is None or epoch.used + len(uops) > 1 << self.config.log_uops:
            epoch = self._opened()
        begin = epoch.places[key] = epoch.used
        epoch.used += len(uops)
        self._uops.append(uops)
        return begin, epoch.used

    def _opened(self) -> _Epoch:
        begin = self._close()
        self._epoch = _Epoch(len(self._instructions), begin)
        self._emit(Transfer(Memory.UOP))
        return self._epoch

    def _close(self) -> int:
        """End an epoch, now that what it loads is known; the micro-ops so far."""
        if self._epoch is None:
            return 0
        count = self._epoch.used
        load = Transfer(Memory.UOP, 0, self._epoch.begin, 1, count, count)
        self._instructions[self._epoch.load] = load
        return self._epoch.begin + count


class Scratchpad:
    """The slots of an input memory: a box is loaded unless there; the least recently used makes room."""

    def __init__(self, emitter: Emitter, memory: Memory, size: int, count: int) -> None:
        self._emitter = emitter
        self._memory = memory
        self._free = emitter.slots(memory, size, count)[::-1]
        self._held: dict[Hashable, Slot] = {}

    def load(self, box: Box) -> Slot:
        slot = self._held.pop(box, None)
        if slot is None:
            slot = self._free.pop() if self._free else self._held.pop(next(iter(self._held)))
            self._emitter.move(self._memory, box, slot)
        self._held[box] = slot
        return slot


def _linear(base: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive accumulators in parts that a loop can walk."""
    for begin in range(0, size, _MOST_ITERATIONS):
        yield base + begin, min(size - begin, _MOST_ITERATIONS)


def _tokens(instruction: Instruction, pops: set[Stage], pushes: set[Stage]) -> Tokens:
    stage = instruction.stage
    return Tokens(
        any(other < stage for other in pops),
        any(other > stage for other in pops),
        any(other < stage for other in pushes),
        any(other > stage for other in pushes),
    )
