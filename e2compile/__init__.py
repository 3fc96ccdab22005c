"""e2compile: a PyTorch training step compiled so that it does not execute what it can do without."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e2compile.compiler import compile
    from e2compile.pipeline import TrainingGraph, capture
    from e2compile.runtime.program import Program

__version__ = "0.1.0"

__all__ = ["Program", "TrainingGraph", "capture", "compile", "load"]

# In a checkout passes/ and targets/ lie beside this folder; an installed wheel has them inside it.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))


def load(folder: "Path | str", device: str | None = None) -> "Program":
    """Load a Program folder. Needs neither torch nor the model's file.

    `device` names what runs an FPGA program's streams: simulator (the default), simulator:strict, or a board.
    Raises UsageError where it is no Program or not intact. A Program is native code: trust it like one.
    """
    from e2compile.runtime.program import Program

    return Program(Path(folder), device)


def __getattr__(name: str) -> Any:
    """torch and TVM are loaded when something that needs them is first asked for."""
    places = {
        "capture": "pipeline",
        "TrainingGraph": "pipeline",
        "compile": "compiler",
        "Program": "runtime.program",
    }
    if name not in places:
        raise AttributeError(f"module 'e2compile' has no attribute {name!r}")
    from importlib import import_module

    from e2compile.collector import paused

    with paused():
        return getattr(import_module(f"e2compile.{places[name]}"), name)
