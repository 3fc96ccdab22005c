"""Errors say what is wrong, where, and with which exit code."""

import pytest

from e2compile import errors
from e2compile.errors import CompileError, E2CompileError, MissingError, UsageError, VerificationError


@pytest.mark.parametrize(
    ("kind", "code"), [(UsageError, 2), (CompileError, 3), (MissingError, 4), (VerificationError, 5)]
)
def test_each_error_has_its_exit_code(kind: type, code: int) -> None:
    assert kind.exit_code == code  # type: ignore[attr-defined]
    assert str(kind("a message")) == "a message"


def test_every_error_is_among_those_the_command_line_catches() -> None:
    kinds = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)}
    assert set(E2CompileError) == kinds


def test_a_compile_error_lists_the_users_lines() -> None:
    error = CompileError("2 operators have no lowering", ["net.py:3: x.foo()", "net.py:9: x.bar()"])
    assert str(error) == "2 operators have no lowering\n  net.py:3: x.foo()\n  net.py:9: x.bar()"
    assert error.where == ("net.py:3: x.foo()", "net.py:9: x.bar()")
