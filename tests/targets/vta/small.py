"""The smallest stream that does something, and the memory that it does it in."""

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.device.interface import PAGE, Device
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Finish, Gemm, Instruction, Memory, Tokens, Transfer, encode

ROWS = 4  # input blocks that are multiplied by one weight block


def stream(vta: Config, page: int = PAGE) -> list[Instruction]:
    """Of the page at an address: a micro-op, zero; a quarter on, inputs; then a weight; then the results."""
    inp, wgt, out = (PAGE // 4 * n for n in (1, 2, 3))
    return [
        Transfer(Memory.UOP, 0, page // 4, 1, 1, 1),
        Gemm((0, 1), (1, ROWS), (0, 1), (0, 1), reset=True),
        Transfer(Memory.INP, 0, (page + inp) // vta.inp_bytes, 1, ROWS, ROWS),
        Transfer(Memory.WGT, 0, (page + wgt) // vta.wgt_bytes, 1, 1, 1, tokens=Tokens(push_next=True)),
        Gemm((0, 1), (1, ROWS), (0, 1), (0, 1), tokens=Tokens(pop_prev=True, push_next=True)),
        Transfer(
            Memory.OUT, 0, (page + out) // vta.out_bytes, 1, ROWS, ROWS,
            tokens=Tokens(pop_prev=True, push_prev=True),
        ),
        Finish(Tokens(pop_next=True)),
    ]  # fmt: skip


def started(device: Device, seed: int = 0) -> tuple[int, NDArray[np.uint8]]:
    """Start it. Returns where the results will be, and what."""
    vta = device.config
    random = np.random.default_rng(seed)
    inp = random.integers(-128, 128, (ROWS, vta.batch, vta.block), np.int8)
    wgt = random.integers(-128, 128, (vta.block, vta.block), np.int8)
    page = device.allocate(PAGE)
    device.write(page, np.zeros(4, np.uint8))
    for quarter, operand in ((1, inp), (2, wgt)):
        device.write(page + quarter * PAGE // 4, operand.reshape(-1).view(np.uint8))
    words = encode(stream(vta, page), vta)
    address = device.allocate(words.nbytes)
    device.write(address, words.reshape(-1).view(np.uint8))
    device.start(address, len(words))
    out = (inp.astype(np.int64) @ wgt.T.astype(np.int64)).astype(np.int8)
    return page + 3 * PAGE // 4, out.reshape(-1).view(np.uint8)
