"""What this machine has and lacks: versions against the pins, a linker, cores, the cache."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from e2compile.cache import folder
from e2compile.runtime.engine import cores, import_tvm

_PINNED = ("torch", "apache-tvm", "apache-tvm-ffi")
_COMPILERS = ("cc", "gcc", "clang")
_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `problem` says what to do about it, None where it is well."""

    name: str
    value: str
    problem: str | None = None


def examine() -> tuple[Finding, ...]:
    """All findings; nothing is changed."""
    return tuple(_findings())


def _findings() -> Iterator[Finding]:
    is_new = tuple(map(int, platform.python_version_tuple()[:2])) >= _PYTHON
    yield Finding("python", platform.python_version(), None if is_new else "3.11 or newer is needed")
    pins = _pins()
    for name in _PINNED:
        yield _package(name, pins.get(name, ""))
    found = next((path for path in map(shutil.which, _COMPILERS) if path), None)
    lacking = "compiling a program needs a C compiler to link with (cc, gcc or clang)"
    yield Finding("C compiler", found or "none", None if found else lacking)
    yield Finding("cores", str(cores()))
    yield _threads()
    yield _cache(folder())


def _pins() -> dict[str, str]:
    """Requirements of the installed package by name, without extras."""
    try:
        lines = [line for line in requires("e2compile") or [] if ";" not in line]
    except PackageNotFoundError:
        return {}
    parts = (re.fullmatch(r"([\w-]+)\s*(.*)", line) for line in lines)
    return {part[1]: part[2] for part in parts if part}


def _package(name: str, pin: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "not installed", f"pip install '{name}{pin}'")
    return Finding(name, found, None if satisfies(found, pin) else f"pip install '{name}{pin}'")


def satisfies(found: str, pin: str) -> bool:
    """Whether a version fits a requirement like ">=2.13,<2.14" or "==0.1.14.post1"."""
    return all(_holds(found.partition("+")[0], clause.strip()) for clause in pin.split(",") if clause.strip())


def _holds(found: str, clause: str) -> bool:
    match = re.fullmatch(r"(==|>=|<)\s*(\S+)", clause)
    if match is None:
        raise ValueError(f"not a requirement this reads: {clause}")
    sign, wanted = match.groups()
    if sign == "==":
        return found == wanted
    return (_release(found) < _release(wanted)) is (sign == "<")


def _release(text: str) -> tuple[int, ...]:
    """The numbers before any suffix, without trailing zeros."""
    numbers = [int(n) for n in re.match(r"[\d.]*", text)[0].rstrip(".").split(".")]  # type: ignore[index]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _threads() -> Finding:
    try:
        count = int(import_tvm().runtime.num_threads())
    except ImportError as error:
        return Finding("TVM threads", "TVM does not load", str(error))
    named = os.environ["TVM_NUM_THREADS"]
    few = f"TVM_NUM_THREADS={named} leaves cores unused" if count < cores() else ""
    return Finding("TVM threads", f"{count}{'  (' + few + ')' if few else ''}")


def _cache(place: Path) -> Finding:
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place.is_dir() else 0
    above = next(p for p in (place, *place.parents) if p.exists())
    is_writable = above.is_dir() and os.access(above, os.W_OK)
    problem = None if is_writable else f"{above} cannot be written to: set E2COMPILE_CACHE to another folder"
    return Finding("cache", f"{place} ({size / 2**20:.1f} MiB)", problem)
