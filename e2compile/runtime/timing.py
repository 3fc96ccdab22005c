"""What a step takes on the machine that runs its host part, kernel by kernel, measured here."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from e2compile.runtime import host as hosts
from e2compile.runtime.engine import import_tvm
from e2compile.runtime.program import Program

STEPS = 3
_WARM_UP = 1


@dataclass(frozen=True)
class Call:
    """A call of a kernel in a step: what of the model it computes, and its seconds, medians over steps.

    A call that goes to a device has `packing` before the device is called and `unpacking` after it, and no
    `seconds`; what the device, or its simulator, takes is not among them.
    """

    kernel: str
    phase: str
    layer: str
    seconds: float
    packing: float
    unpacking: float

    @property
    def total(self) -> float:
        return self.seconds + self.packing + self.unpacking


@dataclass(frozen=True)
class HostTime:
    """The calls of one step in order, and the machine that they were measured on."""

    machine: str
    threads: int
    steps: int
    calls: tuple[Call, ...]
    tag: str = "measured"


def measure(program: Program, sequence: Sequence[Sequence[str]], steps: int = STEPS) -> HostTime:
    """Run some steps on random batches; `sequence` are kernel, phase and layer of each call of a step.

    Raises MissingError for a program for another machine. The program's state is spent.
    """
    program.check_machine()
    draw = np.random.default_rng(0)
    batch = [_random(draw, t.shape, t.dtype) for t in program.manifest.batch]
    kernels = {kernel for kernel, *_ in sequence}
    spans: list[list[tuple[float, float, float]]] = []
    for step in range(_WARM_UP + steps):
        with _timed(program, kernels) as found:
            program.execute(batch)
        if step >= _WARM_UP:
            spans.append(found)
    calls = []
    for (kernel, phase, layer), seconds in zip(sequence, zip(*spans, strict=True), strict=True):
        host, packing, unpacking = map(median, zip(*seconds, strict=True))
        calls.append(Call(kernel, phase, layer, host, packing, unpacking))
    threads = int(import_tvm().runtime.num_threads())
    return HostTime(hosts.name(hosts.cpuinfo()), threads, steps, tuple(calls))


def by_layer(calls: Sequence[Call]) -> dict[str, dict[str, float]]:
    """Of each layer seconds by phase, and of packing and unpacking; layers as they are first called."""
    found: dict[str, dict[str, float]] = {}
    for call in calls:
        row = found.setdefault(call.layer, {})
        parts: Mapping[str, float] = {
            call.phase: call.seconds,
            "packing": call.packing,
            "unpacking": call.unpacking,
        }
        for name, seconds in parts.items():
            row[name] = row.get(name, 0.0) + seconds
    return found


def _random(draw: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Numbers for images; zeros, which are labels of any task, for integers."""
    kind = np.dtype(dtype)
    return draw.standard_normal(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


@contextmanager
def _timed(program: Program, kernels: set[str]) -> Iterator[list[tuple[float, float, float]]]:
    """Filled with seconds, packing and unpacking of each call of these kernels in the block."""
    found: list[tuple[float, float, float]] = []
    began = 0.0

    def note(_: Any, name: str, before: bool, *__: Any) -> None:
        nonlocal began
        if name not in kernels:
            return
        now = time.perf_counter()
        if before:
            began = time.perf_counter()
            return
        called = None if program.driver is None else program.driver.called
        if called is None or called[0] < began:
            found.append((now - began, 0.0, 0.0))
        else:
            found.append((0.0, called[0] - began, now - called[1]))

    program.library.machine.set_instrument(note)
    try:
        yield found
    finally:
        program.library.machine.set_instrument(lambda *_: None)
