"""The CPU that kernels are shaped for: its vector width, its registers, its cores."""

import os
from dataclasses import dataclass

import tvm
from tvm.target import codegen

_VECTOR_UNITS = (("avx512f", 16, 32), ("avx2", 8, 16), ("neon", 4, 32))
_BASELINE = (4, 16)
# What vpdpbusd needs for vectors of up to 16 lanes, and of up to 8.
_WIDE_DOTS = {"avx512vnni", "avx512vl"}
_NARROW_DOTS = {"avxvnni"}


@dataclass(frozen=True)
class Machine:
    """What a register tile has to fit: `lanes` are fp32 lanes of one of the `registers` vector registers.

    `dots` says whether one instruction adds, in each lane, four products of bytes.
    """

    lanes: int
    registers: int
    threads: int
    dots: bool = False


def host() -> Machine:
    """The CPU this process runs on, with the cores it may use."""
    features = set(codegen.llvm_get_cpu_features(tvm_target()))
    lanes, registers = _vector_unit(features)
    dots = (_WIDE_DOTS if lanes == 16 else _NARROW_DOTS) <= features
    return Machine(lanes, registers, _cores(), dots)


def tvm_target() -> tvm.target.Target:
    """The TVM target that uses all of this CPU's instructions."""
    return tvm.target.Target(
        {"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu()), "num-cores": _cores()}
    )


def _vector_unit(features: set[str]) -> tuple[int, int]:
    for name, lanes, registers in _VECTOR_UNITS:
        if name in features:
            return lanes, registers
    return _BASELINE


def _cores() -> int:
    return len(os.sched_getaffinity(0))
