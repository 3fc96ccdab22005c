"""Cycles: counted by hand from the published figures, and two layers as the generated RTL ran them."""

import pytest

from e2compile.targets.vta.analysis.order import QUEUE
from e2compile.targets.vta.analysis.timing import LATENCIES, START, cycles, timing
from e2compile.targets.vta.isa.config import BOARDS, named
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
)
from e2compile.targets.vta.isa.text import assemble

PYNQ = named("pynq")
L = LATENCIES["pynq"].cycles

# Of one instruction, on a Pynq with 1x16 and with 4x8, whose elements of INP, WGT, ACC, OUT have 32, 64, 128
# and 32 bytes.
COUNTED = {
    "gemm uops=0:10 loops=3,4": (21 + 120, 21 + 120),
    "reset uops=0:10": (21 + 10, 21 + 10),
    "add uops=0:10 loops=3,4": (21 + 240, 21 + 240),
    "shr uops=2:3 imm=1": (21 + 2, 21 + 2),
    "load inp rows=1 columns=4": (10 + 8 + L + 18, 10 + 16 + L + 18),
    "load inp rows=2 columns=4 pad=1,1,1,1": (10 + 2 * (8 + L + 18) + 16, 10 + 2 * (16 + L + 18) + 16),
    "load wgt rows=1 columns=9": (6 + 9 * 64 + L + 14, 6 + 9 * 16 + L + 14),
    "load wgt rows=3 columns=1": (6 + 3 * (64 + L + 14), 6 + 3 * (16 + L + 14)),
    "load acc rows=1 columns=4": (32 + L + 30, 64 + L + 30),
    "load uop rows=1 columns=7": (7 + L + 17, 7 + L + 17),
    "store rows=2 columns=4": (4 + 2 * (8 + L + 13), 4 + 2 * (16 + L + 13)),
    "load inp pop=next": (14, 14),
    "store": (14, 14),
    "finish": (14, 14),
}


@pytest.mark.parametrize("text", COUNTED)
def test_an_instruction_takes_what_is_counted_by_hand(text: str) -> None:
    instruction = assemble(text)[0]
    counted = tuple(cycles(instruction, named(name), L) for name in ("pynq", "pynq-4x8"))
    assert counted == COUNTED[text]


def test_a_wider_port_moves_more_each_cycle() -> None:
    load = assemble("load wgt rows=1 columns=9")[0]
    assert cycles(load, named("ultra96"), L) == 6 + 9 * 32 + L + 14


def test_a_run_of_nothing_takes_as_long_as_on_the_rtl() -> None:
    found = timing([Finish()], PYNQ)
    assert (found.total, found.bound) == (106, 0)
    assert found.seconds(PYNQ) == 106 / 100e6


def test_stages_wait_for_tokens_only() -> None:
    text = """
    load uop rows=1 columns=10
    load inp rows=1 columns=4 push=next
    gemm uops=0:10 pop=prev push=next
    store rows=1 columns=4 pop=prev push=prev
    load inp rows=1 columns=4
    load uop pop=next
    finish
    """
    found = timing(assemble(text), PYNQ)
    uop, load, gemm, store = 10 + L + 17, 10 + 8 + L + 18, 21 + 10, 4 + 8 + L + 13
    fetched = [START + 2 * i for i in range(7)]  # an instruction is two beats
    assert found.starts[0] == START
    assert found.starts[1] == fetched[1]
    assert found.starts[2] == max(START + uop, fetched[1] + load)
    assert found.starts[3] == found.starts[2] + gemm
    assert found.starts[4] == fetched[1] + load
    assert found.starts[5] == found.starts[3] + store
    assert found.total == found.starts[5] + 14 + 14
    assert found.busy == {Stage.LOAD: 2 * load, Stage.COMPUTE: uop + gemm + 28, Stage.STORE: store}
    assert (found.gemm, found.alu, found.bound) == (gemm, 0, gemm)


def test_fetching_waits_for_a_full_queue() -> None:
    loads = assemble("load inp rows=1 columns=1") * (QUEUE + 100)
    found = timing([*loads, *assemble("reset\nfinish")], PYNQ)
    # After the last load has found room, when the one QUEUE before it started.
    assert found.starts[QUEUE + 100] == found.starts[99] + 2


def test_every_board_has_a_latency_and_says_whether_it_is_assumed() -> None:
    assert set(LATENCIES) == set(BOARDS)
    assert [board for board, latency in LATENCIES.items() if "assumed" not in latency.source] == ["pynq"]


def layer(size: int, inputs: int, outputs: int, tile: int) -> list[Instruction]:
    """A 3x3 convolution of a whole image by two virtual threads, as TVM v0.14 schedules it: `inputs` and
    `outputs` blocks of channels, `tile` of the latter for each thread at a time."""
    program: list[Instruction] = [Transfer(Memory.UOP, 0, 0, 1, 3 * tile * size, 1)]
    program += [Transfer(Memory.UOP, tokens=Tokens(push_prev=True))] * 2
    is_later = False
    for _ in range(0, outputs, 2 * tile):
        for _thread in range(2):
            wait = Tokens(pop_next=is_later)
            program.append(Gemm((0, tile * size), (size, 1), reset=True, tokens=wait))
        for _ in range(inputs):
            for _thread in range(2):
                inp = Transfer(Memory.INP, 0, 0, size, size, size, (1, 1, 1, 1), Tokens(pop_next=True))
                wgt = Transfer(Memory.WGT, 0, 0, tile, 9, 9, tokens=Tokens(push_next=True))
                both = Tokens(pop_prev=True, push_prev=True)
                program += [inp, wgt, Gemm((0, 3 * tile * size), (size, 3), tokens=both)]
        for _thread in range(2):
            program.append(Transfer(Memory.ACC, 0, 0, 1, tile, tile))
            for op in (AluOp.SHR, AluOp.ADD, AluOp.MIN, AluOp.MAX):
                last = Tokens(push_next=op is AluOp.MAX)
                program.append(Alu(op, (0, tile * size), (size, 1), immediate=1, tokens=last))
            back = Tokens(pop_prev=True, push_prev=True)
            program.append(Transfer(Memory.OUT, 0, 0, tile, size * size, size * size, tokens=back))
        is_later = True
    program += [Transfer(Memory.INP, tokens=Tokens(pop_next=True, push_next=True))] * 2
    program += [Transfer(Memory.UOP, tokens=Tokens(pop_prev=True, pop_next=True))] * 2
    return [*program, Finish()]


@pytest.mark.parametrize(
    ("arguments", "rtl"), [((14, 16, 16, 4), 481_886), ((7, 32, 32, 16), 753_000)], ids=["14x14", "7x7"]
)
def test_a_layer_takes_as_long_as_on_the_rtl(arguments: tuple[int, int, int, int], rtl: int) -> None:
    """The schedules' last details, such as where the bias is added, are not published: within 3 %."""
    found = timing(layer(*arguments), PYNQ)
    assert found.total == pytest.approx(rtl, rel=0.03)
