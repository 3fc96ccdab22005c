"""Kinds of arguments that several verbs of the command line take."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Share = Annotated[float, Parameter(validator=Number(gte=0, lt=1))]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]
Address = Annotated[int | None, Parameter(validator=Number(gte=0, lt=2**32))]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]
Json = Annotated[Path | None, Parameter(name="--json")]
Several = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
