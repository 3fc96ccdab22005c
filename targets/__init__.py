"""The targets by name."""

from e2compile.errors import MissingError, UsageError
from e2compile.targets.base import Target, TuningProgress
from e2compile.targets.llvm import CPU
from e2compile.targets.llvm.machine import CPUS as HOSTS
from e2compile.targets.vta.target import FPGA

TARGETS: dict[str, Target] = {"cpu": CPU, "fpga": FPGA}

# Named on the command line and in the design, not in this version.
PLANNED = ("cuda",)


def find(name: str, host: str | None = None) -> Target:
    """The target of that name, NAME or NAME:CONFIGURATION where it has several.

    `host` names the machine that runs its host part, by default this one: see `HOSTS`.
    Raises MissingError for one that has not landed, UsageError for an unknown one.
    """
    name, _, configuration = name.partition(":")
    if name in PLANNED:
        raise MissingError(f"target {name} is not in this version; there is {', '.join(TARGETS)}")
    if name not in TARGETS:
        raise UsageError(f"no target {name!r}; there is {', '.join(TARGETS)}")
    target = TARGETS[name].configured(configuration) if configuration else TARGETS[name]
    return target if host is None else target.hosted(host)


__all__ = ["CPU", "FPGA", "HOSTS", "PLANNED", "TARGETS", "Target", "TuningProgress", "find"]
