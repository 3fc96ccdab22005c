"""What a meter reads, and the files that the kernel shows meters in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from e2compile.errors import MissingError

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """A stretch's joules; `hz` is how often the meter was read in it, 0 for a counter read at both ends."""

    joules: float
    seconds: float
    hz: float


class Meter(Protocol):
    @property
    def about(self) -> str:
        """What is measured, by what."""

    def measure(self, work: Callable[[], object]) -> Reading:
        """The joules that a call of `work` takes."""


def chosen(found: Mapping[str, T], wanted: Sequence[str], what: str) -> dict[str, T]:
    """All that a meter finds, or those that are wanted. Raises MissingError for one that is not there."""
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise MissingError(f"no {what} {', '.join(unknown)}; there is {', '.join(found)}")
    return {name: value for name, value in found.items() if not wanted or name in wanted}


def text(path: Path) -> str:
    """A file's text. Raises MissingError where it may not, or cannot, be read."""
    try:
        return path.read_text().strip()
    except PermissionError as error:
        raise MissingError(f"{path} may not be read: allow it with chmod a+r, or run as root") from error
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}") from error


def number(path: Path) -> int:
    """A file's whole number. Raises MissingError where it holds none."""
    content = text(path)
    try:
        return int(content)
    except ValueError:
        raise MissingError(f"{path} says {content!r}, no number") from None
