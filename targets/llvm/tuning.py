"""Measures what the estimates choose against what they say is next best, and takes what is faster."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm.tirx import PrimFunc

from e2compile.lower.module import contraction_kernel
from e2compile.lower.workload import Contraction
from e2compile.runtime.engine import import_tvm
from e2compile.targets.base import TuningProgress
from e2compile.targets.llvm import tuning_table
from e2compile.targets.llvm.build import function
from e2compile.targets.llvm.choices import Choices, candidates
from e2compile.targets.llvm.kernels import LlvmKernels
from e2compile.targets.llvm.machine import Machine
from e2compile.targets.llvm.tuning_table import Measured

# So many candidates are measured for each contraction, the default one among them.
_CANDIDATES = 6
# Their runs take turns, so often and so long at least; the least time of each counts.
_ROUNDS = 7
_SECONDS = 0.2
# What a choice has to gain over the default one, twice: less may be noise.
_MARGIN = 0.03


@dataclass(frozen=True)
class Tuning:
    """Tunes for a machine in about so many seconds; `path` is the table of what was measured before."""

    machine: Machine
    seconds: float
    path: Path | None
    watch: Callable[[TuningProgress], None]

    def choices(self, calls: Mapping[Contraction, int]) -> Choices:
        """What to choose for those contractions, called so often in a step, that are faster for it.

        Those with the most multiply-accumulates are measured first. One that was begun is finished, so that
        the seconds may be exceeded by it; what was measured before is not measured again.
        """
        known = self._known(calls)
        left = sorted(calls.keys() - known.keys(), key=lambda c: (-calls[c] * c.conv.macs, repr(c)))
        began = time.perf_counter()
        self._report(calls, known, 0.0)
        for contraction in left:
            if time.perf_counter() - began > self.seconds:
                break
            known[contraction] = measured(contraction, self.machine)
            if self.path is not None:
                tuning_table.keep(self.path, self.machine, contraction, known[contraction])
            self._report(calls, known, time.perf_counter() - began)
        found = ((contraction, known[contraction].choice) for contraction in calls if contraction in known)
        return tuple((contraction, choice) for contraction, choice in found if choice is not None)

    def _known(self, calls: Mapping[Contraction, int]) -> dict[Contraction, Measured]:
        """What the table says of contractions, but for what another version chose and this one cannot."""
        table = {} if self.path is None else tuning_table.read(self.path, self.machine)
        return {
            contraction: table[contraction]
            for contraction in calls
            if contraction in table
            and table[contraction].choice in (None, *candidates(contraction, self.machine))
        }

    def _report(
        self, calls: Mapping[Contraction, int], known: Mapping[Contraction, Measured], seconds: float
    ) -> None:
        faster = sum(item.choice is not None for item in known.values())
        self.watch(TuningProgress(len(known), len(calls), faster, seconds, self.seconds))


def measured(contraction: Contraction, machine: Machine) -> Measured:
    """The fastest of the candidates, where it is faster than the default one beyond noise."""
    choices = candidates(contraction, machine)[:_CANDIDATES]
    if len(choices) == 1:
        return Measured()
    kernels = [
        contraction_kernel(LlvmKernels(machine, ((contraction, choice),)), contraction) for choice in choices
    ]
    arguments = _arguments(kernels[0])
    functions = [function(kernel, machine) for kernel in kernels]
    times = _least_seconds(functions, arguments)
    best = times.index(min(times))
    default, least = _least_seconds([functions[0], functions[best]], arguments)
    ratio = max(times[best] / times[0], least / default)
    return Measured(choices[best], ratio) if ratio < 1 - _MARGIN else Measured()


def _arguments(kernel: PrimFunc) -> list[Any]:
    """Random operands, and room for the result."""
    random = np.random.default_rng(0)
    tensor = import_tvm().runtime.tensor
    return [
        tensor(random.integers(-128, 128, tuple(map(int, buffer.shape))).astype(str(buffer.dtype)))
        for buffer in kernel.params
    ]


def _least_seconds(functions: Sequence[Callable[..., None]], arguments: Sequence[Any]) -> list[float]:
    """Of each function the least time of its runs, which take turns."""
    least = [float("inf")] * len(functions)
    began, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - began < _SECONDS:
        rounds += 1
        for number, call in enumerate(functions):
            start = time.perf_counter()
            call(*arguments)
            least[number] = min(least[number], time.perf_counter() - start)
    return least
