"""VTA's instructions: what each means, and where its fields lie. Nothing else knows an encoding.

Encodings and meanings are those of apache/tvm-vta (include/vta/hw_spec.h, hw_spec_const.h). An instruction
is two little-endian words of 64 bits, a micro-op one of 32. The widths of its fields follow from the
configuration: lu, li, lw, la are the bits of an index into the UOP, INP, WGT and ACC scratchpads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError
from e2compile.targets.vta.isa.config import Config

Words = NDArray[np.uint64]  # [instructions, 2]


class Opcode(IntEnum):
    LOAD = 0
    STORE = 1
    GEMM = 2
    FINISH = 3
    ALU = 4


class Memory(IntEnum):
    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4


class AluOp(IntEnum):
    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3


class Stage(IntEnum):
    """The three units that run instructions, each in order, in the order of the data."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an instruction waits for before, and signals after: the stage before its own, the one after."""

    pop_prev: bool = False
    pop_next: bool = False
    push_prev: bool = False
    push_next: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """LOAD or STORE: `rows` rows of `columns` elements, `stride` elements apart in DRAM, packed in SRAM.

    `sram` and `dram` are in elements of `memory`. A load surrounds the rows by zeros: `pad` is (top, bottom,
    left, right), in rows and elements. A transfer to OUT is a STORE; any other is a LOAD.
    """

    memory: Memory
    sram: int = 0
    dram: int = 0
    rows: int = 0
    columns: int = 0
    stride: int = 0
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    tokens: Tokens = Tokens()

    @property
    def is_idle(self) -> bool:
        """Whether it moves nothing, and is there for its tokens."""
        return self.columns == 0

    @property
    def stage(self) -> Stage:
        if self.memory is Memory.OUT:
            return Stage.STORE
        return Stage.LOAD if self.memory in (Memory.INP, Memory.WGT) else Stage.COMPUTE


@dataclass(frozen=True, slots=True)
class Gemm:
    """For i < loops[0], j < loops[1], and each micro-op u of [uops): acc[u.dst + i * dst[0] + j * dst[1]]
    += inp[u.src + i * src[0] + j * src[1]] . wgt[u.wgt + i * wgt[0] + j * wgt[1]]^T, or = 0 with `reset`."""

    uops: tuple[int, int]
    loops: tuple[int, int] = (1, 1)
    dst: tuple[int, int] = (0, 0)
    src: tuple[int, int] = (0, 0)
    wgt: tuple[int, int] = (0, 0)
    reset: bool = False
    tokens: Tokens = Tokens()

    @property
    def stage(self) -> Stage:
        return Stage.COMPUTE

    @property
    def cycles(self) -> int:
        """Micro-ops that it runs."""
        return self.loops[0] * self.loops[1] * (self.uops[1] - self.uops[0])


@dataclass(frozen=True, slots=True)
class Alu:
    """Likewise acc[dst] = op(acc[dst], b), b = acc[src], or `immediate` where that is not None.

    SHR shifts right, arithmetically, and left by a negative number.
    """

    op: AluOp
    uops: tuple[int, int]
    loops: tuple[int, int] = (1, 1)
    dst: tuple[int, int] = (0, 0)
    src: tuple[int, int] = (0, 0)
    immediate: int | None = None
    tokens: Tokens = Tokens()

    @property
    def stage(self) -> Stage:
        return Stage.COMPUTE

    @property
    def cycles(self) -> int:
        """Micro-ops that it runs; each takes two cycles."""
        return self.loops[0] * self.loops[1] * (self.uops[1] - self.uops[0])


@dataclass(frozen=True, slots=True)
class Finish:
    """Raises the flag that the host polls. The last instruction of a run."""

    tokens: Tokens = Tokens()

    @property
    def stage(self) -> Stage:
        return Stage.COMPUTE


Instruction = Transfer | Gemm | Alu | Finish


@dataclass(frozen=True, slots=True)
class Uop:
    """Indices of one product, or of one ALU operation, which has no `wgt`."""

    dst: int
    src: int
    wgt: int = 0


@dataclass(frozen=True)
class Field:
    """`width` bits of a word from bit `shift`, unsigned unless `signed`."""

    name: str
    word: int
    shift: int
    width: int
    signed: bool = False


