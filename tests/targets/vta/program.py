"""Programs for a VTA as one would write them for a machine without stages; the tokens are put in here.

Which elements an instruction touches is found by counting them one by one, not by what the checker uses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.device.interface import Device
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
    encode_uops,
)
from e2compile.targets.vta.isa.stream import OUT, UOP, Stream, element_bytes

Bytes = NDArray[np.uint8]
Element = tuple[Memory, int]
Touches = tuple[set[Element], set[Element]]  # read, written


@dataclass(frozen=True)
class Case:
    """A stream, and what lies in its buffers, `out` included, before it runs."""

    name: str
    config: Config
    stream: Stream
    contents: Mapping[str, Bytes]


def run(device: Device, case: Case) -> Bytes:
    """What is in `out` after a run."""
    addresses = {name: device.allocate(content.size) for name, content in case.contents.items()}
    for name, content in case.contents.items():
        device.write(addresses[name], content)
    words = case.stream.placed(case.config, addresses)
    at = device.allocate(words.nbytes)
    device.write(at, words.reshape(-1).view(np.uint8))
    device.start(at, len(words))
    assert device.is_done()
    return device.read(addresses[OUT], case.contents[OUT].size)


_NONE = (0, 0, 0, 0)


class Program:
    """Instructions without tokens, as they would run one after the other."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.work: list[tuple[Instruction, Touches]] = []
        self.uops: list[Uop] = []
        self.contents: dict[str, list[NDArray[Any]]] = {}
        self.out_blocks = 0

    def add(self, instruction: Instruction, uops: Sequence[Uop] = ()) -> None:
        """`uops` are those that it runs."""
        self.work.append((instruction, touches(instruction, uops)))

    def place(self, memory: Memory, blocks: int) -> int:
        """The address of that many blocks of random bytes, new in the memory's buffer."""
        name = memory.name.lower()
        size = element_bytes(name, self.config)
        parts = self.contents.setdefault(name, [])
        at = sum(part.size for part in parts) // size
        parts.append(self.rng.integers(0, 256, blocks * size, np.uint8))
        return at

    def put(self, memory: Memory, data: NDArray[Any]) -> int:
        """Likewise of given data, whole blocks."""
        at = self.place(memory, data.nbytes // element_bytes(memory.name.lower(), self.config))
        self.contents[memory.name.lower()][-1][:] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        return at

    def load(
        self, memory: Memory, sram: int, columns: int, rows: int = 1, pad: tuple[int, int, int, int] = _NONE
    ) -> None:
        """Random elements, in rows that may lie apart."""
        stride = columns + int(self.rng.integers(3))
        at = self.place(memory, rows * stride)
        self.add(Transfer(memory, sram, at, rows, columns, stride, pad))

    def with_uops(self, uops: Sequence[Uop]) -> tuple[int, int]:
        """Where in the scratchpad they are loaded to."""
        begin = int(self.rng.integers((1 << self.config.log_uops) - len(uops) + 1))
        self.add(Transfer(Memory.UOP, begin, len(self.uops), 1, len(uops), len(uops)))
        self.uops += uops
        return begin, begin + len(uops)

    def compute(self, instruction: Gemm | Alu, uops: Sequence[Uop]) -> None:
        """Run it with these micro-ops, loaded for it."""
        self.add(replace(instruction, uops=self.with_uops(uops)), uops)

    def store(self, sram: int, rows: int, columns: int) -> None:
        """To new blocks, the rows up to two apart."""
        stride = columns + int(self.rng.integers(3))
        self.add(Transfer(Memory.OUT, sram, self.out_blocks, rows, columns, stride))
        self.out_blocks += rows * stride

    def dump(self, first: int, count: int) -> None:
        """Store whole accumulators, as four planes of bytes."""
        uops = [Uop(first + i, first + i) for i in range(count)]
        for plane in range(4):
            self.compute(Alu(AluOp.SHR, (0, 0), immediate=8 if plane else 0), uops)
            self.store(first, 1, count)

    def case(self, name: str, extra: float = 0.0) -> Case:
        """With tokens where they are needed, and with a chance of `extra` where they are not."""
        contents = {n: np.concatenate(parts) for n, parts in self.contents.items()}
        contents[UOP] = encode_uops(self.uops, self.config).view(np.uint8)
        contents[OUT] = self.rng.integers(
            0, 256, max(1, self.out_blocks) * element_bytes(OUT, self.config), np.uint8
        )
        blocks = {n: content.size // element_bytes(n, self.config) for n, content in contents.items()}
        stream = Stream(tuple(_with_tokens(self.work, self.rng, extra)), tuple(self.uops), blocks)
        return Case(name, self.config, stream, contents)


def touches(instruction: Instruction, uops: Sequence[Uop]) -> Touches:
    """OUT is ACC here: both are written together. A reset reads nothing."""
    if isinstance(instruction, Transfer):
        top, bottom, left, right = instruction.pad
        count = (top + instruction.rows + bottom) * (left + instruction.columns + right)
        elements = range(instruction.sram, instruction.sram + count)
        if instruction.memory is Memory.OUT:
            return {(Memory.ACC, i) for i in elements}, set()
        return set(), {(instruction.memory, i) for i in elements}
    read: set[Element] = set()
    written: set[Element] = set()
    if isinstance(instruction, Gemm | Alu):
        for d, s, w in steps(instruction, uops):
            written.add((Memory.ACC, d))
            if isinstance(instruction, Gemm) and not instruction.reset:
                read |= {(Memory.INP, s), (Memory.WGT, w)}
            elif isinstance(instruction, Alu):
                read.add((Memory.ACC, s))
    return read, written


def steps(instruction: Gemm | Alu, uops: Sequence[Uop]) -> Iterator[tuple[int, int, int]]:
    """(dst, src, wgt) of each micro-op that runs."""
    (d0, d1), (s0, s1) = instruction.dst, instruction.src
    w0, w1 = instruction.wgt if isinstance(instruction, Gemm) else (0, 0)
    for i in range(instruction.loops[0]):
        for j in range(instruction.loops[1]):
            for u in uops:
                yield u.dst + i * d0 + j * d1, u.src + i * s0 + j * s1, u.wgt + i * w0 + j * w1


def _with_tokens(
    work: Sequence[tuple[Instruction, Touches]], rng: np.random.Generator, extra: float
) -> list[Instruction]:
    """Tokens wherever an instruction needs another stage's work done, unless an earlier one says so."""
    program = [instruction for instruction, _ in work]
    tokens: list[set[str]] = [set() for _ in range(len(work) + 1)]
    written: dict[Element, int] = {}
    read: dict[Element, dict[Stage, int]] = {}
    newest: dict[Stage, int] = {}
    pushed: dict[tuple[Stage, Stage], int] = {}

    def after(i: int, stage: Stage, others: dict[Stage, int]) -> None:
        for other, j in others.items():
            if abs(other - stage) == 1 and j > pushed.get((other, stage), -1):
                pushed[other, stage] = j
                tokens[j].add("push_next" if stage > other else "push_prev")
                tokens[i].add("pop_prev" if stage > other else "pop_next")

    for i, (instruction, (reads, writes)) in enumerate(work):
        needed = dict(newest) if rng.random() < extra else {}
        conflicts = [written[e] for e in reads | writes if e in written]
        conflicts += [j for e in writes for j in read.get(e, {}).values()]
        for j in conflicts:
            needed[program[j].stage] = max(j, needed.get(program[j].stage, j))
        after(i, instruction.stage, needed)
        for element in reads:
            read.setdefault(element, {})[instruction.stage] = i
        for element in writes:
            written[element] = i
            read.pop(element, None)
        newest[instruction.stage] = i
    after(len(work), Stage.COMPUTE, newest)
    program.append(Transfer(Memory.UOP))
    marked = zip(program, tokens, strict=True)
    return [*(replace(it, tokens=Tokens(**dict.fromkeys(flags, True))) for it, flags in marked), Finish()]
