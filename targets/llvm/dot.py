"""Sums of integer products in int32 lanes, several small integers to a lane: four bytes, or two int16."""

from collections.abc import Sequence
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.llvm.emit import fetch, keep, splat, typed
from e2compile.targets.llvm.machine import Dot, Machine

LANE_BITS = 32
# Each byte's top bit: flipped, it turns a signed byte into an unsigned one that is 128 more, and back.
OFFSETS = -0x7F7F7F80
LEAST_WIDTH = 4
_VPMADDWD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def depth(machine: Machine) -> int:
    """How many integers a lane holds."""
    return 2 if machine.dots is Dot.VPMADDWD else 4


def takes_signed(machine: Machine) -> bool:
    """Whether the left integers are signed."""
    return machine.dots in (Dot.SDOT, Dot.VPMADDWD)


def dot(register: Any, left: Any, right: Any, width: int, machine: Machine) -> None:
    """register += in each lane, the integers of `left` times those of `right`, which are signed.

    Those of `left` are unsigned, or signed: see `takes_signed`.
    """
    total = fetch(register, width)
    if machine.dots is Dot.NONE or machine.is_emulated:
        total = summed(total, (left, takes_signed(machine)), (right, True), depth(machine), width)
    elif machine.dots is Dot.VPMADDWD:
        total = total + _intrinsic(_VPMADDWD[width], width, *_as("int16", width, left, right))
    elif machine.dots is Dot.VPDPBUSD:
        name = f"llvm.x86.avx512.vpdpbusd.{LANE_BITS * width}"
        total = _intrinsic(name, width, total, *_as("int8", width, left, right))
    else:
        total = _intrinsic("llvm.aarch64.neon.sdot", width, total, *_as("int8", width, left, right))
    keep(register, total, width)


def summed(total: Any, left: tuple[Any, bool], right: tuple[Any, bool], number: int, width: int) -> Any:
    """total + in each lane, the `number` integers of `left` times those of `right`, each signed or not."""
    for place in range(number):
        factors = [
            (_signed if signed else _unsigned)(lanes, place, number, width) for lanes, signed in (left, right)
        ]
        total = total + factors[0] * factors[1]
    return total


def _intrinsic(name: str, width: int, *operands: Any) -> Any:
    return T.call_llvm_pure_intrin(typed("int32", width), name, *operands)


def _as(dtype: str, width: int, *lanes: Any) -> list[Any]:
    number = width * LANE_BITS // int(dtype.removeprefix("int"))
    return [T.reinterpret(typed(dtype, number), each) for each in lanes]


def _unsigned(lanes: Any, place: int, number: int, width: int) -> Any:
    bits = LANE_BITS // number
    shifted = T.shift_right(lanes, splat(T.int32(bits * place), width)) if place else lanes
    return T.bitwise_and(shifted, splat(T.int32((1 << bits) - 1), width))


def _signed(lanes: Any, place: int, number: int, width: int) -> Any:
    bits = LANE_BITS // number
    above = bits * (number - 1 - place)
    shifted = T.shift_left(lanes, splat(T.int32(above), width)) if above else lanes
    return T.shift_right(shifted, splat(T.int32(LANE_BITS - bits), width))


def joined(vectors: Sequence[Any], number: int, width: int) -> Any:
    """Up to `number` vectors of small integers as one of int32 lanes, the first in the lowest bits."""
    bits = LANE_BITS // number
    total: Any = None
    for place, vector in enumerate(vectors):
        lanes = T.bitwise_and(T.Cast(typed("int32", width), vector), splat(T.int32((1 << bits) - 1), width))
        lanes = T.shift_left(lanes, splat(T.int32(bits * place), width)) if place else lanes
        total = lanes if total is None else T.bitwise_or(total, lanes)
    return total


def neighbours(buffer: Any, index: Any, present: int, number: int) -> Any:
    """Neighbouring integers of a buffer as one int32; of fewer than `number`, the others are zero."""
    if present == number and int(buffer.dtype.removeprefix("u").removeprefix("int")) * number == LANE_BITS:
        return T.reinterpret("int32", buffer[T.ramp(index, 1, number)])
    return joined([buffer[index + place] for place in range(present)], number, 1)
