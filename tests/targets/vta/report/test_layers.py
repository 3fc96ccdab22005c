"""What the report says of a program is what the program does, and what can be counted by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import e2compile
from e2compile.errors import UsageError
from e2compile.lower.workload import Convolution
from e2compile.report.content import content
from e2compile.targets.vta.analysis.timing import ALU, GEMM, IDLE
from e2compile.targets.vta.isa.config import named
from e2compile.targets.vta.isa.instructions import Alu, AluOp, Finish, Gemm, Memory, Tokens, Transfer, Uop
from e2compile.targets.vta.isa.stream import Stream
from e2compile.targets.vta.program.cost import Cost, cost
from e2compile.targets.vta.program.table import words
from e2compile.targets.vta.report.layers import REPORT, Figures, Report, read, useful_macs
from e2compile.targets.vta.report.left import left
from tests.commands import run
from tests.targets.vta.tiny import batch

PYNQ = named("pynq")


@pytest.fixture(scope="module")
def report(fpga_program: Path) -> Report:
    return read(fpga_program)


def test_the_cost_of_a_stream_counted_by_hand() -> None:
    stream = (
        Transfer(Memory.UOP, 0, 0, 1, 3, 3),
        Transfer(Memory.INP, 0, 0, 2, 5, 7),
        Transfer(Memory.WGT, 0, 0, 1, 2, 2, tokens=Tokens(push_next=True)),
        Gemm((0, 2), (2, 5), tokens=Tokens(pop_prev=True)),
        Alu(AluOp.SHR, (2, 3), (1, 4), immediate=8, tokens=Tokens(push_next=True)),
        Transfer(Memory.OUT, 0, 0, 1, 4, 4, tokens=Tokens(pop_prev=True, push_prev=True)),
        Finish(Tokens(pop_next=True)),
    )
    found = cost(Stream(stream, (Uop(0, 0), Uop(4, 0), Uop(8, 0)), {}), PYNQ)
    assert (found.instructions, found.uops) == (7, 3)
    assert (found.gemm, found.alu) == (GEMM + 20, ALU + 8)
    assert found.bound == found.gemm + found.alu
    uop_load = 3 + 75 + 17
    assert found.compute == found.bound + uop_load + IDLE
    assert found.load == (10 + 2 * (2 * 5 + 75 + 18)) + (6 + (64 * 2 + 75 + 14))
    assert found.store == 4 + (2 * 4 + 75 + 13)
    assert found.cycles > found.load + found.bound + found.store - uop_load
    moved = {"inp": 160, "wgt": 512, "acc": 0, "out": 64, "uop": 12, "instruction": 112}
    assert {name: getattr(found, f"{name}_bytes") for name in moved} == moved
    assert found.moved_bytes == sum(moved.values())
    # 20 products of a micro-op, an input, weights and sums, 4 shifts of a micro-op and sums, and the store
    assert found.sram_read_bytes == 20 * (4 + 16 + 256 + 64) + 4 * (4 + 64) + 64
    # what was loaded, and 24 times sums with their low bytes
    assert found.sram_written_bytes == 12 + 160 + 512 + 24 * (64 + 16)


def test_costs_add_up() -> None:
    one = Cost(instructions=1, cycles=10, gemm=4, alu=2, out_bytes=3)
    assert one + one == one * 2 == Cost(instructions=2, cycles=20, gemm=8, alu=4, out_bytes=6)
    figures = Figures.of(1280, one, PYNQ)
    assert figures.utilisation == 1280 / (256 * 10)
    assert figures.of_bound == 0.6
    assert figures.alu_share == 2 / 6
    assert figures.seconds == 10 / 100e6


@pytest.mark.parametrize(
    ("conv", "macs"),
    [
        (Convolution(2, 1, 1, 20, 10), 400),
        (Convolution(1, 4, 4, 1, 1, (3, 3)), 36),
        (Convolution(1, 4, 4, 1, 1, (3, 3), padding=(1, 1)), 100),  # rows meet 2 + 3 + 3 + 2 taps
        (Convolution(3, 4, 4, 8, 16, (3, 3), (2, 2), (1, 1)), 3 * 25 * 8 * 16),  # 2 + 3
        (Convolution(1, 4, 6, 8, 8, (3, 1), padding=(2, 0), dilation=(2, 1), groups=8), 8 * 8 * 6),
    ],
)
def test_products_with_padding_are_not_useful(conv: Convolution, macs: int) -> None:
    assert useful_macs(conv) == macs
    assert useful_macs(replace(conv, padding=(0, 0))) == replace(conv, padding=(0, 0)).macs


def test_workloads_in_words() -> None:
    assert words(Convolution(2, 32, 32, 16, 32, (3, 3), (2, 2), (1, 1))) == "16->32 3x3 /2 @32x32"
    assert words(Convolution(2, 7, 9, 8, 8, (3, 1), (2, 1), dilation=(2, 1), groups=8)) == (
        "8->8 3x1 /2x1 dilation 2x1 groups 8 @7x9"
    )


def test_a_step_takes_what_the_report_says(report: Report, fpga_program: Path) -> None:
    program = e2compile.load(fpga_program)
    program.step(batch())
    total = report.totals["step"]
    assert program.driver.cycles == total.cost.cycles
    assert program.driver.device.instructions == total.cost.instructions
    assert program.device_seconds == total.seconds
    numbers = {operator.name: number for number, operator in enumerate(program.driver.table.operators)}
    for row in report.rows:
        assert program.driver.groups_run[numbers[row.name]] == row.calls["step"] * row.groups
    assert total.cost.cycles == sum(row.each.cost.cycles * row.calls["step"] for row in report.rows)
    assert 0 < total.utilisation < total.of_bound < 1


def test_the_page_prices_what_the_array_takes(fpga_program: Path) -> None:
    found = content(fpga_program)
    each = found["device"]["each"]["e2.integer_convolution"]
    assert set(each) == {"time.device", "read.dram", "write.dram", "read.sram", "write.sram"}
    assert set(each) <= set(found["prices"]["figures"])


def test_what_stays_on_the_host_is_listed(report: Report) -> None:
    assert {row.text for row in report.host} == {"8->8 3x3 groups 8 @8x8"}
    assert {row.phase for row in report.host} == {"forward", "input gradient", "weight gradient"}
    assert all(row.macs == 2 * 8 * 22 * 22 for row in report.host)
    assert {row.reason for row in report.host} == {"depthwise"}
    assert all(0 < (row.host_seconds or 0) < (row.array_seconds or 0) for row in report.host)
    assert report.host_calls["step"] > sum(row.calls["step"] for row in report.host)


def test_compiling_says_in_a_line_what_stays_on_the_host(report: Report) -> None:
    """A layer's gradient has 16 bits: two products each for input and weight gradient."""
    line = left(report)
    convolutions, linear = 5 * 5 - 2, 5  # nothing needs the first one's input gradient
    every = sum(row.calls["step"] for row in (*report.rows, *report.host))
    assert every == convolutions + linear
    on_host, on_array = (
        sum(row.calls["step"] * (getattr(row, f"{side}_seconds") or 0) * 1e3 for row in report.host)
        for side in ("host", "array")
    )
    assert line == (
        f"5 of {every} integer products of a step, which the host does: "
        f"5 depthwise ({on_host:.3g} ms, by the array {on_array:.3g} ms, modelled)"
    )
    assert left(replace(report, host=())) is None


