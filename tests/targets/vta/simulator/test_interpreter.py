"""The second interpreter: products against NumPy, and what it refuses."""

import numpy as np
import pytest

from e2compile.targets.vta.isa.config import named
from e2compile.targets.vta.isa.instructions import Uop, encode, encode_uops
from e2compile.targets.vta.isa.text import assemble
from tests.targets.vta.interpreter import ORDERS, Bytes, Interpreter, Order, Wrong

CONFIGS = ("pynq", "pynq-4x8")
INP, WGT, UOPS, OUT = 0x1000, 0x2000, 0x3000, 0x4000  # bytes


def ran(
    text: str, dram: Bytes, name: str = "pynq", hazards: bool = False, order: Order | None = None
) -> Bytes:
    """DRAM after a run; @inp, @wgt, @uop and @out are the buffers' addresses."""
    config = named(name)
    sizes = {"inp": (INP, config.inp_bytes), "wgt": (WGT, config.wgt_bytes), "uop": (UOPS, 4)}
    for buffer, (at, size) in (sizes | {"out": (OUT, config.out_bytes)}).items():
        text = text.replace(f"@{buffer}", str(at // size))
    words = encode(assemble(text), config)
    after = dram.copy()
    Interpreter(config, after, order or ORDERS["load first"], hazards=hazards).run(words)
    return after


def memory(name: str, uops: list[Uop]) -> Bytes:
    dram = np.random.default_rng(0).integers(0, 256, 0x6000, np.uint8)
    dram[UOPS : UOPS + 4 * len(uops)] = encode_uops(uops, named(name)).view(np.uint8)
    return dram


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_product_is_numpys(name: str, order: str) -> None:
    config = named(name)
    dram = memory(name, [Uop(0, 0, 0), Uop(1, 1, 0), Uop(2, 2, 0)])
    text = """
    load inp dram=@inp rows=1 columns=6
    load wgt dram=@wgt rows=1 columns=2 push=next
    load uop dram=@uop rows=1 columns=3
    reset uops=0:3
    gemm uops=0:3 loops=1,2 src=0,3 wgt=0,1 pop=prev
    shr uops=0:3 imm=7
    max uops=0:3 imm=-128
    min uops=0:3 imm=127 push=next
    store dram=@out rows=1 columns=3 pop=prev push=prev
    load uop pop=next
    finish
    """
    after = ran(text, dram, name, order=ORDERS[order])
    inp = dram[INP : INP + 6 * config.inp_bytes].view(np.int8).reshape(2, 3, config.batch, config.block)
    wgt = dram[WGT : WGT + 2 * config.wgt_bytes].view(np.int8).reshape(2, config.block, config.block)
    exact = np.einsum("kebi,koi->ebo", inp.astype(np.int64), wgt.astype(np.int64))
    expected = np.clip(exact >> 7, -128, 127).astype(np.int8).reshape(-1).view(np.uint8)
    assert np.array_equal(after[OUT : OUT + expected.size], expected)
    assert np.array_equal(after[OUT + expected.size :], dram[OUT + expected.size :])


@pytest.mark.parametrize(("distance", "is_lost"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_pipeline_loses_what_returns_too_soon(distance: int, is_lost: bool) -> None:
    dram = memory("pynq", [Uop(i, i) for i in range(distance)])
    text = f"""
    load uop dram=@uop rows=1 columns={distance}
    reset uops=0:{distance}
    add uops=0:{distance} loops=5,1 imm=1 push=next
    store dram=@out rows=1 columns={distance} pop=prev push=prev
    load uop pop=next
    finish
    """
    after = ran(text, dram, hazards=True)
    stored = after[OUT : OUT + 16 * distance]
    assert (stored == 5).all() == (not is_lost)
    assert (ran(text, dram)[OUT : OUT + 16 * distance] == 5).all()


def test_out_keeps_what_the_array_wrote_last() -> None:
    """Neither a reset nor a load of accumulators is stored: they do not write OUT."""
    for clearing in ("reset uops=0:1", "load acc rows=1 columns=1"):
        text = f"""
        load uop dram=@uop rows=1 columns=1
        reset uops=0:1
        add uops=0:1 imm=5
        {clearing} push=next
        store dram=@out rows=1 columns=1 pop=prev push=prev
        load uop pop=next
        finish
        """
        assert (ran(text, memory("pynq", [Uop(0, 0)]))[OUT : OUT + 16] == 5).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("load uop pop=prev\nfinish", "deadlock"),
        ("load inp push=next\nfinish", "tokens are left"),
        ("finish\nload uop", "run after FINISH"),
        ("load uop", "does not end in FINISH"),
        ("load inp push=prev\nfinish", "a stage that does not exist"),
        ("load uop pop=prev\n" + "load uop\n" * 512 + "load inp push=next\nfinish", "deadlock"),
        ("store pad=1,0,0,0\nfinish", "with pads"),
        ("load inp sram=2047 rows=1 columns=2\nfinish", "which has 2048"),
        ("load inp dram=9999999 rows=1 columns=2\nfinish", "past the DRAM's"),
        (
            "load uop dram=@uop rows=1 columns=1\nreset uops=0:1 loops=2,1 dst=2047,0\nfinish",
            "accumulator 2048",
        ),
    ],
)
def test_what_no_stream_may_do_is_refused(text: str, message: str) -> None:
    with pytest.raises(Wrong, match=message):
        ran(text, memory("pynq", [Uop(1, 0)]), order=ORDERS["store first"])
