"""Errors a user can act on: what is wrong, on which line of their model, what to do."""

from collections.abc import Sequence


class UsageError(Exception):
    """Bad input of any kind: a file, a flag, a shape, a corrupted artefact. Exit code 2."""

    exit_code = 2


class CompileError(Exception):
    """The model holds something that cannot be compiled. Exit code 3.

    `where` lists the user's lines ("model.py:12: x = x.abs()") that the message is about.
    """

    exit_code = 3

    def __init__(self, message: str, where: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *(f"  {line}" for line in where)]))
        self.where = tuple(where)


class MissingError(Exception):
    """A toolchain, device, target or pass that this machine or version lacks. Exit code 4."""

    exit_code = 4


class VerificationError(Exception):
    """The compiled program does not compute what PyTorch computes. Exit code 5."""

    exit_code = 5


class DeviceError(Exception):
    """A board or a simulator has failed, or cannot be reached. Exit code 6."""

    exit_code = 6


E2CompileError = (UsageError, CompileError, MissingError, VerificationError, DeviceError)
