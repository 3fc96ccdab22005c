"""What a VTA does with a stream, said a second time: one micro-op after the other, from the published tables.

Nothing of instructions.py is used: fields are cut from the 128-bit words at positions written out here. Where
the implementations differ, this is the HLS design: OUT is a memory of its own that only GEMM and
ALU write, weights have no padding, micro-ops load as one row, shifts take five bits.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.isa.config import Config

STORE, LOAD = 1, 0
NAMES = ("LOAD", "STORE", "GEMM", "FINISH", "ALU")
UOP, WGT, INP, ACC, OUT = range(5)
MIN, MAX, ADD, SHR = range(4)

# Stages, as they are named in an order; the queue that an instruction goes to.
L, C, S = "load", "compute", "store"
ORDERS = {"load first": (L, C, S), "compute first": (C, S, L), "store first": (S, L, C)}
QUEUE = 512  # instructions, the design's depth
LATENCY = 3  # micro-ops until an accumulator that is written can be read

Order = Sequence[str] | np.random.Generator
Bytes = NDArray[np.uint8]


class Wrong(Exception):
    """The stream does what no stream may do."""


class Interpreter:
    """One VTA, its scratchpads full of garbage, and the DRAM that it sees, which STORE changes.

    `order` says which of the stages that can run goes first, or is a generator that draws one each time.
    With `hazards` an accumulator is read as it was LATENCY - 1 micro-ops ago, as the pipeline does.
    """

    def __init__(
        self, config: Config, dram: Bytes, order: Order = (L, C, S), seed: int = 0, hazards: bool = False
    ) -> None:
        self.dram, self.order, self.hazards = dram, order, hazards
        batch, block = 1 << config.log_batch, 1 << config.log_block
        self.lu = config.log_uop_buff_size - 2
        self.li = config.log_inp_buff_size - config.log_batch - config.log_block
        self.lw = config.log_wgt_buff_size - 2 * config.log_block
        self.la = config.log_acc_buff_size - config.log_batch - config.log_block - 2
        garbage = np.random.default_rng(seed)

        def memory(log_depth: int, *element: int, dtype: Any = np.int8) -> NDArray[Any]:
            limits = np.iinfo(dtype)
            return garbage.integers(limits.min, limits.max, (1 << log_depth, *element), dtype, True)

        self.memories = {
            UOP: memory(self.lu, dtype=np.uint32),
            WGT: memory(self.lw, block, block),
            INP: memory(self.li, batch, block),
            ACC: memory(self.la, batch, block, dtype=np.int32),
            OUT: memory(self.la, batch, block),
        }
        self.tokens = {(L, C): 0, (C, L): 0, (C, S): 0, (S, C): 0}
        self.queues: dict[str, deque[int]] = {L: deque(), C: deque(), S: deque()}
        self.finished = False
        # Bytes that scratchpads give and take, and DRAM but for instructions.
        self.read_bytes = self.written_bytes = self.loaded_bytes = self.stored_bytes = 0

    def run(self, words: NDArray[np.uint64]) -> None:
        """Run until nothing is left. Raises Wrong for a deadlock, tokens left over, work after FINISH."""
        stream = deque(int(low) | int(high) << 64 for low, high in words)
        while stream or any(self.queues.values()):
            while stream and len(self.queues[stage_of(stream[0])]) < QUEUE:
                self.queues[stage_of(stream[0])].append(stream.popleft())
            ready = [s for s, queue in self.queues.items() if queue and self._can_start(s, queue[0])]
            if not ready:
                heads = {s: kind(queue[0]) for s, queue in self.queues.items() if queue}
                raise Wrong(f"deadlock: {heads} wait, tokens {self.tokens}, {len(stream)} to be fetched")
            if self.finished:
                raise Wrong(f"{ready} run after FINISH")
            stage = self._choice(ready)
            self._step(stage, self.queues[stage].popleft())
        if not self.finished:
            raise Wrong("the stream does not end in FINISH")
        if any(self.tokens.values()):
            raise Wrong(f"tokens are left: {self.tokens}")

    def _choice(self, ready: list[str]) -> str:
        if isinstance(self.order, np.random.Generator):
            return ready[int(self.order.integers(len(ready)))]
        return next(stage for stage in self.order if stage in ready)

    def _can_start(self, stage: str, word: int) -> bool:
        return all(self.tokens[link] > 0 for link in self._links(stage, word)[0])

    def _links(self, stage: str, word: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The token queues that an instruction pops, and those that it pushes."""
        before, after = {L: (None, C), C: (L, S), S: (C, None)}[stage]
        pops, pushes = [], []
        for bit, other in ((3, before), (4, after), (5, before), (6, after)):
            if word >> bit & 1:
                if other is None:
                    raise Wrong(f"{kind(word)} has a token for a stage that does not exist")
                if bit < 5:
                    pops.append((other, stage))
                else:
                    pushes.append((stage, other))
        return pops, pushes

    def _step(self, stage: str, word: int) -> None:
        pops, pushes = self._links(stage, word)
        for link in pops:
            self.tokens[link] -= 1
        units = {"LOAD": self._load, "STORE": self._store, "GEMM": self._gemm, "ALU": self._alu}
        if kind(word) == "FINISH":
            self.finished = True
        else:
            units[kind(word)](word)
        for link in pushes:
            self.tokens[link] += 1

    def _load(self, word: int) -> None:
        memory, sram, dram = cut(word, 7, 3), cut(word, 10, 16), cut(word, 26, 32)
        rows, columns, stride = cut(word, 64, 16), cut(word, 80, 16), cut(word, 96, 16)
        top, bottom, left, right = (cut(word, at, 4) for at in (112, 116, 120, 124))
        if memory not in (UOP, WGT, INP, ACC):
            raise Wrong(f"LOAD of memory {memory}")
        if columns == 0:
            return
        if memory == UOP:
            rows = 1
        if memory in (UOP, WGT):
            top = bottom = left = right = 0
        target = self.memories[memory]
        blank = np.zeros_like(target[:1])
        width = left + columns + right
        content = [blank] * (top * width)
        for row in range(rows):
            elements = self._fetched(memory, dram + row * stride, columns)
            content += [*[blank] * left, elements, *[blank] * right]
        content += [blank] * (bottom * width)
        values = np.concatenate(content) if content else target[:0]
        if sram + len(values) > len(target):
            raise Wrong(f"LOAD of {sram}..{sram + len(values)} of memory {memory}, which has {len(target)}")
        target[sram : sram + len(values)] = values
        self.written_bytes += values.nbytes

    def _fetched(self, memory: int, element: int, count: int) -> NDArray[Any]:
        target = self.memories[memory]
        size = target[0].nbytes
        content = self.dram[element * size : (element + count) * size]
        self.loaded_bytes += content.nbytes
        if len(content) < count * size:
            raise Wrong(f"LOAD from byte {element * size}, past the DRAM's {len(self.dram)}")
        return content.view(target.dtype).reshape(count, *target.shape[1:])

    def _store(self, word: int) -> None:
        memory, sram, dram = cut(word, 7, 3), cut(word, 10, 16), cut(word, 26, 32)
        rows, columns, stride = cut(word, 64, 16), cut(word, 80, 16), cut(word, 96, 16)
        if memory != OUT or cut(word, 112, 16):
            raise Wrong(f"STORE of memory {memory} with pads {cut(word, 112, 16):#x}")
        source = self.memories[OUT]
        if columns and sram + rows * columns > len(source):
            raise Wrong(f"STORE of {sram}..{sram + rows * columns} of {len(source)}")
        size = source[0].nbytes
        for row in range(rows):
            first = (dram + row * stride) * size
            if first + columns * size > len(self.dram):
                raise Wrong(f"STORE to byte {first}, past the DRAM's {len(self.dram)}")
            content = source[sram + row * columns : sram + (row + 1) * columns]
            self.dram[first : first + columns * size] = content.reshape(-1).view(np.uint8)
            self.read_bytes += content.nbytes
            self.stored_bytes += content.nbytes

    def _uops(self, word: int) -> list[tuple[int, int, int, int, int]]:
        """(i, j, dst, src, wgt) of each micro-op that an instruction runs, before factors."""
        lu, la, widest = self.lu, self.la, max(self.la, self.li)
        begin, end = cut(word, 8, lu), cut(word, 8 + lu, lu + 1)
        outer, inner = cut(word, 9 + 2 * lu, 14), cut(word, 23 + 2 * lu, 14)
        if end > 1 << lu:
            raise Wrong(f"micro-ops up to {end} of {1 << lu}")
        uops = [int(u) for u in self.memories[UOP][begin:end]]
        parts = [(u & (1 << la) - 1, cut(u, la, widest), cut(u, la + widest, self.lw)) for u in uops]
        return [(i, j, *part) for i in range(outer) for j in range(inner) for part in parts]

    def _gemm(self, word: int) -> None:
        la, li, lw = self.la, self.li, self.lw
        reset = cut(word, 7, 1)
        d0, d1 = cut(word, 64, la), cut(word, 64 + la, la)
        s0, s1 = cut(word, 64 + 2 * la, li), cut(word, 64 + 2 * la + li, li)
        w0, w1 = cut(word, 64 + 2 * la + 2 * li, lw), cut(word, 64 + 2 * la + 2 * li + lw, lw)
        inp, wgt = self.memories[INP], self.memories[WGT]
        pipeline = Pipeline(self.memories[ACC], self.memories[OUT], self.hazards)
        acc, out = pipeline.acc[0].nbytes, pipeline.out[0].nbytes
        for i, j, d, s, w in self._uops(word):
            d, s, w = d + i * d0 + j * d1, s + i * s0 + j * s1, w + i * w0 + j * w1
            self.read_bytes += 4
            self.written_bytes += acc
            if s >= len(inp) or w >= len(wgt):
                raise Wrong(f"GEMM of input {s} of {len(inp)} and weight {w} of {len(wgt)}")
            product = inp[s].astype(np.int64) @ wgt[w].astype(np.int64).T
            if reset:
                pipeline.read(d)
                pipeline.write(d, np.zeros_like(product), shadow=False)
            else:
                pipeline.write(d, pipeline.read(d) + product)
                self.read_bytes += inp[s].nbytes + wgt[w].nbytes + acc
                self.written_bytes += out
        pipeline.drain()

    def _alu(self, word: int) -> None:
        la = self.la
        d0, d1 = cut(word, 64, la), cut(word, 64 + la, la)
        s0, s1 = cut(word, 64 + 2 * la, la), cut(word, 64 + 3 * la, la)
        op, use_imm, imm = cut(word, 64 + 4 * la, 3), cut(word, 67 + 4 * la, 1), cut(word, 68 + 4 * la, 16)
        imm -= (imm & 0x8000) * 2
        if op > SHR:
            raise Wrong(f"ALU operation {op}")
        pipeline = Pipeline(self.memories[ACC], self.memories[OUT], self.hazards)
        acc, out = pipeline.acc[0].nbytes, pipeline.out[0].nbytes
        for i, j, d, s, _ in self._uops(word):
            d, s = d + i * d0 + j * d1, s + i * s0 + j * s1
            a = pipeline.read(d)
            b = np.full_like(a, imm) if use_imm else pipeline.read(s)
            pipeline.write(d, alu(op, a, b))
            self.read_bytes += 4 + (acc if use_imm else 2 * acc)
            self.written_bytes += acc + out
        pipeline.drain()


