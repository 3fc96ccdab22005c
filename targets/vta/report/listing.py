"""The streams of one kernel as text: instructions with their cycles, micro-ops, and what they compute."""

from collections.abc import Iterator, Mapping, Sequence

from e2compile.errors import UsageError
from e2compile.targets.vta.analysis.timing import timing
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import decode, decode_uops
from e2compile.targets.vta.isa.text import disassemble
from e2compile.targets.vta.program.table import Binary, Operator, Run, Table, phase, words

_COLUMN = 72  # where cycles are written, unless an instruction is longer


def listing(table: Table, name: str, lines: Mapping[str, Sequence[str]]) -> str:
    """The streams of a kernel, as assembler; `lines` are the model's of each kernel.

    Raises UsageError, which lists the kernels that have streams, for another name.
    """
    found = next((operator for operator in table.operators if operator.name == name), None)
    if found is None:
        known = [f"{operator.name}: {_what(operator)}" for operator in table.operators]
        raise UsageError("\n  ".join([f"no streams of {name!r}; there are those of", *known]))
    return "\n".join(_listed(table, found, lines.get(name, ()))) + "\n"


def _what(operator: Operator) -> str:
    return f"{words(operator.conv)}, {phase(operator.what)}"


def _listed(table: Table, operator: Operator, lines: Sequence[str]) -> Iterator[str]:
    yield f"# {operator.name}: {_what(operator)}, on a {table.config.target} {table.config.name}"
    yield from (f"# model: {line}" for line in lines)
    yield f"# cycles of a group of samples: {table.cost(operator).cycles}; groups: {operator.groups}"
    starts = [(run, number) for run in operator.runs for number in run.streams]
    for i, (run, number) in enumerate(starts, 1):
        yield ""
        yield f"# stream {i} of {len(starts)}: {_place(run, table.streams[number])}"
        yield from _stream(table.streams[number], table.config)


def _place(run: Run, stream: Binary) -> str:
    place = f"inputs from byte {run.inp}, weights from {run.wgt}, sums from {run.out}"
    return f"{len(stream.instructions)} instructions, {stream.cost.cycles} cycles; {place} of its buffers"


def _stream(stream: Binary, config: Config) -> Iterator[str]:
    """DRAM addresses count from the start of their buffers."""
    instructions = decode(stream.instructions, config)
    times = timing(instructions, config)
    yield f"# {'starts and ends, in cycles':>{_COLUMN - 2}}"
    texts = disassemble(instructions).splitlines()
    for text, start, end in zip(texts, times.starts.tolist(), times.ends.tolist(), strict=True):
        yield f"{text:{_COLUMN}}# {start:>8} {end:>8}"
    for i, uop in enumerate(decode_uops(stream.uops, config)):
        yield f"# uop {i}: dst={uop.dst} src={uop.src} wgt={uop.wgt}"
