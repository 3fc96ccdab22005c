"""A VTA in software: memory, scratchpads, and the compiled interpreter (interpreter.py).

It needs neither TVM's compiler nor a C compiler: the interpreter is a function of the program's library.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from e2compile.errors import DeviceError
from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.isa.instructions import Words
from e2compile.targets.vta.simulator.execution import LOAD_FIRST, STORE_FIRST, execution_order

# The interpreter's name in a program's library.
INTERPRETER = "vta_interpreter"
_ALIGNMENT = 64  # bytes, of the arrays that TVM's functions take


class Fault(IntEnum):
    """Why an instruction was not run: what it names does not exist, or it leaves that memory."""

    OPCODE = 1
    MEMORY = 2
    ALU_OP = 3
    UOP = 4
    INP = 5
    WGT = 6
    ACC = 7
    DRAM = 8


_MESSAGES = {
    Fault.OPCODE: "has an opcode that is none",
    Fault.MEMORY: "moves data from or to a memory that it cannot",
    Fault.ALU_OP: "has an ALU operation that is not on all VTAs",
    Fault.DRAM: "leaves the memory that was allocated",
} | {fault: f"leaves the {fault.name} scratchpad" for fault in (Fault.UOP, Fault.INP, Fault.WGT, Fault.ACC)}


def scratchpads(config: Config) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and shape of each of the interpreter's scratchpads, which are flat.

    INP and WGT hold float32, in which sums of `block` products of bytes are exact.
    """
    lanes = config.batch * config.block
    return {
        "uop": ("int32", (1 << config.log_uops,)),
        "inp": ("float32", (lanes << config.log_inps,)),
        "wgt": ("float32", (config.block * config.block << config.log_wgts,)),
        "acc": ("int32", (lanes << config.log_accs,)),
        "out": ("int8", (lanes << config.log_accs,)),
    }


class Simulator:
    """A device with `size` bytes of memory, which the machine gives it as they are used.

    `run` is the interpreter, compiled. Strict, memory and scratchpads are full of garbage (of `seed`), and a
    stream runs twice, in the two most different orders that its tokens allow, from different garbage: it is
    refused where the results differ.
    """

    def __init__(
        self,
        config: Config,
        run: Callable[..., Any],
        size: int = 512 << 20,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        self._config, self._run, self._strict = config, run, strict
        self._garbage = np.random.default_rng(seed)
        self._memory = _aligned((size,), np.int8)
        self._end = PAGE  # The first page stays free: an address that was forgotten leads there.
        self.scratchpads = {n: _aligned(shape, dtype) for n, (dtype, shape) in scratchpads(config).items()}
        self._status = _aligned((2,), np.int32)
        self._is_done = False
        self.instructions = 0

    @property
    def config(self) -> Config:
        return self._config

    def allocate(self, size: int) -> int:
        address, end = self._end, self._end + -(-size // PAGE) * PAGE
        if end > self._memory.size:
            raise DeviceError(
                f"the simulator has {self._memory.size >> 20} MiB of memory: {size} more bytes do not fit"
            )
        self._end = end
        if self._strict:
            self._memory[address:end] = self._bytes(end - address)
        return address

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self._allocated(address, data.size)[:] = data.view(np.int8)

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        return self._allocated(address, size).view(np.uint8).copy()

    def start(self, instructions: int, count: int) -> None:
        """Run them to the end. Raises DeviceError where hardware would stop, or do something undefined."""
        self._is_done = False
        words: Words = self.read(instructions, 16 * count).view(np.uint64).reshape(count, 2)
        if self._strict:
            self._run_twice(words)
        else:
            self._run_once(words, execution_order(words))
        self.instructions += count
        self._is_done = True

    def close(self) -> None:
        """There is nothing that others wait for."""

    def is_done(self) -> bool:
        return self._is_done

    def _run_twice(self, words: Words) -> None:
        memory = self._memory[: self._end]
        before = memory.copy()
        self._poison()
        self._run_once(words, execution_order(words, LOAD_FIRST))
        after = memory.copy()
        memory[:] = before
        self._poison()
        self._run_once(words, execution_order(words, STORE_FIRST))
        different = np.flatnonzero(memory != after)
        if different.size:
            raise DeviceError(
                f"{different.size} bytes from address {different[0]:#x} on depend on which stage runs first, "
                "or on what the scratchpads held before: tokens or loads are missing"
            )

    def _run_once(self, words: Words, order: NDArray[np.int32]) -> None:
        copies = [_aligned(array.shape, array.dtype) for array in (words.view(np.int64), order)]
        for copy, array in zip(copies, (words.view(np.int64), order), strict=True):
            copy[:] = array
        self._run(*copies, self._memory[: self._end], *self.scratchpads.values(), self._status)
        fault, number = map(int, self._status)
        if fault:
            raise DeviceError(f"instruction {number} {_MESSAGES[Fault(fault)]}")

    def _poison(self) -> None:
        """Scratchpads as they are after power-on."""
        for pad in self.scratchpads.values():
            if pad.dtype == np.float32:
                pad[:] = self._bytes(pad.size)
            else:
                pad[:] = self._bytes(pad.nbytes).view(pad.dtype)

    def _bytes(self, size: int) -> NDArray[np.int8]:
        return np.frombuffer(self._garbage.bytes(size), np.int8)

    def _allocated(self, address: int, size: int) -> NDArray[np.int8]:
        if address < PAGE or size < 0 or address + size > self._end:
            raise DeviceError(f"{size} bytes at address {address:#x} are outside what was allocated")
        return self._memory[address : address + size]


def _aligned(shape: Iterable[int], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros where TVM's functions can use them."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    whole = np.zeros(size + _ALIGNMENT, np.uint8)
    offset = -whole.ctypes.data % _ALIGNMENT
    return whole[offset : offset + size].view(dtype).reshape(shape)
