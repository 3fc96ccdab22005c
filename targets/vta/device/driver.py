"""Drives a device for a Program: the host's calls become copies, runs and waits. Needs no torch."""

import ctypes
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import DeviceError, UsageError
from e2compile.targets.vta.device.interface import Device
from e2compile.targets.vta.isa.instructions import placed
from e2compile.targets.vta.isa.stream import INP, OUT, UOP, WGT, bases
from e2compile.targets.vta.program.table import Binary, Operator, Run, Table

Bytes = NDArray[np.uint8]

# No stream runs for as long: what is not done then never will be.
TIMEOUT_SECONDS = 60.0


# What is told of each run: its operator, the run, and its input, weights and sums.
Watch = Callable[[Operator, Run, Bytes, Bytes, Bytes], None]


class Driver:
    """A table's streams in a device's memory. `groups_run` counts the groups that each operator ran for;
    `watch`, where there is one, is told of each run; `called` is when the last call began and ended, by the
    clock of time.perf_counter."""

    def __init__(self, table: Table, device: Device) -> None:
        self.table, self.device = table, device
        self.groups_run: Counter[int] = Counter()
        self.watch: Watch | None = None
        self.called: tuple[float, float] | None = None
        operators = table.operators
        self.arena = {
            INP: device.allocate(max((o.inp_bytes for o in operators), default=1)),
            WGT: device.allocate(max((o.wgt_bytes for o in operators), default=1)),
            OUT: device.allocate(max((o.out_bytes for o in operators), default=1)),
        }
        self.uops = [self._written(stream.uops) for stream in table.streams]
        self.programs = [
            [self._program(run, stream) for run in operator.runs for stream in run.streams]
            for operator in operators
        ]

    def serve(self) -> None:
        """Take the calls of the library that calls next; it keeps to whoever takes its first call."""
        import tvm_ffi

        for error in (DeviceError, UsageError):  # so that they pass through the library as what they are
            tvm_ffi.register_error(error.__name__, error)
        tvm_ffi.register_global_func(self.table.call, self.run, override=True)

    def close(self) -> None:
        """Let go of the device."""
        self.device.close()

    def run(self, number: int, groups: int, inp: Any, wgt: Any, out: Any) -> None:
        """Run an operator for so many groups of samples; buffers are the host's, by address."""
        began = time.perf_counter()
        operator = self.table.operators[number]
        for group in range(groups):
            images = _memory(inp.value, group, operator.inp_bytes)
            weights = _memory(wgt.value, group if operator.own_weights else 0, operator.wgt_bytes)
            sums = _memory(out.value, group, operator.out_bytes)
            self.device.write(self.arena[INP], images)
            if group == 0 or operator.own_weights:
                self.device.write(self.arena[WGT], weights)
            for address, count in self.programs[number]:
                self._run(operator, address, count)
            sums[:] = self.device.read(self.arena[OUT], operator.out_bytes)
            if self.watch is not None:
                for run in operator.runs:
                    read, given = images[run.inp :][: run.inp_bytes], weights[run.wgt :][: run.wgt_bytes]
                    self.watch(operator, run, read, given, sums[run.out :][: run.out_bytes])
        self.groups_run[number] += groups
        self.called = began, time.perf_counter()

    @property
    def cycles(self) -> int:
        """The cycles that the cycle model counts for all that was run."""
        operators = self.table.operators
        groups_run = self.groups_run.items()
        return sum(self.table.cost(operators[number]).cycles * groups for number, groups in groups_run)

    @property
    def seconds(self) -> float:
        """The same at the board's clock."""
        return self.cycles / self.clock_hz

    @property
    def clock_hz(self) -> float:
        return self.table.config.board.clock_hz

    def _run(self, operator: Operator, address: int, count: int) -> None:
        self.device.start(address, count)
        until = time.monotonic() + TIMEOUT_SECONDS
        while not self.device.is_done():
            if time.monotonic() > until:
                raise DeviceError(f"{operator.name} did not finish within {TIMEOUT_SECONDS:g} s")

    def _program(self, run: Run, number: int) -> tuple[int, int]:
        """A stream's instructions in the device's memory, for a run: their address and number."""
        stream: Binary = self.table.streams[number]
        addresses = {
            INP: self.arena[INP] + run.inp,
            WGT: self.arena[WGT] + run.wgt,
            OUT: self.arena[OUT] + run.out,
            UOP: self.uops[number],
        }
        words = placed(stream.instructions, bases(self.table.config, addresses))
        return self._written(words), len(words)

    def _written(self, array: NDArray[Any]) -> int:
        data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        address = self.device.allocate(max(1, data.size))
        self.device.write(address, data)
        return address


def _memory(address: int, group: int, size: int) -> Bytes:
    """A group's part of a buffer of the host's."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address + group * size))
