"""The simulator computes what the second interpreter computes, and refuses what no VTA could run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa import config
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
    Uop,
    encode,
    encode_uops,
)
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator
from tests.targets.vta.interpreter import Interpreter

CONFIGS = ("pynq", "pynq-4x8")
DATA = 1 << 20  # bytes that instructions load from and store to
MEMORIES = (Memory.INP, Memory.WGT, Memory.ACC, Memory.UOP, Memory.OUT)


def run(device: Simulator, instructions: Sequence[Instruction]) -> None:
    words = encode(instructions, device.config)
    address = device.allocate(words.nbytes)
    device.write(address, words.reshape(-1).view(np.uint8))
    device.start(address, len(words))
    assert device.is_done()


def element(memory: Memory, vta: Config) -> int:
    sizes = {Memory.INP: vta.inp_bytes, Memory.WGT: vta.wgt_bytes, Memory.ACC: vta.acc_bytes}
    return sizes.get(memory, 4 if memory is Memory.UOP else vta.out_bytes)


def depth(memory: Memory, vta: Config) -> int:
    logs = {Memory.INP: vta.log_inps, Memory.WGT: vta.log_wgts, Memory.UOP: vta.log_uops}
    return 1 << logs.get(memory, vta.log_accs)


class Programs:
    """Random instructions whose indices stay inside; all data lies from PAGE on, micro-ops first."""

    uops = 64

    def __init__(self, vta: Config, seed: int) -> None:
        self.vta, self.random = vta, np.random.default_rng(seed)

    def below(self, limit: int) -> int:
        return int(self.random.integers(max(limit, 1)))

    def memory(self) -> NDArray[np.uint8]:
        """DRAM after its first page: micro-ops that name the lower half of each scratchpad, then bytes."""
        memory = self.random.integers(0, 256, DATA, np.uint8)
        depths = [depth(m, self.vta) // 2 for m in (Memory.ACC, Memory.INP, Memory.WGT)]
        uops = [Uop(*map(self.below, depths)) for _ in range(self.uops)]
        memory[: 4 * self.uops] = encode_uops(uops, self.vta).view(np.uint8)
        return memory

    def transfer(self, memory: Memory) -> Transfer:
        size = element(memory, self.vta)
        padded = memory in (Memory.INP, Memory.ACC)
        pad = tuple(self.below(4) for _ in range(4)) if padded else (0, 0, 0, 0)
        columns = self.below(12)
        rows = self.below(5) if memory is not Memory.UOP else 1
        area = (rows + pad[0] + pad[1]) * (columns + pad[2] + pad[3])
        if memory is Memory.UOP:
            columns, area = self.uops, self.uops
        stride = self.below(20)
        first = PAGE // size
        last = (PAGE + DATA // (2 if memory is Memory.OUT else 1)) // size - rows * stride - columns
        dram = first if memory is Memory.UOP else first + self.below(last - first)
        if memory is Memory.OUT:
            dram += DATA // 2 // size
        used = 2 * self.uops if memory is Memory.UOP else 0
        sram = used + self.below(depth(memory, self.vta) - area - used)
        return Transfer(memory, sram, dram, rows, columns, stride, (pad[0], pad[1], pad[2], pad[3]))

    def loops(self, *memories: Memory) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """Loop counts, and factors that keep the indices into each memory inside."""
        loops = 1 + self.below(5), 1 + self.below(5)
        most = [depth(m, self.vta) // 2 // 8 for m in memories]
        return loops, [(self.below(m // 2), self.below(m // 2)) for m in most]

    def gemm(self) -> Gemm:
        begin = self.below(self.uops)
        loops, (dst, src, wgt) = self.loops(Memory.ACC, Memory.INP, Memory.WGT)
        uops = begin, begin + self.below(self.uops - begin + 1)
        return Gemm(uops, loops, dst, src, wgt, reset=self.below(4) == 0)

    def alu(self, op: AluOp | None = None, immediate: bool | None = None) -> Alu:
        begin = self.below(self.uops - 8)
        loops, (dst, src) = self.loops(Memory.ACC, Memory.ACC)
        op = AluOp(self.below(4)) if op is None else op
        immediate = self.below(2) == 1 if immediate is None else immediate
        value = self.below(1 << 16) - (1 << 15) if immediate else None
        return Alu(op, (begin, begin + self.below(9)), loops, dst, src, value)

    def instruction(self, kind: int) -> Instruction:
        if kind < len(MEMORIES):
            return self.transfer(MEMORIES[kind])
        return self.gemm() if kind % 2 else self.alu()


def in_turn(instructions: Sequence[Instruction]) -> list[Instruction]:
    """One after the other, whatever their stages: where the stage changes, a token hands over."""
    result: list[Instruction] = []
    idle = {
        Stage.LOAD: Transfer(Memory.INP),
        Stage.COMPUTE: Transfer(Memory.UOP),
        Stage.STORE: Transfer(Memory.OUT),
    }
    path: list[Instruction] = []
    for instruction in [*instructions, Finish()]:
        path.append(instruction)
        if len(path) > 1 and abs(path[-1].stage - path[-2].stage) == 2:
            path.insert(-1, idle[Stage.COMPUTE])
    for i, instruction in enumerate(path):
        before = path[i - 1].stage - instruction.stage if i else 0
        after = path[i + 1].stage - instruction.stage if i + 1 < len(path) else 0
        tokens = Tokens(before == -1, before == 1, after == -1, after == 1)
        result.append(replace(instruction, tokens=tokens))
    return result


def as_interpreted(device: Simulator) -> dict[int, NDArray[np.generic]]:
    """The simulator's scratchpads as the second interpreter keeps them."""
    pads, (batch, block) = device.scratchpads, (device.config.batch, device.config.block)
    return {
        Memory.UOP: pads["uop"].view(np.uint32),
        Memory.INP: pads["inp"].reshape(-1, batch, block).astype(np.int8),
        Memory.WGT: pads["wgt"].reshape(-1, block, block).swapaxes(1, 2).astype(np.int8),
        Memory.ACC: pads["acc"].reshape(-1, batch, block),
        Memory.OUT: pads["out"].reshape(-1, batch, block),
    }


