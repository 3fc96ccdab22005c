"""Instructions as text, one a line, and back.

    load inp sram=0 dram=256 rows=14 columns=16 stride=30 pad=1,1,0,0 pop=next push=next
    gemm uops=0:9 loops=14,14 dst=14,1 src=16,1 pop=prev push=prev
    shr uops=0:4 imm=7

What is not written is 0, once for loops, no micro-ops. `reset` is a GEMM that clears, `store` a transfer to
OUT; `pop` and `push` name the neighbouring stages: prev, next or both. `#` starts a comment.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from e2compile.errors import UsageError
from e2compile.targets.vta.isa.instructions import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Memory,
    Tokens,
    Transfer,
)

_SIDES = ("prev", "next")


def disassemble(instructions: Iterable[Instruction]) -> str:
    return "".join(f"{line(instruction)}\n" for instruction in instructions)


def assemble(text: str) -> list[Instruction]:
    """The instructions of a text. Raises UsageError, naming the line, for what is none."""
    result = []
    for number, content in enumerate(text.splitlines(), 1):
        words = content.partition("#")[0].split()
        if words:
            try:
                result.append(_parsed(words))
            except ValueError as error:
                raise UsageError(f"line {number}: {error}: {content.strip()}") from error
    return result


def line(instruction: Instruction) -> str:
    """One instruction, without what is as if it were not written."""
    words = [_name(instruction)]
    for key, kind in _KEYS[words[0].partition(" ")[0]].items():
        value = getattr(instruction, kind.attribute or key)
        if value != kind.default:
            words.append(f"{key}={kind.write(value)}")
    tokens = instruction.tokens
    for verb in ("pop", "push"):
        sides = [side for side in _SIDES if getattr(tokens, f"{verb}_{side}")]
        if sides:
            words.append(f"{verb}={','.join(sides)}")
    return " ".join(words)


def _name(instruction: Instruction) -> str:
    if isinstance(instruction, Transfer):
        if instruction.memory is Memory.OUT:
            return "store"
        return f"load {instruction.memory.name.lower()}"
    if isinstance(instruction, Alu):
        return instruction.op.name.lower()
    if isinstance(instruction, Gemm):
        return "reset" if instruction.reset else "gemm"
    return "finish"


def _parsed(words: list[str]) -> Instruction:
    name, *rest = words
    if name not in _KEYS:
        raise ValueError(f"{name!r} is none of {', '.join(_KEYS)}")
    memory = _memory(rest.pop(0) if rest else "") if name == "load" else Memory.OUT
    values, tokens = _values(name, rest)
    if name in ("load", "store"):
        return Transfer(memory, tokens=tokens, **values)
    if name in ("gemm", "reset"):
        return Gemm(reset=name == "reset", tokens=tokens, **({"uops": (0, 0)} | values))
    if name == "finish":
        return Finish(tokens)
    return Alu(AluOp[name.upper()], tokens=tokens, **({"uops": (0, 0)} | values))


def _memory(name: str) -> Memory:
    loaded = [memory.name.lower() for memory in Memory if memory is not Memory.OUT]
    if name not in loaded:
        raise ValueError(f"a load is of {', '.join(loaded)}, not {name!r}")
    return Memory[name.upper()]


def _values(name: str, words: list[str]) -> tuple[dict[str, Any], Tokens]:
    """What a line's key=value pairs say, by the instruction's attributes."""
    values: dict[str, Any] = {}
    tokens: dict[str, bool] = {}
    seen: set[str] = set()
    for word in words:
        key, _, value = word.partition("=")
        if key in seen:
            raise ValueError(f"{key} is said twice")
        seen.add(key)
        if key in ("pop", "push"):
            tokens |= {f"{key}_{_side(side)}": True for side in value.split(",")}
        elif key in _KEYS[name]:
            kind = _KEYS[name][key]
            values[kind.attribute or key] = kind.read(key, value)
        else:
            raise ValueError(f"{key!r} is none of {', '.join((*_KEYS[name], 'pop', 'push'))}")
    return values, Tokens(**tokens)


def _side(name: str) -> str:
    if name not in _SIDES:
        raise ValueError(f"tokens go to {' or '.join(_SIDES)}, not {name!r}")
    return name


@dataclass(frozen=True)
class _Value:
    """A number, or several between separators; `default` is what is meant where none are written."""

    default: int | tuple[int, ...] | None
    count: int = 1
    separator: str = ","
    attribute: str | None = None

    def read(self, key: str, text: str) -> int | tuple[int, ...]:
        parts = text.split(self.separator)
        if len(parts) != self.count or not all(_NUMBER.fullmatch(part) for part in parts):
            raise ValueError(f"{key}={text} is not like {key}={self.separator.join(['1'] * self.count)}")
        numbers = tuple(map(int, parts))
        return numbers[0] if self.count == 1 else numbers

    def write(self, value: Any) -> str:
        return self.separator.join(map(str, (value,) if self.count == 1 else value))


_NUMBER = re.compile("-?[0-9]{1,18}")
_TRANSFER = dict.fromkeys(("sram", "dram", "rows", "columns", "stride"), _Value(0))
_TRANSFER |= {"pad": _Value((0, 0, 0, 0), 4)}
_LOOPS = {"uops": _Value((0, 0), 2, ":"), "loops": _Value((1, 1), 2)}
_LOOPS |= dict.fromkeys(("dst", "src"), _Value((0, 0), 2))
_GEMM = _LOOPS | {"wgt": _Value((0, 0), 2)}
_KEYS: Mapping[str, Mapping[str, _Value]] = {
    "load": _TRANSFER,
    "store": _TRANSFER,
    "gemm": _GEMM,
    "reset": _GEMM,
    **{op.name.lower(): _LOOPS | {"imm": _Value(None, attribute="immediate")} for op in AluOp},
    "finish": {},
}
