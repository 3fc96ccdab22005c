"""What an instruction touches: which elements of which scratchpad, and whether one comes back too soon."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Alu, Gemm, Instruction, Memory, Transfer, Uop

Pair = tuple[int, int]
Indices = NDArray[np.intp]

# Micro-ops from one that writes an accumulator to the first that may read it: the hardware loses a result
# that is read after one or two.
DISTANCE = 3


def largest(indices: Indices, loops: Pair, factors: Pair) -> int:
    """The last element that is reached from `indices`, which are not empty."""
    return int(indices.max()) + sum(
        (count - 1) * factor for count, factor in zip(loops, factors, strict=True)
    )


def touched(indices: Indices, loops: Pair, factors: Pair, size: int) -> Indices:
    """The elements index + i * factors[0] + j * factors[1], for i, j below `loops`, of the first `size`."""
    return _touched(indices.tobytes(), loops, factors, size)


@lru_cache(4096)
def _touched(content: bytes, loops: Pair, factors: Pair, size: int) -> Indices:
    indices = np.frombuffer(content, np.intp)
    reached = np.zeros(size, bool)
    reached[indices[indices < size]] = True
    for count, factor in zip(loops, factors, strict=True):
        steps = 1
        while factor and steps < count:
            more = min(steps, count - steps)
            reached[more * factor :] |= reached[: -more * factor].copy()
            steps += more
    return np.flatnonzero(reached)


def returns(dst: Indices, loops: Pair, factors: Pair, src: Indices | None, src_factors: Pair) -> int | None:
    """After how few micro-ops, if less than DISTANCE, an accumulator that is written is read again: as a
    `dst`, or as a `src` where there are any."""
    return _returns(dst.tobytes(), loops, factors, None if src is None else src.tobytes(), src_factors)


@lru_cache(4096)
def _returns(dst: bytes, loops: Pair, factors: Pair, src: bytes | None, src_factors: Pair) -> int | None:
    alike = (True, True) if src is None else (factors[0] == src_factors[0], factors[1] == src_factors[1])
    for iterations in _iterations(loops, alike):
        written = _sequence(dst, iterations, factors)
        read = [written] if src is None else [written, _sequence(src, iterations, src_factors)]
        for distance in range(1, DISTANCE):
            if any((indices[distance:] == written[:-distance]).any() for indices in read):
                return distance
    return None


def _iterations(loops: Pair, alike: tuple[bool, bool]) -> Iterator[NDArray[np.intp]]:
    """Runs of iterations (i, j) in which all that can happen within DISTANCE micro-ops does happen.

    In a loop whose factors are `alike`, what is between two iterations is the same everywhere, but for where
    the inner loop starts anew.
    """
    outer, inner = loops
    if inner <= DISTANCE or not alike[1]:
        yield _grid(range(min(outer, DISTANCE) if alike[0] else outer), range(inner))
        return
    start, end = range(DISTANCE), range(inner - DISTANCE, inner)
    for i in range(1 if alike[0] else outer):
        yield _grid([i], start)
        if i + 1 < outer:
            yield np.concatenate([_grid([i], end), _grid([i + 1], start)])


def _grid(outer: Sequence[int], inner: Sequence[int]) -> NDArray[np.intp]:
    return np.stack(np.meshgrid(outer, inner, indexing="ij"), -1).reshape(-1, 2).astype(np.intp)


def _sequence(content: bytes, iterations: NDArray[np.intp], factors: Pair) -> Indices:
    """The elements in the order in which they are touched."""
    return ((iterations @ factors)[:, None] + np.frombuffer(content, np.intp)).ravel()


@dataclass(frozen=True)
class Footprint:
    """Elements that an instruction reads and writes, without those that are none. Elements of OUT count as
    those of ACC that they are the low bits of. A `reset` reads nothing that it uses."""

    reads: Mapping[Memory, Indices] = field(default_factory=dict)
    writes: Mapping[Memory, Indices] = field(default_factory=dict)


NOTHING = Footprint()


class MicroOps:
    """The micro-ops of a stream, and which of them are in the scratchpad."""

    def __init__(self, uops: Sequence[Uop], config: Config) -> None:
        self._table = np.array([(u.dst, u.src, u.wgt) for u in uops], np.intp).reshape(-1, 3).T
        self._held = np.full(1 << config.log_uops, -1, np.intp)

    def of(self, instruction: Instruction) -> Indices | None:
        """[dst, src, wgt] of the micro-ops that an instruction runs, None if some were never loaded. Asked
        of the instructions in order: loads of micro-ops take effect."""
        if isinstance(instruction, Transfer) and instruction.memory is Memory.UOP:
            first = instruction.dram
            loaded = np.arange(first, min(first + instruction.columns, self._table.shape[1]))
            place = self._held[instruction.sram : instruction.sram + len(loaded)]
            place[:] = loaded[: len(place)]
        if not isinstance(instruction, Gemm | Alu):
            return None
        held = self._held[slice(*instruction.uops)]
        if len(held) < instruction.uops[1] - instruction.uops[0] or (held < 0).any():
            return None
        return self._table[:, held]


def depth(memory: Memory, config: Config) -> int:
    """Elements that a scratchpad has."""
    logs = {Memory.UOP: config.log_uops, Memory.INP: config.log_inps, Memory.WGT: config.log_wgts}
    return 1 << logs.get(memory, config.log_accs)


def operands(instruction: Gemm | Alu) -> list[tuple[Memory, int, Pair]]:
    """The memory of each index of its micro-ops that it uses, the index's row in MicroOps, its factors."""
    dst = (Memory.ACC, 0, instruction.dst)
    if isinstance(instruction, Gemm):
        return [dst, (Memory.INP, 1, instruction.src), (Memory.WGT, 2, instruction.wgt)]
    return [dst] if instruction.immediate is not None else [dst, (Memory.ACC, 1, instruction.src)]


def footprint(instruction: Instruction, loaded: Indices | None, config: Config) -> Footprint:
    """`loaded` are its micro-ops."""
    if isinstance(instruction, Transfer):
        first, count = instruction.sram, sram_elements(instruction)
        if instruction.memory is Memory.OUT:
            return Footprint(reads={Memory.ACC: _range(first, count, Memory.ACC, config)})
        return Footprint(writes={instruction.memory: _range(first, count, instruction.memory, config)})
    if not isinstance(instruction, Gemm | Alu) or loaded is None or instruction.cycles <= 0:
        return NOTHING
    dst, *others = (
        (memory, touched(loaded[row], instruction.loops, factors, depth(memory, config)))
        for memory, row, factors in operands(instruction)
    )
    if isinstance(instruction, Gemm) and instruction.reset:
        return Footprint(writes=dict([dst]))
    if isinstance(instruction, Alu) and others:
        return Footprint({Memory.ACC: np.union1d(dst[1], others[0][1])}, dict([dst]))
    return Footprint(dict([dst, *others]), dict([dst]))


def sram_elements(transfer: Transfer) -> int:
    top, bottom, left, right = transfer.pad
    return 0 if transfer.is_idle else (top + transfer.rows + bottom) * (left + transfer.columns + right)


def _range(first: int, count: int, memory: Memory, config: Config) -> Indices:
    return np.arange(first, max(first, min(first + count, depth(memory, config))))
