"""ruff is clean, files are short, nothing is left to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT

FOLDERS = ("e2compile", "passes", "targets", "tests", "examples", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
LONGEST = 400


def test_ruff_finds_nothing() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *FOLDERS]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_nothing_is_left_to_do() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3)
    assert [str(path) for path in FILES if any(mark in path.read_text() for mark in marks)] == []


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    sources = [path for path in FILES if path.read_text().strip()]
    assert [str(path) for path in sources if not path.read_text().startswith('"""')] == []