def _packed(word: int, shift: int, *parts: tuple[str, int]) -> list[Field]:
    """Fields that follow one another without gaps."""
    result = []
    for name, width in parts:
        result.append(Field(name, word, shift, width))
        shift += width
    return result


_HEAD = _packed(0, 0, ("opcode", 3), ("pop_prev", 1), ("pop_next", 1), ("push_prev", 1), ("push_next", 1))


@cache
def transfer_fields() -> list[Field]:
    """Of LOAD and STORE; the same for all configurations."""
    low = _packed(0, 7, ("memory", 3), ("sram", 16), ("dram", 32))
    sizes = (("rows", 16), ("columns", 16), ("stride", 16))
    return _HEAD + low + _packed(1, 0, *sizes, *((f"pad_{side}", 4) for side in _SIDES))


def _loops(config: Config) -> list[Field]:
    lu = config.uop_bits
    parts = (("reset", 1), ("uop_begin", lu), ("uop_end", lu + 1), ("loop_0", 14), ("loop_1", 14))
    return _HEAD + _packed(0, 7, *parts)


@cache
def gemm_fields(config: Config) -> list[Field]:
    """Of GEMM and FINISH."""
    la, li, lw = config.log_accs, config.log_inps, config.log_wgts
    factors = (("dst_0", la), ("dst_1", la), ("src_0", li), ("src_1", li), ("wgt_0", lw), ("wgt_1", lw))
    return _loops(config) + _packed(1, 0, *factors)


@cache
def alu_fields(config: Config) -> list[Field]:
    la = config.log_accs
    parts = [(name, la) for name in ("dst_0", "dst_1", "src_0", "src_1")]
    packed = _packed(1, 0, *parts, ("alu_op", 3), ("use_imm", 1))
    return _loops(config) + packed + [Field("imm", 1, 4 * la + 4, 16, signed=True)]


def uop_fields(config: Config) -> list[Field]:
    la, li, lw = config.log_accs, config.log_inps, config.log_wgts
    return _packed(0, 0, ("dst", la), ("src", max(la, li)), ("wgt", lw))


_SIDES = ("top", "bottom", "left", "right")
_TOKENS = tuple(f.name for f in fields(Tokens))


def _values(instruction: Instruction) -> dict[str, int]:
    """The value of each field of an instruction's encoding."""
    values = {name: int(getattr(instruction.tokens, name)) for name in _TOKENS}
    if isinstance(instruction, Finish):
        return values | {"opcode": Opcode.FINISH}
    if isinstance(instruction, Transfer):
        opcode = Opcode.STORE if instruction.memory is Memory.OUT else Opcode.LOAD
        names = ("memory", "sram", "dram", "rows", "columns", "stride")
        values |= {name: int(getattr(instruction, name)) for name in names}
        pads = zip(_SIDES, instruction.pad, strict=True)
        return values | {"opcode": opcode} | {f"pad_{side}": pad for side, pad in pads}
    values["uop_begin"], values["uop_end"] = instruction.uops
    pairs = ("dst", "src", "wgt") if isinstance(instruction, Gemm) else ("dst", "src")
    for name, pair in [("loop", instruction.loops), *((p, getattr(instruction, p)) for p in pairs)]:
        values[f"{name}_0"], values[f"{name}_1"] = pair
    if isinstance(instruction, Gemm):
        return values | {"opcode": Opcode.GEMM, "reset": int(instruction.reset)}
    immediate = instruction.immediate
    use = {"use_imm": int(immediate is not None), "imm": immediate or 0}
    return values | {"opcode": Opcode.ALU, "alu_op": instruction.op} | use


def _fields_of(opcode: int, config: Config) -> list[Field]:
    if opcode in (Opcode.LOAD, Opcode.STORE):
        return transfer_fields()
    return alu_fields(config) if opcode == Opcode.ALU else gemm_fields(config)


def encode(instructions: Sequence[Instruction], config: Config) -> Words:
    """Instructions as words, uint64 [n, 2]. Raises UsageError where a value does not fit its field."""
    words = np.zeros((len(instructions), 2), "<u8")
    for row, instruction in zip(words, instructions, strict=True):
        values = _values(instruction)
        for field in _fields_of(values["opcode"], config):
            value = values.get(field.name, 0)
            least = -(1 << field.width - 1) if field.signed else 0
            if not least <= value < least + (1 << field.width):
                raise UsageError(f"{field.name} = {value} does not fit {field.width} bits: {instruction}")
            row[field.word] |= np.uint64((value & (1 << field.width) - 1) << field.shift)
    return words


