"""What streams cost, by the cycle model."""

from dataclasses import astuple, dataclass

from e2compile.targets.vta.analysis.footprint import sram_elements
from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Alu, Finish, Instruction, Memory, Transfer
from e2compile.targets.vta.isa.stream import ACC, INP, OUT, UOP, WGT, Stream, element_bytes

_INSTRUCTION = 16  # bytes


@dataclass(frozen=True)
class Cost:
    """What streams cost: `cycles` from the host's start to the end.

    `load`, `compute` and `store` are the cycles in which a stage is busy, `gemm` and `alu` those of the
    compute stage's products and ALU operations. `inp_bytes` to `instruction_bytes` are what moves between
    DRAM and each memory, `sram` those that all scratchpads give and take.
    """

    instructions: int = 0
    uops: int = 0
    cycles: int = 0
    load: int = 0
    compute: int = 0
    store: int = 0
    gemm: int = 0
    alu: int = 0
    inp_bytes: int = 0
    wgt_bytes: int = 0
    acc_bytes: int = 0
    out_bytes: int = 0
    uop_bytes: int = 0
    instruction_bytes: int = 0
    sram_read_bytes: int = 0
    sram_written_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> "Cost":
        return Cost(*(a * times for a in astuple(self)))

    @property
    def bound(self) -> int:
        """Cycles if the compute stage never waited or loaded."""
        return self.gemm + self.alu

    @property
    def loaded_bytes(self) -> int:
        """What is read of DRAM."""
        return self.inp_bytes + self.wgt_bytes + self.acc_bytes + self.uop_bytes + self.instruction_bytes

    @property
    def moved_bytes(self) -> int:
        return self.loaded_bytes + self.out_bytes


def cost(stream: Stream, config: Config) -> Cost:
    """What a stream costs."""
    modelled = timing(stream.instructions, config)
    load, compute, store = modelled.busy.values()
    moved = dict.fromkeys(Memory, 0)
    for it in stream.instructions:
        if isinstance(it, Transfer):
            moved[it.memory] += it.rows * it.columns
    read, written = (
        sum(b) for b in zip(*(_scratchpads(it, config) for it in stream.instructions), strict=True)
    )
    return Cost(
        instructions=len(stream.instructions),
        uops=len(stream.uops),
        cycles=modelled.total,
        load=load,
        compute=compute,
        store=store,
        gemm=modelled.gemm,
        alu=modelled.alu,
        inp_bytes=moved[Memory.INP] * element_bytes(INP, config),
        wgt_bytes=moved[Memory.WGT] * element_bytes(WGT, config),
        acc_bytes=moved[Memory.ACC] * element_bytes(ACC, config),
        out_bytes=moved[Memory.OUT] * element_bytes(OUT, config),
        uop_bytes=moved[Memory.UOP] * element_bytes(UOP, config),
        instruction_bytes=len(stream.instructions) * _INSTRUCTION,
        sram_read_bytes=read,
        sram_written_bytes=written,
    )


def _scratchpads(it: Instruction, config: Config) -> tuple[int, int]:
    """Bytes that an instruction reads from scratchpads and writes there. A load's padding is written, too."""
    if isinstance(it, Transfer):
        size = element_bytes(it.memory.name.lower(), config)
        if it.memory is Memory.OUT:
            return it.rows * it.columns * size, 0
        return 0, 0 if it.is_idle else sram_elements(it) * size
    if isinstance(it, Finish):
        return 0, 0
    uop, acc, out = (element_bytes(name, config) for name in (UOP, ACC, OUT))
    if isinstance(it, Alu):
        operands = acc if it.immediate is not None else 2 * acc
        return it.cycles * (uop + operands), it.cycles * (acc + out)
    if it.reset:
        return it.cycles * uop, it.cycles * acc
    operands = element_bytes(INP, config) + element_bytes(WGT, config) + acc
    return it.cycles * (uop + operands), it.cycles * (acc + out)
