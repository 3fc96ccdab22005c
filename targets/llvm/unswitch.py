"""Unswitching: a loop that chooses by a flag which a whole row shares, as one loop for each value of it."""

from dataclasses import replace
from typing import Any

import torch

from e2compile.lower.access import is_affine, strides
from e2compile.lower.loop import Compute, Load, Loop, Value

aten = torch.ops.aten


def row_flag(loop: Loop, inner: tuple[int, ...]) -> int | None:
    """The instruction that loads a flag which chooses between values and is the same along the `inner` dims.

    None where there is none; of several the first.
    """
    choosers = {
        call.args[0].index
        for call in loop.instructions
        if isinstance(call, Compute) and call.op is aten.where.self and isinstance(call.args[0], Value)
    }
    for index in sorted(choosers):
        load = loop.instructions[index]
        is_flag = isinstance(load, Load) and loop.buffers[load.buffer].dtype == "bool" and is_affine(load)
        if isinstance(load, Load) and is_flag and not any(strides(loop, load)[1][d] for d in inner):
            return index
    return None


def decided(loop: Loop, flag: int, value: bool) -> Loop:
    """The loop where a flag has a value: its choices are made, and what only the other side needs is gone."""
    instructions = [_chosen(i, flag, value) for i in loop.instructions]
    needed = _needed(instructions, {value for value, _ in loop.stores})
    place = {old: new for new, old in enumerate(sorted(needed))}
    kept = tuple(_renumbered(instructions[i], place) for i in sorted(needed))
    return replace(loop, instructions=kept, stores=tuple((place[v], b) for v, b in loop.stores))


def _chosen(instruction: Load | Compute, flag: int, value: bool) -> Load | Compute:
    is_choice = isinstance(instruction, Compute) and instruction.op is aten.where.self
    if not isinstance(instruction, Compute) or not is_choice or instruction.args[0] != Value(flag):
        return instruction
    taken = instruction.args[1 if value else 2]
    return replace(instruction, op=aten._to_copy.default, args=(taken,), kwargs=())


def _needed(instructions: list[Load | Compute], wanted: set[int]) -> set[int]:
    needed: set[int] = set()
    stack = list(wanted)
    while stack:
        index = stack.pop()
        if index not in needed:
            needed.add(index)
            stack.extend(_operands(instructions[index]))
    return needed


def _operands(instruction: Load | Compute) -> list[int]:
    if isinstance(instruction, Load):
        return [] if instruction.computed is None else [instruction.computed[1]]
    return [a.index for a in instruction.args if isinstance(a, Value)]


def _renumbered(instruction: Load | Compute, place: dict[int, int]) -> Load | Compute:
    if isinstance(instruction, Load):
        if instruction.computed is None:
            return instruction
        dim, value = instruction.computed
        return replace(instruction, computed=(dim, place[value]))

    def moved(argument: Any) -> Any:
        return Value(place[argument.index]) if isinstance(argument, Value) else argument

    return replace(instruction, args=tuple(map(moved, instruction.args)))