def encode_uops(uops: Sequence[Uop], config: Config) -> NDArray[np.uint32]:
    """Micro-ops as words, uint32 [n]. Raises UsageError where an index does not fit."""
    words = np.zeros(len(uops), "<u4")
    for field in uop_fields(config):
        values = np.array([getattr(u, field.name) for u in uops], np.int64)
        if values.size and (values.min() < 0 or values.max() >= 1 << field.width):
            raise UsageError(f"a micro-op's {field.name} = {values.max()} does not fit {field.width} bits")
        words |= (values << field.shift).astype("<u4")
    return words


def decode(words: Words, config: Config) -> list[Instruction]:
    """The instructions that words, uint64 [n, 2], encode. Raises UsageError for those that encode none."""
    return [_decoded(int(low), int(high), config) for low, high in words]


def _decoded(low: int, high: int, config: Config) -> Instruction:
    opcode = low & 7
    if opcode not in list(Opcode):
        raise UsageError(f"opcode {opcode} is no instruction of VTA's")
    values = {f.name: _extract((low, high)[f.word], f) for f in _fields_of(opcode, config)}
    tokens = Tokens(*(bool(values[name]) for name in _TOKENS))
    if opcode == Opcode.FINISH:
        return Finish(tokens)
    if opcode in (Opcode.LOAD, Opcode.STORE):
        if (values["memory"] == Memory.OUT) != (opcode == Opcode.STORE) or values["memory"] > Memory.OUT:
            raise UsageError(f"{Opcode(opcode).name} does not go with memory {values['memory']}")
        sram, dram, *sizes = (values[name] for name in ("sram", "dram", "rows", "columns", "stride"))
        rows, columns, stride = sizes
        top, bottom, left, right = (values[f"pad_{side}"] for side in _SIDES)
        return Transfer(
            Memory(values["memory"]), sram, dram, rows, columns, stride, (top, bottom, left, right), tokens
        )

    def pair(name: str) -> tuple[int, int]:
        return values[f"{name}_0"], values[f"{name}_1"]

    uops = values["uop_begin"], values["uop_end"]
    if opcode == Opcode.GEMM:
        factors = pair("dst"), pair("src"), pair("wgt")
        return Gemm(uops, pair("loop"), *factors, bool(values["reset"]), tokens)
    if values["alu_op"] not in list(AluOp):
        raise UsageError(f"ALU operation {values['alu_op']} is not portable")
    immediate = values["imm"] if values["use_imm"] else None
    return Alu(AluOp(values["alu_op"]), uops, pair("loop"), pair("dst"), pair("src"), immediate, tokens)


def _extract(word: int, field: Field) -> int:
    value = word >> field.shift & (1 << field.width) - 1
    return value - (1 << field.width) if field.signed and value >> field.width - 1 else value


def decode_uops(words: NDArray[np.uint32], config: Config) -> list[Uop]:
    columns = [(words >> np.uint32(f.shift)) & np.uint32((1 << f.width) - 1) for f in uop_fields(config)]
    return [Uop(*map(int, row)) for row in zip(*columns, strict=True)]


def placed(words: Words, bases: Mapping[Memory, int]) -> Words:
    """Words with the DRAM addresses of their transfers, in elements, moved by the base of each memory."""
    head, memory, columns = ((words[:, f.word] >> np.uint64(f.shift)) & _mask(f) for f in _PLACING)
    moves = (head <= Opcode.STORE) & (columns > 0)
    result = words.copy()
    for kind, base in bases.items():
        chosen = moves & (memory == kind)
        result[chosen, 0] += np.uint64(base << _DRAM.shift)
    return result


def _mask(field: Field) -> np.uint64:
    return np.uint64((1 << field.width) - 1)


_PLACING = [next(f for f in transfer_fields() if f.name == name) for name in ("opcode", "memory", "columns")]
_DRAM = next(f for f in transfer_fields() if f.name == "dram")
