"""What each instruction by itself must keep to."""

from collections.abc import Iterator, Mapping

import numpy as np

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.footprint import (
    DISTANCE,
    Indices,
    depth,
    largest,
    operands,
    returns,
    sram_elements,
)
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
    encode,
)

SHIFT = 15  # bits, either way; the HLS design reads five bits of a shift


def encoding(instruction: Instruction, config: Config) -> Iterator[str]:
    """What does not fit its field."""
    try:
        encode([instruction], config)
    except UsageError as error:
        yield str(error).partition(":")[0]


def rules(
    instruction: Instruction, loaded: Indices | None, config: Config, blocks: Mapping[str, int]
) -> Iterator[str]:
    """What is wrong with an instruction that can be encoded. `loaded` are the micro-ops that it runs."""
    yield from _flags(instruction)
    if isinstance(instruction, Transfer):
        yield from _transfer(instruction, config, blocks)
    elif isinstance(instruction, Gemm | Alu):
        yield from _range(instruction, config)
        if loaded is None:
            yield "it runs micro-ops that are not loaded"
        elif instruction.cycles > 0:
            yield from _products(instruction, loaded, config)


def _flags(instruction: Instruction) -> Iterator[str]:
    tokens, stage = instruction.tokens, instruction.stage
    if isinstance(instruction, Finish) and tokens != Tokens():
        yield "FINISH takes no tokens: let a no-op wait for the other stages"
    if stage is Stage.LOAD and (tokens.pop_prev or tokens.push_prev):
        yield "no stage is before LOAD"
    if stage is Stage.STORE and (tokens.pop_next or tokens.push_next):
        yield "no stage is after STORE"


def _transfer(transfer: Transfer, config: Config, blocks: Mapping[str, int]) -> Iterator[str]:
    memory, last = transfer.memory, transfer.sram + sram_elements(transfer)
    name = memory.name
    if (transfer.rows == 0) != (transfer.columns == 0):
        yield "a no-op has neither rows nor columns"
    if any(transfer.pad) and (memory not in (Memory.INP, Memory.ACC) or transfer.is_idle):
        yield f"{'a no-op' if transfer.is_idle else name} has no padding"
    if memory is Memory.UOP and transfer.rows > 1:
        yield "micro-ops are loaded as one row"
    if last > depth(memory, config):
        yield f"it ends at element {last} of {name}, which has {depth(memory, config)}"
    end = 0 if transfer.is_idle else transfer.dram + (transfer.rows - 1) * transfer.stride + transfer.columns
    size = blocks.get(name.lower(), end)
    if end > size:
        yield f"it ends at block {end} of the buffer for {name}, which has {size}"


def _range(instruction: Gemm | Alu, config: Config) -> Iterator[str]:
    begin, end = instruction.uops
    if end > depth(Memory.UOP, config):
        yield f"it ends at micro-op {end} of {depth(Memory.UOP, config)}"
    if begin >= end or 0 in instruction.loops:
        yield "it runs no micro-op"
    if not isinstance(instruction, Alu) or instruction.immediate is None:
        return
    if instruction.dst != instruction.src:
        yield "with an immediate, the factors of src must be those of dst"
    if instruction.op is AluOp.SHR and abs(instruction.immediate) > SHIFT:
        yield f"a shift is by {SHIFT} bits at most, either way"


def _products(instruction: Gemm | Alu, loaded: Indices, config: Config) -> Iterator[str]:
    is_inside = True
    for memory, row, factors in operands(instruction):
        last = largest(loaded[row], instruction.loops, factors)
        if last >= depth(memory, config):
            is_inside = False
            yield f"it reaches element {last} of {memory.name}, which has {depth(memory, config)}"
    immediate = isinstance(instruction, Alu) and instruction.immediate is not None
    if immediate and not np.array_equal(loaded[0], loaded[1]):
        yield "with an immediate, src must be dst in each micro-op"
    if not is_inside:
        return
    src = loaded[1] if isinstance(instruction, Alu) and not immediate else None
    distance = returns(loaded[0], instruction.loops, instruction.dst, src, instruction.src)
    if distance is not None:
        yield f"an accumulator returns after {distance} micro-ops, {DISTANCE} at least"
