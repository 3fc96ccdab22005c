"""The machine that runs a Program: what its library needs of one, and what Linux says of this one."""

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from e2compile.errors import MissingError

# What kernels by tiles use: every CPU that has tiles has the rounding to bfloat16, too.
TILES = frozenset(("amx_tile", "amx_int8", "avx512_bf16"))
# Linux gives the registers of tiles to who asks for them: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA).
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18


@dataclass(frozen=True)
class Host:
    """A machine that a library was compiled for.

    `architecture` is what `uname -m` says there, `features` what the code needs of the CPU, by the names that
    Linux gives them; `cpu` is for people.
    """

    architecture: str
    cpu: str = ""
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.architecture} ({self.cpu})" if self.cpu else self.architecture

    def lacking(self) -> str | None:
        """What this machine lacks to run code for that one; None if nothing."""
        here = platform.machine()
        if here != self.architecture:
            return f"this machine is {here}"
        present = available()
        absent = [feature for feature in self.features if feature not in present]
        return f"this machine's CPU has no {', '.join(absent)}" if absent else None


def check(host: Host, folder: Path) -> None:
    """Raise MissingError where this machine cannot run a Program for another."""
    lacking = host.lacking()
    if lacking is not None:
        raise MissingError(
            f"{folder} was compiled for {host}, and {lacking}: run it there, or compile it for this one"
        )


def cpuinfo() -> dict[str, str]:
    """What Linux says of this CPU."""
    return parsed(Path("/proc/cpuinfo").read_text())


@cache
def available() -> frozenset[str]:
    """This CPU's features that this process may use; where it has tiles, they are asked for."""
    found = features(cpuinfo())
    if found >= TILES and ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0:
        return found
    return found - TILES


def parsed(text: str) -> dict[str, str]:
    """The fields of /proc/cpuinfo; of several CPUs the last one's."""
    lines = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def features(known: dict[str, str]) -> frozenset[str]:
    """A CPU's features by Linux's names, which differ from one architecture to the other."""
    return frozenset(known.get("flags", known.get("Features", "")).split())


def name(known: dict[str, str]) -> str:
    """A CPU's model; on ARM a number."""
    return known.get("model name", known.get("CPU part", ""))
