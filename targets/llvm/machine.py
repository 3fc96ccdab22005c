"""The CPU that kernels are shaped for: its vector width, its registers, its cores."""

from dataclasses import dataclass
from pathlib import Path

from e2compile.runtime.engine import cores

# By the names that Linux gives to features.
_VECTOR_UNITS = (("avx512f", 16, 32), ("avx2", 8, 16), ("asimd", 4, 32))
_BASELINE = (4, 16)
# What vpdpbusd needs for vectors of up to 16 lanes, and of up to 8.
_WIDE_DOTS = {"avx512_vnni", "avx512vl"}
_NARROW_DOTS = {"avx_vnni"}


@dataclass(frozen=True)
class Machine:
    """What a register tile has to fit: `lanes` are fp32 lanes of one of the `registers` vector registers.

    `dots` says whether one instruction adds, in each lane, four products of bytes. `name` is the model's:
    LLVM picks instructions by it.
    """

    lanes: int
    registers: int
    threads: int
    dots: bool = False
    name: str = ""


def host() -> Machine:
    """The CPU this process runs on, with the cores it may use."""
    return machine(Path("/proc/cpuinfo").read_text(), cores())


def machine(cpuinfo: str, threads: int) -> Machine:
    """The CPU that Linux describes, without TVM: a program from the cache does not load it."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    known = {key.strip(): value.strip() for key, _, value in lines}
    features = set(known.get("flags", known.get("Features", "")).split())
    lanes, registers = next((unit[1:] for unit in _VECTOR_UNITS if unit[0] in features), _BASELINE)
    dots = (_WIDE_DOTS if lanes == 16 else _NARROW_DOTS) <= features
    return Machine(lanes, registers, threads, dots, known.get("model name", known.get("CPU part", "")))
