"""The command line on damaged Programs, and the verbs that look: inspect, passes, targets, doctor."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import e2compile
from e2compile import display
from tests.commands import run

# Damaged artefacts


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("program/program.so", flip_a_bit, "program.so is corrupted"),
        ("program/program.so", Path.unlink, "program.so is missing"),
        ("manifest.json", truncate, "manifest.json is corrupted"),
        ("manifest.json", flip_a_bit, "manifest.json is corrupted"),
        ("manifest.json", Path.unlink, "is not a Program"),
        ("state/initial.safetensors", Path.unlink, "initial.safetensors is missing"),
        ("state/rates.safetensors", flip_a_bit, "rates.safetensors is corrupted"),
    ],
)
def test_a_damaged_program_is_named(
    name: str, damage: object, message: str, program_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(program_copy / name)
    for verb in ("train", "evaluate", "export"):
        assert run(verb, program_copy) == 2
        assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_falls_back_to_the_older_one(
    program_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", program_copy, "--steps", "40", "--checkpoint-every", "30") == 0
    checkpoints = program_copy / "runs" / "default" / "checkpoints"
    older, newer = sorted(checkpoints.iterdir())
    flip_a_bit(newer / "state.safetensors")
    assert run("evaluate", program_copy) == 0
    assert "after 30 steps" in capsys.readouterr().out
    truncate(older / "progress.json")
    assert run("evaluate", program_copy) == 2
    assert "no checkpoint is intact" in capsys.readouterr().err
    assert run("train", program_copy, "--resume", "--steps", "40") == 2


# Looking


def test_lists_prints_and_compares_stages(program_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", program_folder) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in listed] == ["captured", "differentiated", "smd"]
    assert run("inspect", program_folder, "--stage", "smd") == 0
    text = capsys.readouterr().out
    assert text == (program_folder / "graphs" / "02_smd.txt").read_text()
    assert "digits.py:" in text
    assert run("inspect", program_folder, "--diff", "differentiated", "smd") == 0
    difference = capsys.readouterr().out
    assert difference.startswith("--- differentiated\n+++ smd\n")
    assert "+%0: f32[] = e2.uniform(%seed, %step, 0, [])" in difference
    removed = [line for line in difference.splitlines()[2:] if line.startswith("-")]
    assert removed
    assert all(line.startswith("-return ") for line in removed)  # the step itself moved, unchanged


def test_a_graph_is_coloured_on_a_terminal(program_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    console = Console(force_terminal=True, color_system="truecolor", file=screen, theme=display.THEME)
    monkeypatch.setattr(display, "out", console)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run("inspect", program_folder, "--stage", "smd") == 0
    assert "\x1b[36m%0\x1b[0m" in screen.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "smdd"), "no stage 'smdd'; there is captured, differentiated, smd"),
        (("--diff", "captured", "x"), "no stage 'x'"),
        (("--stage", "smd", "--diff", "captured", "smd"), "exclude one another"),
        (("--stream", "x", "--stage", "smd"), "exclude one another"),
        (("--stream", "x"), "a program for target cpu has no streams"),
        (("--diff", "captured"), "--diff"),
    ],
)
def test_refuses_to_inspect(
    arguments: tuple[str, ...], message: str, program_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", program_folder, *arguments) == 2
    assert message in capsys.readouterr().err


def test_lists_passes_and_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("passes") == 0
    shown = capsys.readouterr().out
    assert "smd  BatchDrop (SMD): a guard over the whole step." in shown
    assert "--set smd.p=0.5  (a number)" in shown
    assert "slu  LayerGate (SLU): a learned gate decides for each sample" in shown
    assert "--set slu.granularity=sample  (one of sample, batch)" in shown
    assert run("targets") == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["cpu", "available"] in words
    assert ["fpga", "available"] in words
    assert ["cuda", "not", "in", "this", "version"] in words


def test_the_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    shown = capsys.readouterr().out
    for expected in ("torch", "apache-tvm-ffi", "C compiler", "TVM threads", "cache"):
        assert expected in shown


def test_the_doctor_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert run("doctor") == 4
    assert "needs a C compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "pin", "fits"),
    [
        ("2.13.0+cpu", ">=2.13,<2.14", True),
        ("2.14.0", ">=2.13,<2.14", False),
        ("2.9.1", ">=2.13,<2.14", False),
        ("0.27.0.post1", "<0.28,>=0.27", True),
        ("0.1.14.post1", "==0.1.14.post1", True),
        ("0.1.15", "==0.1.14.post1", False),
        ("1.0", "", True),
    ],
)
def test_compares_versions_with_pins(found: str, pin: str, fits: bool) -> None:
    from e2compile.doctor import satisfies

    assert satisfies(found, pin) is fits


def test_a_missing_package_is_named(
    program_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    assert run("train", program_folder) == 4
    assert "tvm is not installed" in capsys.readouterr().err


def test_version_help_and_the_module_entry_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == e2compile.__version__
    assert run() == 0
    assert "Usage: e2compile" in capsys.readouterr().out
    command = [sys.executable, "-m", "e2compile", "train"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "PROGRAM" in result.stderr