def test_a_report_that_is_damaged(fpga_program: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(fpga_program, tmp_path / "tiny")
    (folder / REPORT).write_text('{"schema": 1}')
    with pytest.raises(UsageError, match="has another schema than 3"):
        read(folder)
    (folder / REPORT).write_text('{"schema": 3, "rows": []}')
    with pytest.raises(UsageError, match="compile the program again"):
        read(folder)
    assert run("report", folder) == 2


def test_the_command_line_shows_it(
    report: Report, fpga_program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", fpga_program, "--json", tmp_path / "report.json") == 0
    shown = capsys.readouterr().out
    assert "pynq 1x16_i8w8a32_15_15_18_17: 256 multiply-accumulates a cycle, 100 MHz" in shown
    lines = [line.split() for line in shown.splitlines()]
    layers = [line for line in lines if "gradient" in line and "->" in line[0] and "groups" not in line]
    assert len(layers) == sum("gradient" in row.phase for row in report.rows)
    total = next(line for line in lines if line[:1] == ["total"])
    assert f"{report.totals['step'].cost.cycles:,}" in total
    assert "100.0%" in total
    assert "multiply-accumulates, depthwise" in shown
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["fpga"]["totals"]["step"]["cost"]["cycles"] == report.totals["step"].cost.cycles
    assert set(content["compile"]["lines"]) >= {row.name for row in report.rows}


def test_of_a_program_for_the_cpu_it_shows_what_compiling_took(
    program_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", program_folder) == 0
    shown = capsys.readouterr().out
    for expected in ("verified", "kernels", "planned memory", "step"):
        assert expected in shown


def test_training_says_what_the_array_took(
    report: Report, fpga_program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(fpga_program, tmp_path / "tiny")
    assert run("train", folder, "--steps", "3") == 0
    assert "s a step at 100 MHz (modelled)" in capsys.readouterr().out
    results = json.loads((folder / "runs" / "default" / "results.json").read_text())
    assert results["modelled_device_seconds"] == pytest.approx(3 * report.totals["step"].seconds)
    assert run("train", folder, "--steps", "5", "--resume") == 0
    results = json.loads((folder / "runs" / "default" / "results.json").read_text())
    assert results["modelled_device_seconds"] == pytest.approx(5 * report.totals["step"].seconds)
