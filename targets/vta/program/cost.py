"""What streams cost, by the cycle model."""

from dataclasses import astuple, dataclass

from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Memory, Transfer
from e2compile.targets.vta.isa.stream import ACC, INP, OUT, UOP, WGT, Stream, element_bytes

_INSTRUCTION = 16  # bytes


@dataclass(frozen=True)
class Cost:
    """What streams cost: `cycles` from the host's start to the end.

    `load`, `compute` and `store` are the cycles in which a stage is busy, `gemm` and `alu` those of the
    compute stage's products and ALU operations. Bytes are what moves between DRAM and each memory.
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

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> "Cost":
        return Cost(*(a * times for a in astuple(self)))

    @property
    def bound(self) -> int:
        """Cycles if the compute stage never waited or loaded."""
        return self.gemm + self.alu

    @property
    def moved_bytes(self) -> int:
        return (
            self.inp_bytes
            + self.wgt_bytes
            + self.acc_bytes
            + self.out_bytes
            + self.uop_bytes
            + self.instruction_bytes
        )


def cost(stream: Stream, config: Config) -> Cost:
    """What a stream costs."""
    modelled = timing(stream.instructions, config)
    load, compute, store = modelled.busy.values()
    moved = dict.fromkeys(Memory, 0)
    for it in stream.instructions:
        if isinstance(it, Transfer):
            moved[it.memory] += it.rows * it.columns
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
    )
