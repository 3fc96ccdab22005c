"""Kinds of arguments that several verbs of the command line take."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from e2compile.errors import UsageError

if TYPE_CHECKING:
    from e2compile.runtime.export import Saved
    from e2compile.runtime.program import Program

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
PartOfRun = Annotated[float, Parameter(validator=Number(gte=0, lt=1))]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Threads = Annotated[int | None, Parameter(validator=Number(gte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]
Address = Annotated[int | None, Parameter(validator=Number(gte=0, lt=2**32))]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]
Json = Annotated[Path | None, Parameter(name="--json")]
Several = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Settings = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)]


def parse_budget(text: str) -> float:
    """The share that an energy budget like "40%" or "0.4" is.

    Raises UsageError for anything else, and for what is not above 0 to 1.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if rest or not 0 < value <= 1:
        raise UsageError(f"{text!r} is no share: write it as 40% or 0.4, more than 0 and 100% at most")
    return value


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which state of a program is meant.

    Args:
        run: Whose newest checkpoint to take; by default the run `default`, or the initial state without one.
        best: Take the run's best state by validation instead.
        averaged: Take the average of the run's weights, which --swa-start made.
        initial: Take the state the program was compiled with.
    """

    run: str | None = None
    best: Flag = False
    averaged: Flag = False
    initial: Flag = False

    def put_into(self, program: "Program") -> str:
        """Put the state that is meant into a program, and say which it is."""
        from e2compile.runtime.export import choose_state

        flags: dict[Saved, bool] = {"best": self.best, "averaged": self.averaged, "initial": self.initial}
        given = [name for name, is_given in flags.items() if is_given]
        if len(given) > 1:
            raise UsageError(" and ".join(f"--{name}" for name in given) + " exclude each other")
        return choose_state(program, self.run, given[0] if given else "newest")


NEWEST = Which()