def check(vta: Config, seed: int, instructions: Sequence[Instruction]) -> None:
    """Both, from the same garbage and micro-ops, end with the same memory and the same scratchpads."""
    programs = Programs(vta, seed)
    memory = programs.memory()
    dram = np.concatenate([np.zeros(PAGE, np.uint8), memory])
    device = Simulator(vta, compiled(vta), 4 << 20)
    assert device.allocate(DATA) == PAGE
    device.write(PAGE, memory)
    second = Interpreter(vta, dram, seed=seed)
    second.memories[Memory.UOP][: 2 * Programs.uops] = np.tile(memory[: 4 * Programs.uops].view(np.uint32), 2)
    device.scratchpads["uop"][:] = second.memories[Memory.UOP].view(np.int32)
    device.scratchpads["inp"][:] = second.memories[Memory.INP].reshape(-1)
    device.scratchpads["wgt"][:] = second.memories[Memory.WGT].swapaxes(1, 2).reshape(-1)
    device.scratchpads["acc"][:] = second.memories[Memory.ACC].reshape(-1)
    device.scratchpads["out"][:] = second.memories[Memory.OUT].reshape(-1)
    stream = in_turn(instructions)
    run(device, stream)
    second.run(encode(stream, vta))
    np.testing.assert_array_equal(device.read(PAGE, DATA), dram[PAGE:])
    for name, content in as_interpreted(device).items():
        np.testing.assert_array_equal(content, second.memories[name], str(Memory(name)))


Draw = Callable[[Programs], Instruction]
SINGLES: list[tuple[str, Draw]] = [
    *((f"move {m.name}", lambda p, m=m: p.transfer(m)) for m in MEMORIES),
    ("gemm", lambda p: p.gemm()),
    *(
        (f"{op.name} {'imm' if imm else 'acc'}", lambda p, op=op, imm=imm: p.alu(op, imm))
        for op, imm in product(AluOp, (False, True))
    ),
]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("draw", [d for _, d in SINGLES], ids=[what for what, _ in SINGLES])
def test_single_instructions(name: str, draw: Draw) -> None:
    vta = config.named(name)
    for seed in range(15):
        check(vta, seed, [draw(Programs(vta, 1000 + seed))])


@pytest.mark.parametrize("name", CONFIGS)
def test_programs(name: str) -> None:
    vta = config.named(name)
    for seed in range(100):
        programs = Programs(vta, 5000 + seed)
        check(vta, seed, [programs.instruction(programs.below(9)) for _ in range(10)])
