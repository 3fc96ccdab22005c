"""One training step for any other VTA: a flat memory image, the runs on it, and what each must give."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2compile.errors import UsageError
from e2compile.targets.vta.device.driver import Bytes, Driver
from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa.instructions import placed
from e2compile.targets.vta.isa.stream import INP, OUT, UOP, WGT, bases
from e2compile.targets.vta.program.table import Binary, Operator, Run

if TYPE_CHECKING:
    from e2compile.runtime.program import Program

BASE = 0x1000
IMAGE, EXPECTED, RUNS = "image.bin", "expected.bin", "runs.json"
SCHEMA = 2
_END = 1 << 32  # DRAM addresses have 32 bits


@dataclass(frozen=True)
class Exported:
    """What was written: runs, and the image's bytes."""

    runs: int
    size: int


def export(program: "Program", batch: Sequence[Any], folder: Path, base: int = BASE) -> Exported:
    """Write a step on a batch into a new or empty folder, whole or not at all.

    The program is as it was before. Raises UsageError for one without streams, a folder that holds
    something, a base that is not a page's address, a step that leaves 32-bit addresses.
    """
    driver = program.driver
    if not isinstance(driver, Driver):
        raise UsageError(f"a program for target {program.manifest.target} has no streams: only fpga's has")
    _check(folder)
    exporter = Exporter(driver, base)
    with _undone(program, driver):
        driver.watch = exporter.watch
        program.execute(batch)
    with _new(folder) as temporary:
        exporter.write(temporary)
    return Exported(len(exporter.runs), exporter.image.size)


def _check(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder: choose another output")


@contextmanager
def _undone(program: "Program", driver: Driver) -> Iterator[None]:
    """What the block changes of a program is taken back."""
    state, position, groups = program.arrays(), program.position, driver.groups_run.copy()
    try:
        yield
    finally:
        driver.watch, driver.groups_run = None, groups
        program.restore(state)
        program.position = position


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class _Image:
    """Memory from `base` on, filled page by page."""

    base: int
    parts: list[Bytes] = field(default_factory=list)
    size: int = 0
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: Bytes) -> int:
        """The address of a copy of data, on a page of its own."""
        padded = np.zeros(-(-data.size // PAGE) * PAGE, np.uint8)
        padded[: data.size] = data
        address = self.base + self.size
        self.parts.append(padded)
        self.size += padded.size
        if self.base + self.size > _END:
            raise UsageError("the step does not fit 4 GiB of memory: use a smaller batch")
        return address

    def share(self, data: Bytes) -> int:
        """Likewise of data that nobody changes: equal data is there once."""
        key = hashlib.sha256(data.tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.add(data)
        return self.known[key]

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            for part in self.parts:
                part.tofile(file)


class Exporter:
    """Collects the runs that a driver tells `watch` of."""

    def __init__(self, driver: Driver, base: int = BASE) -> None:
        if base % PAGE or not 0 <= base < _END:
            raise UsageError(f"the base address {base:#x} is not a page's: use a multiple of {PAGE:#x}")
        self.table = driver.table
        self.image = _Image(base)
        self.runs: list[dict[str, Any]] = []
        self.expected: list[Bytes] = []
        self.end = 0

    def watch(self, operator: Operator, run: Run, inp: Bytes, wgt: Bytes, out: Bytes) -> None:
        """Take a run's buffers and what it gave. Only sums are written by it, so only they are its own."""
        addresses = {
            INP: self.image.share(inp),
            WGT: self.image.share(wgt),
            OUT: self.image.add(np.zeros(out.size, np.uint8)),
        }
        sizes = {INP: inp.size, WGT: wgt.size, OUT: out.size}
        streams = [self.table.streams[number] for number in run.streams]
        self.runs.append(
            {
                "name": operator.name,
                "what": operator.what,
                "workload": operator.workload,
                "streams": [self._stream(stream, addresses) for stream in streams],
                "buffers": {n: {"address": addresses[n], "bytes": sizes[n]} for n in addresses},
                "expected": {"offset": self.end, "bytes": out.size},
            }
        )
        self.expected.append(out.copy())
        self.end += out.size

    def _stream(self, stream: Binary, addresses: Mapping[str, int]) -> dict[str, Any]:
        """Where a stream's instructions and micro-ops lie, for a run with its buffers at those addresses."""
        uop = self.image.share(_bytes(stream.uops))
        words = placed(stream.instructions, bases(self.table.config, {**addresses, UOP: uop}))
        return {
            "instructions": {"address": self.image.share(_bytes(words)), "count": len(words)},
            "uop": {"address": uop, "bytes": stream.uops.nbytes},
            "cycles": stream.cost.cycles,
        }

    def write(self, folder: Path) -> None:
        """Write the image, the expected sums and the list of runs."""
        self.image.write(folder / IMAGE)
        with (folder / EXPECTED).open("wb") as file:
            for sums in self.expected:
                sums.tofile(file)
        content = {
            "schema": SCHEMA,
            "config": {key.upper(): value for key, value in asdict(self.table.config).items()},
            "base": self.image.base,
            "image": IMAGE,
            "expected": EXPECTED,
            "runs": self.runs,
        }
        (folder / RUNS).write_text(json.dumps(content, indent=1) + "\n")


def _bytes(array: Any) -> Bytes:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
