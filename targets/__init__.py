"""The targets by name."""

from e2compile.errors import MissingError, UsageError
from e2compile.targets.base import Target
from e2compile.targets.llvm import CPU
from e2compile.targets.vta.target import FPGA, configured

TARGETS: dict[str, Target] = {"cpu": CPU, "fpga": FPGA}

# Named on the command line and in the design, not in this version.
PLANNED = ("cuda",)


def find(text: str) -> Target:
    """The target of that name; `fpga:NAME` or `fpga:FILE.json` is the FPGA of another configuration.

    Raises MissingError for one that has not landed, UsageError for an unknown one.
    """
    name, _, configuration = text.partition(":")
    if name in PLANNED:
        raise MissingError(f"target {name} is not in this version; there is {', '.join(TARGETS)}")
    if name not in TARGETS:
        raise UsageError(f"no target {text!r}; there is {', '.join(TARGETS)}")
    if configuration and name != FPGA.name:
        raise UsageError(f"target {name} has no configurations: leave out {configuration!r}")
    return configured(configuration) if configuration else TARGETS[name]


__all__ = ["CPU", "FPGA", "PLANNED", "TARGETS", "Target", "find"]
