"""Streams that every VTA must run alike, by seed: one instruction each, and random programs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Alu, AluOp, Gemm, Memory, Transfer, Uop
from tests.targets.vta.program import Case, Program, steps

INPS, WGTS, ACCS = 24, 12, 40  # elements that a case works on, somewhere in each scratchpad
APART = 3  # micro-ops between those that use one accumulator
TRANSFERS = ("load inp", "load inp padded", "load wgt", "load acc", "load acc padded", "store")
PRODUCTS = ("gemm", "reset")
ALU = tuple(f"{op.name.lower()} {source}" for op in AluOp for source in ("immediate", "register"))
KINDS = TRANSFERS + PRODUCTS + ALU


def single(kind: str, config: Config, seed: int) -> Case:
    """One instruction of a kind, with what it needs before it and what shows its effect after it."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    case = _Bench(config, rng)
    if kind in ("load inp", "load inp padded", "load wgt"):
        memory = Memory.WGT if kind == "load wgt" else Memory.INP
        first, count = case.transfer(memory, "padded" in kind)
        case.show(memory, first, count)
    elif kind in ("load acc", "load acc padded"):
        case.fill(Memory.ACC)
        case.transfer(Memory.ACC, "padded" in kind)
    elif kind == "store":
        case.fill(Memory.ACC)
        case.settle()
        case.store_some()
    else:
        for memory in (Memory.INP, Memory.WGT, Memory.ACC):
            case.fill(memory)
        if kind in PRODUCTS:
            case.gemm(reset=kind == "reset")
        else:
            name, source = kind.split()
            case.alu(AluOp[name.upper()], immediate=source == "immediate")
    if kind not in ("load inp", "load inp padded", "load wgt"):
        case.program.dump(case.first[Memory.ACC], ACCS)
    return case.program.case(f"{kind} {seed}")


def random_program(config: Config, seed: int) -> Case:
    """Loads, products and stores in any order. Those of odd seeds have tokens that they do not need."""
    rng = np.random.default_rng([seed, 1])
    case = _Bench(config, rng)
    for memory in (Memory.INP, Memory.WGT, Memory.ACC):
        case.fill(memory)
    for _ in range(int(rng.integers(5, 25))):
        choice = rng.integers(8)
        if choice < 3:
            case.transfer((Memory.INP, Memory.WGT, Memory.ACC)[choice], bool(rng.integers(2)))
        elif choice == 3:
            case.store_some()
        elif choice == 4:
            immediate = bool(rng.integers(2))
            # Accumulators are of any size here, which shifts by a register may not be.
            case.alu(AluOp(rng.integers(len(AluOp) if immediate else AluOp.SHR)), immediate)
        else:
            case.gemm(reset=rng.random() < 0.2)
    case.program.dump(case.first[Memory.ACC], ACCS)
    return case.program.case(f"program {seed}", extra=0.3 if seed % 2 else 0.0)


