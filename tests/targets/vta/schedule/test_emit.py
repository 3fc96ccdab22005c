"""Boxes move in long rows; tokens are where two stages touch the same slot, and only there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.instructions import Gemm, Memory, Stage, Tokens, Transfer
from e2compile.targets.vta.schedule.emit import Box, Emitter, Scratchpad
from e2compile.targets.vta.schedule.nest import Axis, Nest

PYNQ = config.named("pynq")


@given(data=st.data())
def test_transfers_pack_a_box_in_order(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    extent = [data.draw(st.integers(1, size - first)) for size, first in zip(shape, begin, strict=True)]
    array = np.arange(np.prod(shape)).reshape(shape)
    part = array[tuple(slice(b, b + e) for b, e in zip(begin, extent, strict=True))]
    moved = [
        transfer.dram + row * transfer.stride + column
        for transfer in Box(tuple(shape), tuple(begin), tuple(extent)).transfers(Memory.INP, 0)
        for row in range(transfer.rows)
        for column in range(transfer.columns)
    ]
    assert moved == part.reshape(-1).tolist()


def test_a_part_of_whole_rows_is_one_row_of_dma() -> None:
    (transfer,) = Box((3, 8, 10), (1, 2, 0), (1, 4, 10)).transfers(Memory.INP, 5)
    assert transfer == Transfer(Memory.INP, 5, 100, 1, 40, 40)


def test_what_is_there_is_not_loaded_again() -> None:
    emitter = Emitter(PYNQ)
    pad = Scratchpad(emitter, Memory.INP, 4, 2)
    one, two, three = (Box((9,), (i,), (3,)) for i in range(3))
    slots = [pad.load(box) for box in (one, two, one, three, one, two)]
    assert [slot.base for slot in slots] == [0, 4, 0, 4, 0, 4]
    loads = emitter.finish({}).instructions[:-2]
    assert [load.dram for load in loads if isinstance(load, Transfer)] == [0, 1, 2, 1]


def test_a_load_waits_for_the_products_that_read_its_slot() -> None:
    emitter = Emitter(PYNQ)
    inps = Scratchpad(emitter, Memory.INP, 4, 1)
    (acc,) = emitter.slots(Memory.ACC, 4, 1)
    for i in range(2):
        inp = inps.load(Box((9,), (i,), (4,)))
        emitter.multiply(Nest((Axis(4, dst=1, src=1),), ((0, 0, 0),), 4), acc, [inp], [])
    instructions = emitter.finish({}).instructions
    loads = [i.tokens for i in instructions if i.stage is Stage.LOAD]
    products = [i.tokens for i in instructions if isinstance(i, Gemm)]
    assert loads == [Tokens(push_next=True), Tokens(pop_next=True, push_next=True)]
    assert products == [Tokens(pop_prev=True, push_prev=True), Tokens(pop_prev=True)]


def test_slots_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="2 x 1025 elements of INP, which has 2048"):
        Scratchpad(Emitter(PYNQ), Memory.INP, 1025, 2)
