"""What no VTA could run, or not twice alike, is a DeviceError that says where."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from e2compile.errors import DeviceError
from e2compile.targets.vta.analysis.order import QUEUE
from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.instructions import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Memory,
    Tokens,
    Transfer,
    encode,
)
from e2compile.targets.vta.simulator.execution import LOAD_FIRST, STORE_FIRST, execution_order
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator

PYNQ = config.named("pynq")
UOPS = Transfer(Memory.UOP, 0, PAGE // 4, 1, 1, 1)
INPUT = Transfer(Memory.INP, 0, PAGE // 16, 1, 4, 4)
WEIGHT = Transfer(Memory.WGT, 0, PAGE // 256, 1, 1, 1, tokens=Tokens(push_next=True))
CLEAR = Gemm((0, 1), (1, 4), (0, 1), (0, 1), reset=True)
PRODUCT = Gemm((0, 1), (1, 4), (0, 1), (0, 1), tokens=Tokens(pop_prev=True, push_next=True))
RESULT = Transfer(Memory.OUT, 0, PAGE // 16 + 64, 1, 4, 4, tokens=Tokens(pop_prev=True, push_prev=True))
END = Finish(Tokens(pop_next=True))
STREAM: list[Instruction] = [UOPS, CLEAR, INPUT, WEIGHT, PRODUCT, RESULT, END]


def run(stream: Sequence[Instruction], strict: bool = True) -> Simulator:
    device = Simulator(PYNQ, compiled(PYNQ), 1 << 20, strict)
    data = device.allocate(PAGE)
    device.write(data, np.zeros(4, np.uint8))
    words = encode(stream, PYNQ)
    address = device.allocate(words.nbytes)
    device.write(address, words.reshape(-1).view(np.uint8))
    device.start(address, len(words))
    return device


def test_a_stream_runs_and_is_counted() -> None:
    device = run(STREAM)
    assert device.is_done()
    assert device.instructions == len(STREAM)


def test_orders_differ_where_tokens_let_them() -> None:
    words = encode(STREAM, PYNQ)
    assert execution_order(words).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert execution_order(words, LOAD_FIRST).tolist() == [2, 3, 0, 1, 4, 5, 6]
    assert execution_order(words, STORE_FIRST).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_later_instruction_may_have_to_run_first() -> None:
    waits = replace(UOPS, tokens=Tokens(pop_prev=True))
    assert execution_order(encode([waits, WEIGHT, Finish()], PYNQ)).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([UOPS], "no FINISH"),
        ([UOPS, Finish(), CLEAR], "instruction 2 can run after FINISH"),
        ([Finish(), Finish()], "has 2 FINISH"),
        ([WEIGHT, Finish()], "load to compute are left over"),
        ([replace(UOPS, tokens=Tokens(pop_next=True)), Finish()], "instruction 0 for store to compute"),
        ([Transfer(Memory.INP, tokens=Tokens(pop_prev=True)), Finish()], "a stage that does not exist"),
        ([Transfer(Memory.OUT, tokens=Tokens(push_next=True)), Finish()], "a stage that does not exist"),
    ],
)
def test_tokens_and_finish(stream: Sequence[Instruction], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        run(stream)


def test_a_full_queue_stops_the_fetch_unit() -> None:
    """The token that 513 instructions wait for is behind them."""
    waiting = [replace(UOPS, tokens=Tokens(pop_prev=True)), *[UOPS] * (QUEUE - 1)]
    assert len(execution_order(encode([*waiting[:-1], WEIGHT, Finish()], PYNQ))) == QUEUE + 1
    with pytest.raises(
        DeviceError, match="instruction 0 for load to compute, with 2 more behind a full queue"
    ):
        execution_order(encode([*waiting, UOPS, WEIGHT, Finish()][:-1], PYNQ))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Transfer(Memory.INP, 2045, PAGE // 16, 1, 4, 4), "instruction 1 leaves the INP scratchpad"),
        (Transfer(Memory.INP, 2040, PAGE // 16, 1, 4, 4, (2, 0, 0, 0)), "leaves the INP scratchpad"),
        (Transfer(Memory.WGT, 1024, PAGE // 256, 1, 1, 1), "leaves the WGT scratchpad"),
        (Transfer(Memory.ACC, 2047, PAGE // 64, 2, 1, 1), "leaves the ACC scratchpad"),
        (Transfer(Memory.UOP, 8191, PAGE // 4, 1, 2, 1), "leaves the UOP scratchpad"),
        (Transfer(Memory.OUT, 2047, PAGE // 16, 1, 2, 2), "leaves the ACC scratchpad"),
        (Transfer(Memory.INP, 0, 0, 1, 4, 4), "leaves the memory that was allocated"),
        (Transfer(Memory.INP, 0, 3 * PAGE // 16 - 1, 1, 2, 2), "leaves the memory that was allocated"),
        (Transfer(Memory.OUT, 0, (1 << 32) - 1, 1, 1, 1), "leaves the memory that was allocated"),
        (Transfer(Memory.INP, 0, PAGE // 16, 65535, 1, 65535), "leaves the INP scratchpad"),
        (Gemm((0, 1), (2, 1024), (1024, 1), (0, 0), (1, 0)), None),
        (Gemm((0, 1), (2, 1024), (1025, 1)), "leaves the ACC scratchpad"),
        (Gemm((0, 1), (2, 1024), src=(1025, 1)), "leaves the INP scratchpad"),
        (Gemm((0, 1), (16383, 16383), wgt=(1023, 1023)), "leaves the WGT scratchpad"),
        (Gemm((8191, 8193)), "leaves the UOP scratchpad"),
        (Alu(AluOp.ADD, (0, 1), (2, 1024), (0, 0), (1025, 1)), "leaves the ACC scratchpad"),
    ],
)
def test_nothing_leaves_its_memory(bad: Instruction, message: str | None) -> None:
    with nullcontext() if message is None else pytest.raises(DeviceError, match=message):
        run([UOPS, bad, Finish()], strict=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((7, 0), "instruction 0 has an opcode that is none"),
        ((4 << 7 | 0, 0), "moves data from or to a memory that it cannot"),
        ((2 << 7 | 1, 0), "moves data from or to a memory that it cannot"),
        ((4, 4 << 44), "has an ALU operation that is not on all VTAs"),
    ],
)
def test_words_that_are_no_instruction(words: tuple[int, int], message: str) -> None:
    device = Simulator(PYNQ, compiled(PYNQ), 1 << 20)
    stream = np.concatenate([np.array([words], np.uint64), encode([Finish()], PYNQ)])
    address = device.allocate(stream.nbytes)
    device.write(address, stream.reshape(-1).view(np.uint8))
    with pytest.raises(DeviceError, match=message):
        device.start(address, len(stream))


@pytest.mark.parametrize("position", [1, 2, 3])
def test_what_a_scratchpad_held_before_must_not_matter(position: int) -> None:
    """Without the reset, the input or the weights."""
    idle = replace(STREAM[position], reset=False) if position == 1 else replace(STREAM[position], columns=0)
    with pytest.raises(DeviceError, match="depend on which stage runs first"):
        run([*STREAM[:position], idle, *STREAM[position + 1 :]])


def test_a_missing_token_is_noticed() -> None:
    """The second input overwrites the first, which the product may still need."""
    second = replace(INPUT, dram=PAGE // 16 + 16, tokens=Tokens(push_next=True))
    end = Finish(Tokens(pop_prev=True, pop_next=True))
    with pytest.raises(DeviceError, match="depend on which stage runs first"):
        run([*STREAM[:5], second, *STREAM[5:-1], end])


def test_memory_ends() -> None:
    device = Simulator(PYNQ, compiled(PYNQ), 1 << 20)
    with pytest.raises(DeviceError, match="has 1 MiB of memory"):
        device.allocate(1 << 20)
    address = device.allocate(1)
    assert device.allocate(1) == address + PAGE
    for outside in (0, address + 2 * PAGE):
        with pytest.raises(DeviceError, match="outside what was allocated"):
            device.read(outside, 1)
