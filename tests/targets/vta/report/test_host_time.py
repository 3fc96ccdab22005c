"""What a step takes the host: each call of a kernel once, and no waiting for the array."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

import e2compile
from e2compile.runtime.program import Program
from e2compile.runtime.summary import compile_report
from e2compile.runtime.timing import Call, HostTime, by_layer, measure
from tests.commands import run


def measured(program: Program) -> HostTime:
    return measure(program, compile_report(program.folder)["sequence"]["step"], steps=2)


def test_each_call_of_a_step_has_its_time(program_folder: Path) -> None:
    found = measured(e2compile.load(program_folder))
    assert len(found.calls) == compile_report(program_folder)["calls"]["step"]
    assert all(call.seconds > 0 and call.packing == call.unpacking == 0 for call in found.calls)
    assert {call.phase for call in found.calls} == {"forward", "backward", "update"}
    assert {"0", "loss"} < {call.layer for call in found.calls}
    assert (found.tag, found.steps) == ("measured", 2)


def test_what_goes_to_the_array_is_packed_and_unpacked(fpga_program: Path) -> None:
    program = e2compile.load(fpga_program)
    found = measured(program)
    operators = {operator.name for operator in program.driver.table.operators}
    for call in found.calls:
        assert (call.kernel in operators) == (call.packing > 0) == (call.unpacking > 0) == (call.seconds == 0)


def test_waiting_for_the_array_is_not_the_hosts_time(
    fpga_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = e2compile.load(fpga_program)
    start, pause = program.driver.device.start, 0.05

    def slow(*arguments: Any) -> None:
        time.sleep(pause)
        start(*arguments)

    monkeypatch.setattr(program.driver.device, "start", slow)
    began = time.perf_counter()
    found = measured(program)
    of_a_step = (time.perf_counter() - began) / 3
    runs = sum(call.packing > 0 for call in found.calls)
    assert of_a_step > runs * pause
    assert sum(call.total for call in found.calls) < of_a_step - runs * pause


def test_layers_add_up() -> None:
    calls = [
        Call("a", "forward", "conv", 0.0, 2.0, 3.0),
        Call("b", "forward", "norm", 1.0, 0.0, 0.0),
        Call("c", "backward", "conv", 4.0, 0.0, 0.0),
        Call("a", "forward", "conv", 0.5, 2.5, 0.0),
    ]
    assert by_layer(calls) == {
        "conv": {"forward": 0.5, "packing": 4.5, "unpacking": 3.0, "backward": 4.0},
        "norm": {"forward": 1.0, "packing": 0.0, "unpacking": 0.0},
    }
    assert sum(call.total for call in calls) == sum(sum(row.values()) for row in by_layer(calls).values())


def test_the_command_line_shows_it(
    fpga_program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", fpga_program, "--time", "--json", tmp_path / "report.json") == 0
    shown = capsys.readouterr().out
    content = json.loads((tmp_path / "report.json").read_text())["host"]
    total = sum(c["seconds"] + c["packing"] + c["unpacking"] for c in content["calls"])
    assert f"the host in a step: {total * 1e3:.3f} ms, measured on {content['machine']}" in shown
    assert "packing [ms]" in shown
    assert "unpacking [ms]" in shown
    assert run("report", fpga_program) == 0
    assert "measured on" not in capsys.readouterr().out
