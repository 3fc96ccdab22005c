"""What was measured on a CPU: a JSON file of the choice that was the fastest for each contraction."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2compile.errors import UsageError
from e2compile.lower.workload import Contraction, Convolution
from e2compile.runtime.export import write_whole
from e2compile.targets.llvm.choices import PRODUCT, TILES, WINOGRAD, Choice
from e2compile.targets.llvm.gradient_plan import GradientTile
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tiling import RegisterTile


@dataclass(frozen=True)
class Measured:
    """The choice that was faster than the default one, its time over the default's; None where none was."""

    choice: Choice | None = None
    ratio: float = 1.0


def read(path: Path, machine: Machine) -> dict[Contraction, Measured]:
    """What was measured on a machine's CPU. Raises UsageError for a file that is damaged."""
    try:
        return {_contraction(entry): _measured(entry) for entry in _content(path).get(_cpu(machine), [])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: remove it, and kernels are tuned anew") from error


def keep(path: Path, machine: Machine, contraction: Contraction, measured: Measured) -> None:
    """Add a measurement to the file; where it cannot be written it is not kept."""
    content = _content(path)
    others = [entry for entry in content.get(_cpu(machine), []) if _contraction(entry) != contraction]
    choice = measured.choice
    stored = asdict(choice) if isinstance(choice, RegisterTile | GradientTile) else choice
    entry = asdict(contraction) | {"choice": stored, "ratio": measured.ratio}
    text = json.dumps(content | {_cpu(machine): [*others, entry]}, indent=1) + "\n"
    with suppress(UsageError):
        write_whole(path, lambda temporary: temporary.write_text(text))


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _cpu(machine: Machine) -> str:
    """What the speed of a kernel depends on, beside the contraction."""
    dots = f", {machine.dots.value}" if machine.dots.value else ""
    tiles = ", tiles" if machine.tiles else ""
    return f"{machine.name}: {machine.registers} registers of {machine.lanes} lanes{dots}{tiles}"


def _contraction(entry: dict[str, Any]) -> Contraction:
    conv = Convolution(**{key: _frozen(value) for key, value in entry["conv"].items()})
    return Contraction(entry["method"], conv, entry["signed"])


def _measured(entry: dict[str, Any]) -> Measured:
    choice: Choice | None = entry["choice"]
    if isinstance(choice, dict):
        kind = GradientTile if entry["method"].endswith("weight_gradient") else RegisterTile
        choice = kind(**{key: _frozen(value) for key, value in choice.items()})
    elif choice not in (None, WINOGRAD, TILES, PRODUCT):
        raise ValueError(choice)
    return Measured(choice, float(entry["ratio"]))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