class _Bench:
    """A program that works on some elements of each scratchpad."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.program, self.config, self.rng = Program(config, rng), config, rng
        depths = {Memory.INP: config.log_inps, Memory.WGT: config.log_wgts, Memory.ACC: config.log_accs}
        self.count = {Memory.INP: INPS, Memory.WGT: WGTS, Memory.ACC: ACCS}
        self.first = {m: int(rng.integers((1 << log) - self.count[m] + 1)) for m, log in depths.items()}
        self.settled: set[int] = set()  # accumulators that OUT has too

    def fill(self, memory: Memory) -> None:
        self.program.load(memory, self.first[memory], self.count[memory])

    def transfer(self, memory: Memory, padded: bool) -> tuple[int, int]:
        """A load of several rows to somewhere among the elements: the first, and how many."""
        while True:
            rows, columns = (int(n) for n in self.rng.integers(1, 5, 2))
            pad = tuple(int(n) for n in self.rng.integers(0, 3, 4) * (padded and memory is not Memory.WGT))
            top, bottom, left, right = pad
            count = (top + rows + bottom) * (left + columns + right)
            if count <= self.count[memory]:
                break
        first = self.first[memory] + int(self.rng.integers(self.count[memory] - count + 1))
        self.program.load(memory, first, columns, rows, (top, bottom, left, right))
        if memory is Memory.ACC:
            self.settled -= set(range(first, first + count))
        return first, count

    def settle(self) -> None:
        """Let OUT have all the accumulators."""
        first = self.first[Memory.ACC]
        uops = [Uop(i, i) for i in range(first, first + ACCS)]
        self._compute(Alu(AluOp.ADD, (0, 0), immediate=0), uops)

    def store_some(self) -> None:
        """Some rows, if any can be stored."""
        rows, columns = (int(n) for n in self.rng.integers(1, 4, 2))
        first = self.first[Memory.ACC] + int(self.rng.integers(ACCS - rows * columns + 1))
        if self.settled.issuperset(range(first, first + rows * columns)):
            self.program.store(first, rows, columns)

    def gemm(self, reset: bool) -> None:
        gemm, uops = self._valid(Gemm((0, 0), reset=reset))
        self._compute(gemm, uops)

    def alu(self, op: AluOp, immediate: bool) -> None:
        least, limit = (-15, 16) if op is AluOp.SHR else (-(1 << 15), 1 << 15)
        value = int(self.rng.choice([*self.rng.integers(least, limit, 2), 0, -1, least, limit - 1]))
        if op is AluOp.SHR and not immediate:
            lanes = self.config.batch * self.config.block
            shifts = self.rng.integers(-15, 16, (ACCS, lanes), np.int32)
            at = self.program.put(Memory.ACC, shifts)
            self.program.add(Transfer(Memory.ACC, self.first[Memory.ACC], at, 1, ACCS, ACCS))
        alu, uops = self._valid(Alu(op, (0, 0), immediate=value if immediate else None))
        self._compute(alu, uops)

    def _compute(self, instruction: Gemm | Alu, uops: Sequence[Uop]) -> None:
        self.program.compute(instruction, uops)
        written = {d for d, _, _ in steps(instruction, uops)}
        is_reset = isinstance(instruction, Gemm) and instruction.reset
        self.settled = self.settled - written if is_reset else self.settled | written

    def _valid(self, instruction: Gemm | Alu) -> tuple[Gemm | Alu, list[Uop]]:
        """Loops, factors and micro-ops that stay among the elements and use none again too soon."""
        limits = [ACCS, INPS, WGTS] if isinstance(instruction, Gemm) else [ACCS, ACCS, 1]
        while True:
            loops, dst, src, wgt = ((int(a), int(b)) for a, b in self.rng.integers(0, 5, (4, 2)))
            loops = (loops[0] + 1, loops[1] + 1)
            uops = [Uop(*map(int, self.rng.integers(0, limits))) for _ in range(self.rng.integers(1, 7))]
            if isinstance(instruction, Gemm):
                made: Gemm | Alu = replace(instruction, loops=loops, dst=dst, src=src, wgt=wgt)
            elif instruction.immediate is None:
                made = replace(instruction, loops=loops, dst=dst, src=src)
            else:
                made = replace(instruction, loops=loops, dst=dst, src=dst)
                uops = [Uop(u.dst, u.dst) for u in uops]
            if self._fits(made, uops, limits):
                break
        first = (self.first[Memory.ACC], self.first[Memory.INP], self.first[Memory.WGT])
        if isinstance(instruction, Alu):
            first = (first[0], first[0], 0)
        return made, [Uop(u.dst + first[0], u.src + first[1], u.wgt + first[2]) for u in uops]

    def _fits(self, instruction: Gemm | Alu, uops: Sequence[Uop], limits: Sequence[int]) -> bool:
        used = list(steps(instruction, uops))
        if (np.max(used, axis=0) >= limits).any():
            return False
        reads_src = isinstance(instruction, Alu) and instruction.immediate is None
        for i, (dst, src, _) in enumerate(used):
            recent = [d for d, _, _ in used[max(0, i - APART + 1) : i]]
            if dst in recent or (reads_src and src in recent):
                return False
        return True

    def show(self, memory: Memory, first: int, count: int) -> None:
        """Store elements of INP, by a product with the identity, or of WGT, by one with unit vectors."""
        block, acc = self.config.block, self.first[Memory.ACC]
        units = np.eye(block, dtype=np.int8)
        if memory is Memory.INP:
            other, uops = Memory.WGT, [Uop(acc + i, first + i, self.first[Memory.WGT]) for i in range(count)]
        else:
            other, n = Memory.INP, block // self.config.batch
            uops = [Uop(acc + i, self.first[Memory.INP] + i % n, first + i // n) for i in range(count * n)]
        at = self.program.put(other, units)
        blocks = 1 if other is Memory.WGT else block // self.config.batch
        self.program.add(Transfer(other, self.first[other], at, 1, blocks, blocks))
        for start in range(0, len(uops), ACCS):
            part = [replace(u, dst=acc + i) for i, u in enumerate(uops[start : start + ACCS])]
            self.program.compute(Gemm((0, 0), reset=True), part)
            self.program.compute(Gemm((0, 0)), part)
            self.program.store(acc, 1, len(part))
