"""Encodings: words worked out by hand from the published tables of fields, and round trips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.isa.config import Config, named
from e2compile.targets.vta.isa.instructions import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Memory,
    Tokens,
    Transfer,
    Uop,
    alu_fields,
    decode,
    decode_uops,
    encode,
    encode_uops,
    gemm_fields,
    placed,
    transfer_fields,
    uop_fields,
)
from tests.targets.vta.strategies import CONFIGS, ODD, instructions, uops

PYNQ = named("pynq")

LOAD = Transfer(Memory.INP, 5, 0x1234, 2, 3, 7, (1, 2, 3, 4), Tokens(pop_next=True, push_next=True))
STORE = Transfer(Memory.OUT, 2047, 1, 1, 16, 16, tokens=Tokens(pop_prev=True, push_prev=True))
GEMM = Gemm((1, 5), (14, 7), (14, 1), (16, 2), (3, 1), tokens=Tokens(pop_prev=True, push_next=True))
SHIFT = Alu(AluOp.SHR, (0, 4), dst=(1, 2), src=(1, 2), immediate=-4, tokens=Tokens(push_next=True))

HAND: list[tuple[Config, Instruction, int, int]] = [
    (PYNQ, LOAD, 0x48D0001550, 0x4321000700030002),
    (ODD, LOAD, 0x48D0001550, 0x4321000700030002),
    (PYNQ, STORE, 0x41FFE29, 0x1000100001),
    (PYNQ, GEMM, 0x000E007000A0014A, 0x004030040400080E),
    # lu = 11, la = 8, li = 10, lw = 9: loops at 31 and 45; factors at 0, 8, 16, 26, 36, 45
    (ODD, GEMM, 0x0000E0070028014A, 0x000020300810010E),
    (PYNQ, Gemm((0, 1), reset=True), 0x0002000800200082, 0),
    (PYNQ, SHIFT, 0x0002000800800044, 0xFFFCB00400401001),
    # the operation at 32, the immediate's flag at 35, the immediate at 36
    (ODD, SHIFT, 0x0000200080200044, 0x000FFFCB02010201),
    (PYNQ, Alu(AluOp.MAX, (0, 1), src=(0, 3)), 0x0002000800200004, 0x0000100600000000),
    (PYNQ, Finish(), 3, 0),
]


@pytest.mark.parametrize(("config", "instruction", "low", "high"), HAND)
def test_words_are_those_worked_out_by_hand(
    config: Config, instruction: Instruction, low: int, high: int
) -> None:
    words = encode([instruction], config)
    assert [hex(word) for word in words[0]] == [hex(low), hex(high)]
    assert decode(words, config) == [instruction]


def test_micro_ops_are_those_worked_out_by_hand() -> None:
    assert encode_uops([Uop(5, 9, 3)], PYNQ).tolist() == [0xC04805]
    assert encode_uops([Uop(5, 9, 3)], ODD).tolist() == [0xC0905]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_encoded_is_decoded(name: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(instructions(CONFIGS[name]), max_size=4), st.lists(uops(CONFIGS[name]), max_size=4))
    def check(program: list[Instruction], micro_ops: list[Uop]) -> None:
        assert decode(encode(program, CONFIGS[name]), CONFIGS[name]) == program
        assert decode_uops(encode_uops(micro_ops, CONFIGS[name]), CONFIGS[name]) == micro_ops

    check()


@pytest.mark.parametrize("name", CONFIGS)
def test_fields_neither_overlap_nor_leave_their_word(name: str) -> None:
    config = CONFIGS[name]
    for table in (transfer_fields(), gemm_fields(config), alu_fields(config)):
        for word in (0, 1):
            used = [b for f in table if f.word == word for b in range(f.shift, f.shift + f.width)]
            assert len(used) == len(set(used))
            assert max(used) < 64
    bits = [b for f in uop_fields(config) for b in range(f.shift, f.shift + f.width)]
    assert sorted(bits) == list(range(len(bits)))
    assert len(bits) <= 32


@pytest.mark.parametrize(
    "instruction",
    [
        Gemm((0, 1), loops=(1 << 14, 1)),
        Gemm((0, 1), dst=(2048, 0)),
        Alu(AluOp.ADD, (0, 1), immediate=1 << 15),
        Alu(AluOp.ADD, (0, 1), immediate=-(1 << 15) - 1),
        Transfer(Memory.INP, pad=(16, 0, 0, 0)),
        Transfer(Memory.INP, dram=-1),
    ],
)
def test_what_does_not_fit_is_refused(instruction: Instruction) -> None:
    with pytest.raises(UsageError, match="does not fit"):
        encode([instruction], PYNQ)


def test_a_micro_op_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="wgt = 1024 does not fit 10 bits"):
        encode_uops([Uop(0, 0, 1024)], PYNQ)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (5, 0, "opcode 5"),
        (4 << 7, 0, "LOAD does not go with memory 4"),
        (1 | 2 << 7, 0, "STORE does not go with memory 2"),
        (4, 4 << 44, "ALU operation 4"),
    ],
)
def test_words_that_are_no_instruction_are_refused(low: int, high: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        decode(np.array([[low, high]], np.uint64), PYNQ)


def test_an_encoded_transfer_can_be_moved() -> None:
    words = placed(encode([LOAD], PYNQ), {LOAD.memory: 0x1000})
    moved = decode(words, PYNQ)[0]
    assert isinstance(moved, Transfer)
    assert moved.dram == 0x2234
