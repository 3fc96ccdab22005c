"""Whether two stages that share a scratchpad may meet in it, and whether what is read was ever written."""

from collections.abc import Iterator, Sequence

import numpy as np

from e2compile.targets.vta.analysis.footprint import Footprint, Indices, depth
from e2compile.targets.vta.analysis.order import Order
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Alu, Gemm, Instruction, Memory, Stage
from e2compile.targets.vta.isa.text import line

# Which stage writes a scratchpad, and which other one reads it. OUT is the low bits of ACC.
_SHARED = {
    Memory.INP: (Stage.LOAD, Stage.COMPUTE),
    Memory.WGT: (Stage.LOAD, Stage.COMPUTE),
    Memory.ACC: (Stage.COMPUTE, Stage.STORE),
}


class _Scratchpad:
    """For each element, the last instruction that wrote it and the last of the other stage that read it, -1
    if none has; whether OUT has its value too."""

    def __init__(self, memory: Memory, config: Config) -> None:
        self.writer, self.reader = _SHARED[memory]
        self.written = np.full(depth(memory, config), -1)
        self.read = self.written.copy()
        self.stored = np.zeros(len(self.written), bool)


def conflicts(
    instructions: Sequence[Instruction], footprints: Sequence[Footprint], order: Order, config: Config
) -> Iterator[tuple[int, str]]:
    """What is wrong, with the instruction's number, among those that run.

    In a walk in some possible order only the last writer and the last reader of an element need be looked
    at: those before them in their stage are done when they are.
    """
    pads = {memory: _Scratchpad(memory, config) for memory in _SHARED}
    for i in order.sequence:
        instruction, footprint = instructions[i], footprints[i]
        for memory, indices in footprint.reads.items():
            pad = pads[memory]
            yield from ((i, what) for what in _unwritten(instruction, memory, indices, pad))
            if instruction.stage is pad.reader:
                yield from _race(i, pad.written[indices], memory, instructions, order)
                pad.read[indices] = i
        for memory, indices in footprint.writes.items():
            if memory in pads:
                pad = pads[memory]
                yield from _race(i, pad.read[indices], memory, instructions, order)
                pad.written[indices] = i
                pad.stored[indices] = isinstance(instruction, Alu) or (
                    isinstance(instruction, Gemm) and not instruction.reset
                )


def _unwritten(instruction: Instruction, memory: Memory, indices: Indices, pad: _Scratchpad) -> Iterator[str]:
    never = indices[pad.written[indices] < 0]
    if never.size:
        yield f"it reads element {never[0]} of {memory.name}, which nothing has written"
    elif instruction.stage is Stage.STORE and not pad.stored[indices].all():
        late = indices[~pad.stored[indices]][0]
        yield f"it stores element {late} of ACC, which neither a GEMM nor the ALU wrote last"


def _race(
    i: int, others: Indices, memory: Memory, instructions: Sequence[Instruction], order: Order
) -> Iterator[tuple[int, str]]:
    """Whether instruction i may run before those of the other stage that were at the same elements."""
    last = int(others.max(initial=-1))
    if last >= 0 and order.may_come_before(i, last):
        text = line(instructions[last])
        yield i, f"both use {memory.name}, and no token keeps it from running beside {last}: {text}"
