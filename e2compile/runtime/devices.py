"""Devices: the targets whose programs call one while they run, and what serves the calls."""

from importlib import import_module
from pathlib import Path
from typing import Any

from e2compile.errors import UsageError

# The module of each such target. FILES lie in a Program folder; check and attach take a device's name.
_MODULES = {"fpga": "e2compile.targets.vta.attach"}


def files(target: str) -> tuple[str, ...]:
    """The files of a Program folder that a target's device needs."""
    return import_module(_MODULES[target]).FILES if target in _MODULES else ()


def check(target: str, device: str | None) -> None:
    """Raise UsageError for a device that is named where the target has none, or none of that name."""
    if device is None:
        return
    if target not in _MODULES:
        raise UsageError(f"a program for target {target} has no device to choose: leave out {device}")
    import_module(_MODULES[target]).check(device)


def attach(target: str, folder: Path, library: Any, device: str | None) -> Any:
    """What drives a program's device; None where it has none. `device` names it, by default the target's.

    Raises UsageError for a device that is not the program's, DeviceError for one that cannot be reached.
    """
    if target not in _MODULES:
        return None
    return import_module(_MODULES[target]).attach(folder, library, device)
