"""mypy --strict over the whole package, passes and targets included."""

import subprocess
import sys
from pathlib import Path

from tests.sources import ROOT, link_package


def mypy(folder: Path) -> subprocess.CompletedProcess[str]:
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", "--strict", *config, "-p", "e2compile"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_package_is_typed(tmp_path: Path) -> None:
    link_package(tmp_path)
    found = mypy(tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
