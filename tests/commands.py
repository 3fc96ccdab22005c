"""Running the command line, in this process or in another."""

import subprocess
import sys

from e2compile.cli import main


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
