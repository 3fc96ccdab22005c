"""Instructions as text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.isa.config import named
from e2compile.targets.vta.isa.instructions import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Memory,
    Tokens,
    Transfer,
)
from e2compile.targets.vta.isa.text import assemble, disassemble
from tests.targets.vta.strategies import instructions

PROGRAM = {
    "load inp dram=256 rows=14 columns=16 stride=30 pad=1,1,0,0 pop=next push=next": Transfer(
        Memory.INP, 0, 256, 14, 16, 30, (1, 1, 0, 0), Tokens(pop_next=True, push_next=True)
    ),
    "gemm uops=0:9 loops=14,14 dst=14,1 src=16,1 pop=prev push=prev": Gemm(
        (0, 9), (14, 14), (14, 1), (16, 1), tokens=Tokens(pop_prev=True, push_prev=True)
    ),
    "reset uops=0:9 wgt=1,2": Gemm((0, 9), wgt=(1, 2), reset=True),
    "shr uops=0:4 imm=-7": Alu(AluOp.SHR, (0, 4), immediate=-7),
    "min uops=0:4 imm=0": Alu(AluOp.MIN, (0, 4), immediate=0),
    "add uops=0:4": Alu(AluOp.ADD, (0, 4)),
    "store sram=7 rows=1 columns=2 stride=2 push=prev": Transfer(
        Memory.OUT, 7, 0, 1, 2, 2, tokens=Tokens(push_prev=True)
    ),
    "load uop pop=prev,next": Transfer(Memory.UOP, tokens=Tokens(pop_prev=True, pop_next=True)),
    "finish": Finish(),
}


def test_each_instruction_is_a_line() -> None:
    assert disassemble(PROGRAM.values()).splitlines() == list(PROGRAM)
    assert assemble("\n".join(PROGRAM)) == list(PROGRAM.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(instructions(named("pynq")), max_size=4))
def test_text_is_read_as_what_was_written(program: list[Instruction]) -> None:
    assert assemble(disassemble(program)) == program


def test_comments_and_empty_lines_are_nothing() -> None:
    assert assemble("# all\n\n  finish  # the end\n") == [Finish()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mul uops=0:1", "'mul' is none of load, store, gemm, reset, min, max, add, shr, finish"),
        ("load", "a load is of uop, wgt, inp, acc, not ''"),
        ("load out", "a load is of uop, wgt, inp, acc, not 'out'"),
        ("store wgt", "'wgt' is none of sram, dram, rows, columns, stride, pad, pop, push"),
        ("gemm uops=1,2", "uops=1,2 is not like uops=1:1"),
        ("gemm uops=0:1 uops=0:1", "uops is said twice"),
        ("gemm loops=1", "loops=1 is not like loops=1,1"),
        ("finish pop=up", "tokens go to prev or next, not 'up'"),
        ("add imm=1.5", "imm=1.5 is not like imm=1"),
        ("finish uops=1:2", "'uops' is none of pop, push"),
    ],
)
def test_what_is_no_instruction_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        assemble(f"finish\n{text}\n")
    assert str(raised.value) == f"line 2: {message}: {text}"
