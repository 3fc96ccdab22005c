"""What machine a result was taken on, for the head of every results file."""

import datetime
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path

from e2compile.runtime.engine import cores


def describe() -> dict[str, str | int]:
    """Processor, cores, versions of what is installed, date and the command line."""
    installed = {item.name: item.version for item in distributions()}
    return {
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        **{name: installed[name] for name in ("torch", "apache-tvm", "numpy") if name in installed},
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(map(_anywhere, sys.argv)),
    }


def _anywhere(argument: str) -> str:
    """An argument as it is, but for a path of this machine's own."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return "DIR" if path.is_dir() else "FILE"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return f"{named.get('model name', '')}, family {named.get('cpu family')}, model {named.get('model')}"
