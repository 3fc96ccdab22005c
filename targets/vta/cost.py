"""Cycles of instructions and streams, as the hardware's RTL takes them."""

from collections import deque

from e2compile.targets.vta.emit import Box
from e2compile.targets.vta.isa import Alu, Finish, Gemm, Instruction, Memory, Stage, Transfer
from e2compile.targets.vta.stream import Stream

_LATENCY = 75  # from a read's request to its first beat, which reproduces measured layers


def gemm(uops: int) -> int:
    return 21 + uops


def alu(uops: int) -> int:
    return 21 + 2 * uops


def moved(memory: Memory, box: Box) -> int:
    return sum(cycles(transfer) for transfer in box.transfers(memory, 0))


def cycles(instruction: Instruction) -> int:
    match instruction:
        case Gemm():
            return gemm(instruction.cycles)
        case Alu():
            return alu(instruction.cycles)
        case Transfer(rows=rows, columns=columns) if columns:
            match instruction.memory:
                case Memory.UOP:
                    return columns + _LATENCY + 17
                case Memory.WGT:
                    return 6 + rows * (64 * columns + _LATENCY + 14)
                case Memory.OUT:
                    return 4 + rows * (2 * columns + _LATENCY + 13)
                case _:
                    return 10 + rows * (2 * columns + _LATENCY + 18)
        case Transfer() | Finish():
            return 14


def total(stream: Stream) -> int:
    """Cycles of a stream whose tokens run forward, as the emitter's do."""
    free = dict.fromkeys(Stage, 0)
    tokens: dict[tuple[Stage, Stage], deque[int]] = {}

    def queue(producer: int, consumer: int) -> deque[int]:
        return tokens.setdefault((Stage(producer), Stage(consumer)), deque())

    for instruction in stream.instructions:
        stage, flags = instruction.stage, instruction.tokens
        begin = free[stage]
        if flags.pop_prev:
            begin = max(begin, queue(stage - 1, stage).popleft())
        if flags.pop_next:
            begin = max(begin, queue(stage + 1, stage).popleft())
        free[stage] = begin + cycles(instruction)
        if flags.push_prev:
            queue(stage, stage - 1).append(free[stage])
        if flags.push_next:
            queue(stage, stage + 1).append(free[stage])
    return max(free.values())
