"""What this machine can do at most: multiply-adds from registers, and bytes moved, by all its threads.

    python benchmarks/roof.py

The probes are kernels compiled as the program's are: independent chains of one multiply-add, for bytes of
tiles where the CPU has those, and a copy and a sum of more memory than caches hold. `best` of many runs:
nothing makes a machine faster than it is.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import tvm
import tvm.tirx.script.builder as T

from e2compile.runtime.engine import import_tvm
from e2compile.targets.llvm import tiles
from e2compile.targets.llvm.arithmetic import Arithmetic, Dots, Floats
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.dot import takes_signed
from e2compile.targets.llvm.emit import arguments, fetch, function, keep, load, registers, store, zero
from e2compile.targets.llvm.machine import Machine, host

# Each of so many left vectors times each right one: chains that keep two units with a latency of four cycles
# busy, in 16 registers. The left ones are read anew, or LLVM would multiply once for all steps.
_LEFTS, _RIGHTS = 2, 4
_CHAINS = _LEFTS * _RIGHTS
_READ = 128
_STEPS, _TILE_STEPS = 1 << 20, 1 << 16
# A new thread may share its maker's core for a while.
_LEAST_SECONDS = 1.0
# Elements of float32, several times what the last-level cache holds.
_ELEMENTS = 1 << 25


@dataclass(frozen=True)
class Roof:
    """1e9 operations or bytes a second: a multiply-add counts twice, as does a byte read and written."""

    float_rate: float
    integer_rate: float
    copy_rate: float
    read_rate: float

    def text(self) -> str:
        return (
            f"{self.float_rate:.0f} GFLOP/s fp32, {self.integer_rate:.0f} Gop/s of bytes,"
            f" {self.copy_rate:.1f} GB/s copied, {self.read_rate:.1f} GB/s read"
        )


def measured() -> Roof:
    import_tvm()  # with a thread for each core
    machine = host()
    integers = Dots(machine, signed=takes_signed(machine))
    return Roof(
        _product_rate(machine, Floats(), 1),
        _tile_rate(machine) if machine.tiles else _product_rate(machine, integers, integers.depth),
        _copy_rate(machine),
        _read_rate(machine),
    )


def _product_rate(machine: Machine, arithmetic: Arithmetic, depth: int) -> float:
    lanes, tasks, dtype = machine.lanes, machine.threads, arithmetic.dtype
    with function("main") as builder:
        x_shape = ((_READ * _LEFTS + _RIGHTS) * lanes,)
        given = arguments({"x": x_shape, "y": (tasks * _CHAINS * lanes,)}, {"x": dtype, "y": dtype})
        with T.parallel(tasks) as task:
            rights = [load(given["x"], (_READ * _LEFTS + number) * lanes, lanes) for number in range(_RIGHTS)]
            sums = registers([lanes] * _CHAINS, dtype)
            for register in sums:
                keep(register, zero(lanes, dtype), lanes)
            with T.serial(_STEPS) as step:
                places = [(step % _READ * _LEFTS + number) * lanes for number in range(_LEFTS)]
                lefts = [load(given["x"], place, lanes) for place in places]
                for register, (left, right) in zip(sums, product(lefts, rights), strict=True):
                    arithmetic.add(register, left, right, lanes)
            for number, register in enumerate(sums):
                store(given["y"], (task * _CHAINS + number) * lanes, fetch(register, lanes), lanes)
    arrays = (np.zeros(x_shape, dtype), np.zeros(tasks * _CHAINS * lanes, dtype))
    return 2 * depth * tasks * _CHAINS * _STEPS * lanes / _seconds(builder.get(), *arrays) / 1e9


def _tile_rate(machine: Machine) -> float:
    tasks, each = machine.threads, 2 * tiles.SIZE * tiles.BYTES
    with function("main") as builder:
        given = arguments(
            {"x": (tiles.SIZE,), "y": (tasks * _RIGHTS * tiles.SIZE,)}, dict.fromkeys("xy", "int32")
        )
        with T.parallel(tasks) as task, tiles.configured(machine, [tiles.Shape()] * tiles.NUMBER) as held:
            for total in range(_RIGHTS):
                held.zero(total)
                held.load(_RIGHTS + total, given["x"], 0, tiles.LANES)
            with T.serial(_TILE_STEPS):
                for total, (left, right) in enumerate(product((4, 5), (6, 7))):
                    held.multiply_add(total, left, right, (True, True))
            for total in range(_RIGHTS):
                held.store(total, given["y"], (task * _RIGHTS + total) * tiles.SIZE, tiles.LANES)
    arrays = (np.zeros(tiles.SIZE, np.int32), np.zeros(tasks * _RIGHTS * tiles.SIZE, np.int32))
    return each * tasks * _RIGHTS * _TILE_STEPS / _seconds(builder.get(), *arrays) / 1e9


def _copy_rate(machine: Machine) -> float:
    lanes, tasks = machine.lanes, machine.threads
    part = _ELEMENTS // lanes // tasks
    with function("main") as builder:
        given = arguments({"x": (_ELEMENTS,), "y": (_ELEMENTS,)})
        with T.parallel(tasks) as task, T.serial(part) as step:
            place = (task * part + step) * lanes
            store(given["y"], place, load(given["x"], place, lanes), lanes)
    arrays = (np.ones(_ELEMENTS, np.float32), np.zeros(_ELEMENTS, np.float32))
    return 2 * 4 * _ELEMENTS / _seconds(builder.get(), *arrays) / 1e9


def _read_rate(machine: Machine) -> float:
    lanes, tasks = machine.lanes, machine.threads
    part = _ELEMENTS // lanes // tasks // _CHAINS
    with function("main") as builder:
        given = arguments({"x": (_ELEMENTS,), "y": (tasks * _CHAINS * lanes,)})
        with T.parallel(tasks) as task:
            sums = registers([lanes] * _CHAINS)
            for register in sums:
                keep(register, zero(lanes), lanes)
            with T.serial(part) as step:
                for number, register in enumerate(sums):
                    place = ((task * part + step) * _CHAINS + number) * lanes
                    keep(register, fetch(register, lanes) + load(given["x"], place, lanes), lanes)
            for number, register in enumerate(sums):
                store(given["y"], (task * _CHAINS + number) * lanes, fetch(register, lanes), lanes)
    arrays = (np.ones(_ELEMENTS, np.float32), np.zeros(tasks * _CHAINS * lanes, np.float32))
    return 4 * tasks * part * _CHAINS * lanes / _seconds(builder.get(), *arrays) / 1e9


def _seconds(function: Any, *arrays: Any) -> float:
    built: Callable[..., None] = tvm.compile(function, tvm_target())["main"]
    given = [tvm.runtime.tensor(array) for array in arrays]
    end, best = time.perf_counter() + _LEAST_SECONDS, math.inf
    while (began := time.perf_counter()) < end:
        built(*given)
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    print(measured().text())
