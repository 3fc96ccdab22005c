"""Configurations, instructions and micro-ops of all values that their fields hold."""

from dataclasses import replace

from hypothesis import strategies as st

from e2compile.targets.vta.isa.config import Config, named, names
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
)

# Every field of another width than the shipped configurations': lu = 11, li = 10, lw = 9, la = 8.
ODD = replace(
    named("pynq"), log_uop_buff_size=13, log_inp_buff_size=14, log_wgt_buff_size=17, log_acc_buff_size=14
)
CONFIGS = {name: named(name) for name in names()} | {"odd": ODD}

tokens = st.builds(Tokens, *[st.booleans()] * 4)


def _bits(width: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << width) - 1)


def _pair(width: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(_bits(width), _bits(width))


def instructions(config: Config) -> st.SearchStrategy[Instruction]:
    lu, li, lw, la = config.uop_bits, config.log_inps, config.log_wgts, config.log_accs
    uops, loops = st.tuples(_bits(lu), _bits(lu + 1)), _pair(14)
    size, pads = _bits(16), st.tuples(*[_bits(4)] * 4)
    memories = st.sampled_from(list(Memory))
    transfers = st.builds(Transfer, memories, size, _bits(32), size, size, size, pads, tokens)
    gemms = st.builds(Gemm, uops, loops, _pair(la), _pair(li), _pair(lw), st.booleans(), tokens)
    immediates = st.none() | st.integers(-(1 << 15), (1 << 15) - 1)
    alus = st.builds(Alu, st.sampled_from(list(AluOp)), uops, loops, _pair(la), _pair(la), immediates, tokens)
    return transfers | gemms | alus | st.builds(Finish, tokens)


def uops(config: Config) -> st.SearchStrategy[Uop]:
    src = max(config.log_inps, config.log_accs)
    return st.builds(Uop, _bits(config.log_accs), _bits(src), _bits(config.log_wgts))
