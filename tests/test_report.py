"""The report: its joules are the bill's, its graphs the Program's, and no name ends its script."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2compile.bill import bill
from e2compile.call_bill import priced_calls
from e2compile.errors import UsageError
from e2compile.report.content import content
from e2compile.report.page import PAGE, embedded, write_report
from e2compile.runtime.stages import find_stage, read_stages
from tests.commands import run

LOG = """# source: a bench
# licence: none
# date: 2026-11-24
group,mac.float32 [1],time [s],joules [J]
digits step,2000000,0.5,20
"""


@pytest.fixture(scope="module")
def found(program_folder: Path) -> dict[str, Any]:
    return content(program_folder)


def _joules(found: dict[str, Any], pairs: list[int]) -> float:
    """As the page prices an item whose conditions all hold, but `step`, which holds as often as expected."""
    tables, prices = found["tables"], found["prices"]
    sums = 0.0
    for amounts, when in zip(pairs[::2], pairs[1::2], strict=True):
        share = math.prod(found["shares"][name]["value"] for name, _ in tables["when"][when])
        seconds = 0.0
        for place, amount in tables["amounts"][amounts]:
            quantity = tables["quantities"][place]
            sums += share * amount * prices["figures"][quantity]["si"]
            seconds += amount * prices["seconds"][quantity]
        sums += share * seconds * prices["figures"]["time"]["si"]
    return sums


def test_every_breakdown_is_the_bills(found: dict[str, Any], program_folder: Path) -> None:
    expected = bill(program_folder)
    stages = dict(expected.stages)
    for side, joules in (("before", expected.before.joules), ("after", expected.after.joules)):
        rows = found["work"][side]
        assert sum(_joules(found, row[3:]) for row in rows) == pytest.approx(joules)
    for stage in found["stages"][1:]:
        works = found["tables"]["works"]
        whole = sum(_joules(found, works[place]) for place in stage["works"])
        name = "captured" if stage["name"] == "differentiated" else stage["name"]
        assert whole == pytest.approx(stages[name]), stage["name"]


def test_the_rows_are_the_printed_lines(found: dict[str, Any], program_folder: Path) -> None:
    """Operator, result, arguments and line of each, in the text's order, branches after their conditional."""
    tables = found["tables"]
    for stage, saved in zip(found["stages"], read_stages(program_folder), strict=True):
        lines = {line.strip() for line in saved.text.splitlines()}
        assert len(stage["names"]) >= saved.calls
        for row, name in enumerate(stage["names"]):
            operator, type_ = (
                tables["operators"][stage["operators"][row]],
                tables["types"][stage["types"][row]],
            )
            if operator in ("input", "parameter") or stage["in"][0][1] < row:
                continue
            assert any(line.startswith(f"%{name}: {type_} = {operator}(") for line in lines), (name, operator)


def test_reads_lead_to_what_is_read(found: dict[str, Any]) -> None:
    """What a branch reads from outside is read there, not at a copy of it."""
    smd = found["stages"][-1]
    branches = [branch for branch, count in smd["in"] for _ in range(count)]
    inside = [row for row, branch in enumerate(branches) if branch >= 0]
    assert inside
    reads = {row - distance for row in inside for distance in smd["reads"][row]}
    assert {branches[row] for row in reads} >= {-1, 0}
    assert all(distance > 0 for row in inside for distance in smd["reads"][row])


def test_no_name_ends_the_script() -> None:
    hostile = {"</script><script>alert(1)</script>": ["<!--", "\u2028", '"', "]]>"]}
    text = embedded(hostile)
    assert "<" not in text
    assert json.loads(text) == hostile


def test_a_run_that_diverged_is_shown(program_copy: Path) -> None:
    results = {
        "steps_scheduled": 4,
        "steps_executed": 3,
        "loss": [1.0, math.nan, 2.0],
        "accuracy": None,
        "test_loss": math.inf,
        "seconds": 1.0,
        "executed": {},
        "predicted": {},
        "fallback": {},
        "history": [],
    }
    folder = program_copy / "runs" / "wild"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    (shown,) = content(program_copy)["runs"]
    assert (shown["loss"], shown["test_loss"], shown["shares"]) == ([1.0, None, 2.0], None, {"step": 0.75})
    assert write_report(program_copy, program_copy / PAGE) > 0


def test_measurements_stand_beside_predictions(program_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    measured = content(program_folder, log=path)["measured"]
    (row,) = measured["rows"]
    table = content(program_folder)["prices"]["figures"]
    assert row["predicted"] == pytest.approx(2e6 * table["mac.float32"]["si"] + 0.5 * table["time"]["si"])
    assert (row["measured"], measured["source"]) == (20.0, "a bench")
    path.write_text(LOG.replace("time [s],", "").replace("0.5,", ""))
    with pytest.raises(UsageError, match="has no seconds, which the price table server prices"):
        content(program_folder, log=path)


def test_the_command_line_writes_it_whole_or_says_why(
    program_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", program_copy, "--html") == 0
    assert "open it in a browser" in capsys.readouterr().out
    page = (program_copy / PAGE).read_text()
    assert page.count("</script>") == 2
    assert "src=" not in page
    assert run("evaluate", program_copy) == 0  # the page is no part of what checksums hold
    for arguments, message in (
        (("--html", "--json", tmp_path / "x"), "goes without --time and --json"),
        (("--output", tmp_path / "x.html"), "go with --html"),
        (("--html", "--prices", "gold"), "no price table 'gold'"),
        (("--html", "--log", tmp_path / "none.csv"), "cannot be read"),
        (("--html", "--output", program_copy / "manifest.json" / "x"), "cannot write"),
    ):
        assert run("report", program_copy, *arguments) == 2
        assert message in capsys.readouterr().err
    (program_copy / "report" / "memory.json").unlink()
    assert run("report", program_copy, "--html") == 2
    assert "memory.json is missing" in capsys.readouterr().err


def test_a_stages_calls_add_up_to_its_bill(program_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages, joules = read_stages(program_folder), dict(bill(program_folder).stages)
    calls = priced_calls(program_folder, find_stage(stages, "smd"))
    assert sum(call.joules for call in calls) == pytest.approx(joules["smd"])
    assert {call.branch for call in calls} == {"", "execute"}
    assert run("inspect", program_folder, "--stage", "smd", "--energy") == 0
    shown = capsys.readouterr().out
    assert "by layer" in shown
    assert "aten.convolution_backward" in shown
    assert run("inspect", program_folder, "--stage", "captured", "--energy") == 2
    assert "counted from differentiated on" in capsys.readouterr().err
    assert run("inspect", program_folder, "--energy") == 2
    assert run("inspect", program_folder, "--stage", "smd", "--run", "x") == 2


def test_memory_is_what_lives(found: dict[str, Any]) -> None:
    for name, memory in found["memory"].items():
        assert len(memory["bytes"]) == len(memory["kernels"]) == found["compile"]["calls"][name]
        assert max(memory["bytes"], default=0) <= found["compile"]["planned_bytes"][name]
    step = found["memory"]["step"]
    assert 0 < sum(row[0] for row in step["at_peak"]) <= max(step["bytes"])
    assert np.argmax(step["bytes"]) > 0
