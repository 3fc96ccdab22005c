"""The CPU that kernels are shaped for: its vector width, its registers, its cores."""

import platform
from collections.abc import Set
from dataclasses import dataclass, replace
from enum import Enum

from e2compile.errors import UsageError
from e2compile.runtime import host as hosts
from e2compile.runtime.engine import cores
from e2compile.runtime.host import Host


class Dot(Enum):
    """The instruction that sums, in each int32 lane, products of several small integers.

    VPDPBUSD and SDOT take four bytes, VPMADDWD two int16. The left bytes of VPDPBUSD are unsigned, everything
    else is signed.
    """

    NONE = ""
    VPDPBUSD = "vpdpbusd"
    VPMADDWD = "vpmaddwd"
    SDOT = "sdot"


# By the names that Linux gives to features: lanes, registers.
_VECTOR_UNITS = (("avx512f", 16, 32), ("avx2", 8, 16), ("asimd", 4, 32))
_BASELINE = (4, 16)
# What each instruction needs for vectors of so many lanes.
_DOTS = (
    (16, ("avx512_vnni", "avx512vl"), Dot.VPDPBUSD),
    (16, ("avx512bw",), Dot.VPMADDWD),
    (8, ("avx_vnni",), Dot.VPDPBUSD),
    (8, ("avx2",), Dot.VPMADDWD),
    (4, ("asimddp",), Dot.SDOT),
)
_TRIPLE = "{}-linux-gnu"

# Machines that a host part can be compiled for, the first CPU by default: LLVM's names of CPUs, and those of
# their features that decide about kernels.
CPUS: dict[str, dict[str, tuple[str, ...]]] = {
    "aarch64-linux-gnu": {
        "generic": ("asimd",),
        "cortex-a53": ("asimd",),
        "cortex-a55": ("asimd", "asimddp"),
        "cortex-a72": ("asimd",),
        "cortex-a76": ("asimd", "asimddp"),
        "cortex-a78": ("asimd", "asimddp"),
        "neoverse-n1": ("asimd", "asimddp"),
    },
    "x86_64-linux-gnu": {
        "x86-64": (),
        "x86-64-v3": ("avx2",),
        "x86-64-v4": ("avx2", "avx512f", "avx512vl", "avx512bw"),
        "znver4": ("avx2", "avx512f", "avx512vl", "avx512bw", "avx512_vnni"),
        "sapphirerapids": ("avx2", "avx512f", "avx512vl", "avx512bw", "avx512_vnni", *sorted(hosts.TILES)),
    },
}
# No kernel depends on the number of threads.
_CORES = 4


@dataclass(frozen=True)
class Machine:
    """What a register tile has to fit: `lanes` are fp32 lanes of one of the `registers` vector registers.

    `dots` is the instruction for sums of integers. `name` is the model's: LLVM picks instructions by it, for
    `triple`; that is empty for the machine that this process runs on. `needs` are the features that decided.
    With `tiles` it multiplies matrices of bytes, 16 rows of 64 of them, held in eight registers. Where
    `is_emulated`, kernels are shaped for a CPU that is not the one they are compiled for: so they do without
    its `dots` and `tiles`.
    """

    lanes: int
    registers: int
    threads: int
    dots: Dot = Dot.NONE
    tiles: bool = False
    name: str = ""
    triple: str = ""
    needs: tuple[str, ...] = ()
    is_emulated: bool = False

    @property
    def host(self) -> Host:
        """What a library for it needs to run."""
        architecture = self.triple.partition("-")[0] or platform.machine()
        return Host(architecture, self.name, () if self.is_emulated else self.needs)

    @property
    def is_native(self) -> bool:
        """Whether this machine's own compiler links for it."""
        return self.host.architecture == platform.machine()

    def emulated(self) -> "Machine":
        """A machine with kernels of the same shapes that is this one."""
        return replace(self, triple="", is_emulated=True)


def host() -> Machine:
    """The CPU this process runs on, with the cores it may use."""
    return shaped(hosts.available(), cores(), hosts.name(hosts.cpuinfo()))


def named(text: str) -> Machine:
    """The CPU of another machine: TRIPLE, or TRIPLE:CPU. Raises UsageError for one that is not known."""
    triple, _, cpu = text.partition(":")
    known = CPUS.get(triple)
    if known is None:
        raise UsageError(
            f"no host {triple!r}: there is {', '.join(CPUS)}. TVM runs on no 32-bit board: such a board is a "
            "device, see docs/fpga.md"
        )
    cpu = cpu or next(iter(known))
    if cpu not in known:
        raise UsageError(f"no CPU {cpu!r} of {triple}: there is {', '.join(known)}")
    return shaped(frozenset(known[cpu]), _CORES, cpu, triple)


def shaped(features: Set[str], threads: int, name: str, triple: str = "") -> Machine:
    """A CPU with features by Linux's names, found without TVM: a program from the cache does not load it."""
    unit = next((unit for unit in _VECTOR_UNITS if unit[0] in features), ("", *_BASELINE))
    found = next((dot for dot in _DOTS if dot[0] == unit[1] and features >= set(dot[1])), (0, (), Dot.NONE))
    tiles = sorted(hosts.TILES) if features >= hosts.TILES else []
    needs = tuple(dict.fromkeys(feature for feature in (unit[0], *found[1], *tiles) if feature))
    return Machine(*unit[1:], threads, found[2], bool(tiles), name, triple, needs)
