"""The targets by name. Each is loaded when it is asked for: a program that runs needs no compiler."""

from importlib import import_module
from typing import TYPE_CHECKING

from e2compile.errors import MissingError, UsageError

if TYPE_CHECKING:
    from e2compile.targets.base import Target

# The module of each target, and the value in it.
TARGETS = {"cpu": ("e2compile.targets.llvm.target", "CPU"), "fpga": ("e2compile.targets.vta.target", "FPGA")}

# Named on the command line and in the design, not in this version.
PLANNED = ("cuda",)


def find(text: str) -> "Target":
    """The target of that name; `fpga:NAME` or `fpga:FILE.json` is the FPGA of another configuration.

    Raises MissingError for one that has not landed, UsageError for an unknown one.
    """
    name, _, configuration = text.partition(":")
    if name in PLANNED:
        raise MissingError(f"target {name} is not in this version; there is {', '.join(TARGETS)}")
    if name not in TARGETS:
        raise UsageError(f"no target {text!r}; there is {', '.join(TARGETS)}")
    module, value = TARGETS[name]
    if configuration:
        return _configured(name, configuration)
    found: Target = getattr(import_module(module), value)
    return found


def _configured(name: str, configuration: str) -> "Target":
    if name != "fpga":
        raise UsageError(f"target {name} has no configurations: leave out {configuration!r}")
    from e2compile.targets.vta.target import configured

    return configured(configuration)


__all__ = ["PLANNED", "TARGETS", "find"]
