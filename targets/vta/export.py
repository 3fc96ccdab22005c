"""One training step for any other VTA: a flat memory image, the runs on it, and what each must give."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from e2compile.errors import UsageError
from e2compile.targets.vta import isa
from e2compile.targets.vta.device import PAGE
from e2compile.targets.vta.driver import Bytes, Driver
from e2compile.targets.vta.stream import INP, OUT, UOP, WGT, bases
from e2compile.targets.vta.table import Operator, Run, Table

BASE = 0x1000
IMAGE, EXPECTED, RUNS = "image.bin", "expected.bin", "runs.json"
SCHEMA = 1
_END = 1 << 32  # DRAM addresses have 32 bits


@dataclass
class _Image:
    """Memory from `base` on, filled page by page."""

    base: int
    parts: list[Bytes] = field(default_factory=list)
    size: int = 0

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


class Exporter:
    """Collects the runs of a program's driver while it executes one step."""

    def __init__(self, driver: Driver, base: int = BASE) -> None:
        if base % PAGE or not 0 <= base < _END:
            raise UsageError(f"the base address {base:#x} is not a page's: use a multiple of {PAGE:#x}")
        self.table: Table = driver.table
        self.image = _Image(base)
        self.uops = [self.image.add(_bytes(stream.uops)) for stream in self.table.streams]
        self.runs: list[dict[str, Any]] = []
        self.expected: list[Bytes] = []
        self.last: tuple[Bytes, int] | None = None
        driver.watch = self._watch

    def _watch(self, operator: Operator, run: Run, inp: Bytes, wgt: Bytes, out: Bytes) -> None:
        stream = self.table.streams[run.stream]
        addresses = {
            UOP: self.uops[run.stream],
            INP: self._input(inp),
            WGT: self.image.add(wgt),
            OUT: self.image.add(np.zeros(out.size, np.uint8)),
        }
        words = isa.placed(stream.instructions, bases(self.table.config, addresses))
        sizes = {UOP: stream.uops.nbytes, INP: inp.size, WGT: wgt.size, OUT: out.size}
        self.runs.append(
            {
                "name": operator.name,
                "what": operator.what,
                "workload": operator.workload,
                "instructions": {"address": self.image.add(_bytes(words)), "count": len(words)},
                "buffers": {n: {"address": addresses[n], "bytes": sizes[n]} for n in addresses},
                "expected": {"offset": sum(e.size for e in self.expected), "bytes": out.size},
                "cycles": run.cycles,
            }
        )
        self.expected.append(out.copy())

    def _input(self, inp: Bytes) -> int:
        """The address of an input; runs of one operator that read the same one share it."""
        if self.last is None or not np.array_equal(self.last[0], inp):
            self.last = inp.copy(), self.image.add(inp)
        return self.last[1]

    def write(self, folder: Path) -> None:
        """Write the image, the expected sums and the list of runs into a new or empty folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.concatenate([*self.image.parts, np.zeros(0, np.uint8)]).tofile(folder / IMAGE)
        np.concatenate([*self.expected, np.zeros(0, np.uint8)]).tofile(folder / EXPECTED)
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
