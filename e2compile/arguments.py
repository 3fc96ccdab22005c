"""Kinds of arguments that several verbs of the command line take."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from e2compile.errors import UsageError

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]
Address = Annotated[int | None, Parameter(validator=Number(gte=0, lt=2**32))]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]
Json = Annotated[Path | None, Parameter(name="--json")]
Several = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Settings = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)]


def share(text: str) -> float:
    """A share from "40%" or "0.4". Raises UsageError for anything else, and for what is not above 0 to 1."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if rest or not 0 < value <= 1:
        raise UsageError(f"{text!r} is no share: write it as 40% or 0.4, more than 0 and 100% at most")
    return value
