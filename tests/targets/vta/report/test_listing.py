"""A kernel's streams as text say what the Program holds, and can be assembled again."""

from pathlib import Path

import numpy as np
import pytest

import e2compile
from e2compile.errors import UsageError
from e2compile.runtime.summary import compile_report
from e2compile.targets.vta.isa.instructions import Uop, encode, encode_uops
from e2compile.targets.vta.isa.text import assemble
from e2compile.targets.vta.program.table import Table
from e2compile.targets.vta.report.listing import listing
from tests.commands import run


@pytest.fixture(scope="module")
def table(fpga_program: Path) -> Table:
    found: Table = e2compile.load(fpga_program).driver.table
    return found


def test_the_text_is_the_stream(table: Table) -> None:
    for operator in table.operators:
        streams = [table.streams[number] for run in operator.runs for number in run.streams]
        _, *parts = listing(table, operator.name, {}).split("# stream ")
        assert len(parts) == len(streams)
        for part, stream in zip(parts, streams, strict=True):
            text = part.partition("\n")[2]
            np.testing.assert_array_equal(encode(assemble(text), table.config), stream.instructions)
            uops = [line.split(": ")[1].split() for line in text.splitlines() if line.startswith("# uop ")]
            found = [Uop(*(int(word.partition("=")[2]) for word in words)) for words in uops]
            np.testing.assert_array_equal(encode_uops(found, table.config), stream.uops)


def test_cycles_end_where_the_cost_says(table: Table) -> None:
    operator = table.operators[0]
    text = listing(table, operator.name, {})
    finish = next(line for line in text.splitlines() if line.startswith("finish"))
    assert int(finish.split()[-1]) == table.streams[operator.runs[0].streams[0]].cost.cycles
    assert f"# cycles of a group of samples: {table.cost(operator).cycles};" in text


def test_the_command_line_names_layer_and_line(
    fpga_program: Path, table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    name = table.operators[0].name
    assert run("inspect", fpga_program, "--stream", name) == 0
    text = capsys.readouterr().out
    assert text == listing(table, name, compile_report(fpga_program)["lines"])
    assert text.startswith(
        f"# {name}: 1->8 3x3 @8x8, forward, on a pynq 1x16_i8w8a32_15_15_18_17\n# model: 0\n"
    )
    assert run("inspect", fpga_program, "--stream", "nothing") == 2
    shown = capsys.readouterr().err
    assert "no streams of 'nothing'; there are those of\n" in shown
    assert "  integer_input_gradient: 8->20 3x3 /2 @8x8, input gradient\n" in shown


def test_another_name_lists_all(table: Table) -> None:
    with pytest.raises(UsageError) as caught:
        listing(table, "", {})
    assert all(f"  {operator.name}: " in str(caught.value) for operator in table.operators)