class Pipeline:
    """Accumulators as one instruction sees them, int64 in between."""

    def __init__(self, acc: NDArray[np.int32], out: NDArray[np.int8], hazards: bool) -> None:
        self.acc, self.out = acc, out
        self.under_way: deque[tuple[int, NDArray[np.int32], bool]] = deque()
        self.depth = LATENCY - 1 if hazards else 0

    def read(self, index: int) -> NDArray[np.int64]:
        if index >= len(self.acc):
            raise Wrong(f"accumulator {index} of {len(self.acc)}")
        value: NDArray[np.int64] = self.acc[index].astype(np.int64)
        return value

    def write(self, index: int, value: NDArray[np.int64], shadow: bool = True) -> None:
        """Let a value arrive; its low 32 bits, and where it has a shadow its low 8 bits in OUT."""
        self.under_way.append((index, value.astype(np.int32), shadow))
        while len(self.under_way) > self.depth:
            self._arrive()

    def drain(self) -> None:
        while self.under_way:
            self._arrive()

    def _arrive(self) -> None:
        index, value, shadow = self.under_way.popleft()
        self.acc[index] = value
        if shadow:
            self.out[index] = value.astype(np.int8)


def alu(op: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    if op == MIN:
        return np.minimum(a, b)
    if op == MAX:
        return np.maximum(a, b)
    if op == ADD:
        return a + b
    shift = ((b & 31) ^ 16) - 16  # the low five bits, signed
    shifted: NDArray[np.int64] = np.where(shift >= 0, a >> np.maximum(shift, 0), a << np.maximum(-shift, 0))
    return shifted


def cut(word: int, at: int, width: int) -> int:
    return word >> at & (1 << width) - 1


def stage_of(word: int) -> str:
    if word & 7 == STORE:
        return S
    return L if word & 7 == LOAD and cut(word, 7, 3) in (INP, WGT) else C


def kind(word: int) -> str:
    if word & 7 >= len(NAMES):
        raise Wrong(f"opcode {word & 7}")
    return NAMES[word & 7]
