"""How a register tile multiplies and adds: floats, or bytes several to a lane, or bytes one to a lane."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import tvm.tirx.script.builder as T
from tvm import tirx

from e2compile.targets.llvm.dot import LEAST_WIDTH, depth, dot, neighbours, takes_signed
from e2compile.targets.llvm.emit import fetch, keep, least, load, multiply_add, splat, typed
from e2compile.targets.llvm.machine import Dot, Machine

_PAIR = 2
# Of an unsigned, and of a signed byte.
_TOP_BIT = (128, -128)


class Arithmetic(Protocol):
    """Sums are of type `dtype`; one step of a sum takes `depth` source channels."""

    @property
    def dtype(self) -> str: ...

    @property
    def depth(self) -> int: ...

    @property
    def is_offset(self) -> bool:
        """Whether each source byte is read with its top bit flipped: as 128 more or less than it is."""

    @property
    def source_dtype(self) -> str | None:
        """The type that sources are copied to before they are read, if they are."""

    def copied(self, value: Any, width: int) -> Any:
        """What a vector of sources is copied as."""

    def fitted(self, machine: Machine) -> Machine:
        """The machine as the register tiles of these sums see it."""

    def channel(self, step: Any, sources: int) -> Any:
        """The first source channel of a step."""

    def source(self, line: Any, index: Any, sources: int) -> Any:
        """One position's source channels of a step, as what goes into each lane."""

    def width(self, lanes: int) -> int:
        """How wide a vector is that holds so many lanes; what lies behind them in memory is never used."""

    def vector(self, buffer: Any, index: Any, width: int) -> Any:
        """Lanes from memory."""

    def add(self, register: Any, left: Any, right: Any, width: int) -> None:
        """register += left * right."""


@dataclass(frozen=True)
class Floats:
    """fp32, rounded once for each product."""

    dtype: str = "float32"
    depth: int = 1
    is_offset: bool = False
    source_dtype: str | None = None

    def copied(self, value: Any, width: int) -> Any:  # noqa: ARG002
        return value

    def fitted(self, machine: Machine) -> Machine:
        return machine

    def channel(self, step: Any, sources: int) -> Any:  # noqa: ARG002
        return step

    def source(self, line: Any, index: Any, sources: int) -> Any:  # noqa: ARG002
        return T.bind(line[index])

    def width(self, lanes: int) -> int:
        return lanes

    def vector(self, buffer: Any, index: Any, width: int) -> Any:
        return load(buffer, index, width)

    def add(self, register: Any, left: Any, right: Any, width: int) -> None:
        multiply_add(register, left, right, width)


@dataclass(frozen=True)
class Dots:
    """Bytes, four to an int32 lane, exactly; or two, widened to int16.

    Where the machine multiplies no such bytes as the sources are, those are copied with the top bit flipped,
    so that they are 128 more or less: whoever uses this takes that out of the sum. As int16 there are no
    such.
    """

    machine: Machine
    signed: bool
    dtype: str = "int32"

    @property
    def depth(self) -> int:
        return depth(self.machine)

    @property
    def is_offset(self) -> bool:
        return self.depth != _PAIR and self.signed is not takes_signed(self.machine)

    @property
    def source_dtype(self) -> str | None:
        if self.is_offset:
            return "int8" if self.signed else "uint8"
        return "int16" if self.depth == _PAIR else None

    def copied(self, value: Any, width: int) -> Any:
        if self.is_offset:
            return T.bitwise_xor(value, splat(tirx.const(_TOP_BIT[self.signed], self.source_dtype), width))
        return T.Cast(typed("int16", width), value)

    def fitted(self, machine: Machine) -> Machine:
        """Without the instruction, a product takes registers of its own."""
        return machine if machine.dots is not Dot.NONE else replace(machine, registers=machine.registers // 2)

    def channel(self, step: Any, sources: int) -> Any:
        """The last step looks back over channels that were summed before, rather than beyond the last one."""
        first = step * self.depth
        return first if sources % self.depth == 0 else least(first, max(sources - self.depth, 0))

    def source(self, line: Any, index: Any, sources: int) -> Any:
        return T.bind(neighbours(line, index, min(sources, self.depth), self.depth))

    def width(self, lanes: int) -> int:
        # LLVM 22 makes wrong code out of sums of single lanes, which it puts together to vectors by itself.
        return max(lanes, LEAST_WIDTH)

    def vector(self, buffer: Any, index: Any, width: int) -> Any:
        return load(buffer, index, width)

    def add(self, register: Any, left: Any, right: Any, width: int) -> None:
        dot(register, left, right, width, self.machine)


@dataclass(frozen=True)
class Bytes:
    """Bytes widened to int32 lanes: what depthwise sums, which have no neighbouring channels, are made of."""

    dtype: str = "int32"
    depth: int = 1
    is_offset: bool = False
    source_dtype: str | None = None

    def copied(self, value: Any, width: int) -> Any:  # noqa: ARG002
        return value

    def fitted(self, machine: Machine) -> Machine:
        return machine

    def channel(self, step: Any, sources: int) -> Any:  # noqa: ARG002
        return step

    def source(self, line: Any, index: Any, sources: int) -> Any:  # noqa: ARG002
        return T.bind(T.Cast("int32", line[index]))

    def width(self, lanes: int) -> int:
        return lanes

    def vector(self, buffer: Any, index: Any, width: int) -> Any:
        return T.bind(T.Cast(typed("int32", width), load(buffer, index, width)))

    def add(self, register: Any, left: Any, right: Any, width: int) -> None:
        keep(register, fetch(register, width) + left * right, width)
