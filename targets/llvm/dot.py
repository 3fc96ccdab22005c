"""Four products of bytes added up in each int32 lane: by one instruction where the CPU has it."""

from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.emit import fetch, keep, splat, typed
from e2compile.targets.llvm.machine import Dot, Machine

BYTES = 4
# Each byte's top bit: flipped, it turns a signed byte into an unsigned one that is 128 more, and back.
OFFSETS = -0x7F7F7F80
LEAST_WIDTH = 4
_INTRINSICS = {Dot.VPDPBUSD: "llvm.x86.avx512.vpdpbusd.{}", Dot.SDOT: "llvm.aarch64.neon.sdot"}


def dot(register: Any, left: Any, right: Any, width: int, machine: Machine) -> None:
    """register += in each lane, the four bytes of `left` times the four signed bytes of `right`.

    Those of `left` are unsigned, or signed: see `takes_signed`.
    """
    if machine.dots is Dot.NONE or machine.is_emulated:
        of_left = _signed if takes_signed(machine) else _unsigned
        total = fetch(register, width)
        for byte in range(BYTES):
            total = total + of_left(left, byte, width) * _signed(right, byte, width)
    else:
        bytewise = typed("int8", BYTES * width)
        operands = [T.reinterpret(bytewise, operand) for operand in (left, right)]
        name = _INTRINSICS[machine.dots].format(32 * width)
        total = T.call_llvm_pure_intrin(typed("int32", width), name, fetch(register, width), *operands)
    keep(register, total, width)


def takes_signed(machine: Machine) -> bool:
    """Whether the left bytes are signed."""
    return machine.dots is Dot.SDOT


def _unsigned(lanes: Any, byte: int, width: int) -> Any:
    shifted = T.shift_right(lanes, splat(T.int32(8 * byte), width)) if byte else lanes
    return T.bitwise_and(shifted, splat(T.int32(255), width))


def _signed(lanes: Any, byte: int, width: int) -> Any:
    top = 8 * (BYTES - 1)
    shifted = T.shift_left(lanes, splat(T.int32(top - 8 * byte), width)) if byte < BYTES - 1 else lanes
    return T.shift_right(shifted, splat(T.int32(top), width))


def quad(buffer: Any, index: Any, present: int = BYTES) -> Any:
    """Four neighbouring bytes as one int32; of fewer, the others are zero."""
    if present == BYTES:
        return T.reinterpret("int32", buffer[T.ramp(index, 1, BYTES)])
    terms = [
        T.shift_left(T.Cast("int32", T.reinterpret("uint8", buffer[index + j])), T.int32(8 * j))
        for j in range(present)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = T.bitwise_or(total, term)
    return total
