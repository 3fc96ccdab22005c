"""A stream: the instructions of one run, its micro-ops, and the buffers whose addresses it leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Instruction, Memory, Uop, Words, encode, placed

# The buffers of a stream; `uop` holds its micro-ops.
INP, WGT, ACC, OUT, UOP = "inp", "wgt", "acc", "out", "uop"
_MEMORY = {INP: Memory.INP, WGT: Memory.WGT, ACC: Memory.ACC, OUT: Memory.OUT, UOP: Memory.UOP}


@dataclass(frozen=True)
class Stream:
    """`instructions` ends in FINISH. The DRAM address of each transfer counts elements from the start of the
    buffer of its memory's name; `blocks` is each buffer's size in elements."""

    instructions: tuple[Instruction, ...]
    uops: tuple[Uop, ...]
    blocks: Mapping[str, int]

    def placed(self, config: Config, addresses: Mapping[str, int]) -> Words:
        """The instructions as words, with each buffer at its byte address, a multiple of its element."""
        return placed(encode(self.instructions, config), bases(config, addresses))

    def bytes(self, name: str, config: Config) -> int:
        """The size of a buffer."""
        return self.blocks[name] * element_bytes(name, config)


def element_bytes(name: str, config: Config) -> int:
    sizes = {
        INP: config.inp_bytes,
        WGT: config.wgt_bytes,
        ACC: config.acc_bytes,
        OUT: config.out_bytes,
        UOP: np.dtype("<u4").itemsize,
    }
    return sizes[name]


def bases(config: Config, addresses: Mapping[str, int]) -> dict[Memory, int]:
    """Byte addresses of buffers as their memories count them, in elements."""
    return {_MEMORY[name]: address // element_bytes(name, config) for name, address in addresses.items()}
