"""A VTA on an FPGA that shares memory with this CPU: its registers, and a buffer that both see.

Needs Linux, Python and NumPy; the right to map /dev/mem; the u-dma-buf kernel module (github.com/ikwzm/
udmabuf), which gives contiguous memory; and the bitstream loaded already. Nobody else may use the VTA.

On Zynq boards the VTA reads and writes through the CPU's caches, by its coherent port (S_AXI_ACP,
S_AXI_HPC0): the buffer is cached, and nothing has to be flushed. On others it is mapped without a cache.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import DeviceError
from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa.config import Config

_START, _AUTO_RESTART = 0x01, 0x80
_LIMIT = 1 << 32  # bytes; registers hold 32-bit addresses
BUFFER = "udmabuf0"


class Registers(Protocol):
    """The words of a VTA's control interface, by their offsets in bytes."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


@dataclass(frozen=True)
class Buffer:
    """Memory that the VTA sees at a physical address, and the CPU as `data`."""

    address: int
    data: NDArray[np.uint8]


class Control(Protocol):
    """How one design of VTA is started."""

    def start(self, instructions: int, count: int) -> None: ...

    def is_done(self) -> bool: ...


class HlsControl:
    """The Vivado HLS design: a block of registers for each unit (vta.cc; the drivers' pynq_driver.cc).

    A flag says that `done` was written since it was last read. Every instruction of the compute unit writes
    `done`, so its value is this run's once the flag was seen, not still that of the run before.
    """

    FETCH, LOAD, COMPUTE, STORE = 0x0000, 0x1000, 0x2000, 0x3000
    RESTARTED = (LOAD, COMPUTE, STORE)  # begin anew for each instruction
    SIZE = 0x4000
    CONTROL, COUNT, INSTRUCTIONS, DONE, DONE_WRITTEN = 0x00, 0x10, 0x18, 0x18, 0x1C
    # Of the inputs, weights, micro-ops, biases and outputs: zero makes addresses in instructions physical.
    BASES = (LOAD + 0x10, LOAD + 0x18, COMPUTE + 0x20, COMPUTE + 0x28, STORE + 0x10)

    def __init__(self, registers: Registers) -> None:
        self._registers = registers
        self._is_current = False

    def start(self, instructions: int, count: int) -> None:
        write = self._registers.write
        self._registers.read(self.COMPUTE + self.DONE_WRITTEN)
        self._is_current = False
        write(self.FETCH + self.COUNT, count)
        write(self.FETCH + self.INSTRUCTIONS, instructions)
        for base in self.BASES:
            write(base, 0)
        write(self.FETCH + self.CONTROL, _START)
        for unit in self.RESTARTED:
            write(unit + self.CONTROL, _START | _AUTO_RESTART)

    def is_done(self) -> bool:
        read = self._registers.read
        self._is_current = self._is_current or bool(read(self.COMPUTE + self.DONE_WRITTEN) & 1)
        is_done = self._is_current and bool(read(self.COMPUTE + self.DONE) & 1)
        if is_done:
            for unit in self.RESTARTED:
                self._registers.write(unit + self.CONTROL, 0)
        return is_done


class ChiselControl:
    """The Chisel design: one block; starting clears the flag of the run before."""

    SIZE = 0x1000
    CONTROL, COUNT, INSTRUCTIONS = 0x00, 0x08, 0x0C
    BASES = (0x10, 0x14, 0x18, 0x1C, 0x20)
    FINISHED = 0x02

    def __init__(self, registers: Registers) -> None:
        self._registers = registers

    def start(self, instructions: int, count: int) -> None:
        self._registers.write(self.COUNT, count)
        self._registers.write(self.INSTRUCTIONS, instructions)
        for base in self.BASES:
            self._registers.write(base, 0)
        self._registers.write(self.CONTROL, _START)

    def is_done(self) -> bool:
        return bool(self._registers.read(self.CONTROL) & self.FINISHED)


class Board:
    """A device whose memory is one contiguous buffer."""

    def __init__(self, config: Config, control: Control, buffer: Buffer) -> None:
        if buffer.address + buffer.data.size > _LIMIT:
            raise DeviceError(f"the buffer at {buffer.address:#x} is not within the first 4 GiB")
        self._config, self._control, self._buffer = config, control, buffer
        self._used = -buffer.address % PAGE

    @property
    def config(self) -> Config:
        return self._config

    def allocate(self, size: int) -> int:
        first, end = self._used, self._used + -(-size // PAGE) * PAGE
        if end > self._buffer.data.size:
            raise DeviceError(
                f"{size} more bytes do not fit the board's buffer of {self._buffer.data.size >> 20} MiB: "
                "load u-dma-buf with a larger one"
            )
        self._used = end
        return self._buffer.address + first

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self._allocated(address, data.size)[:] = data

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        return self._allocated(address, size).copy()

    def start(self, instructions: int, count: int) -> None:
        self._allocated(instructions, 16 * count)
        self._control.start(instructions, count)

    def is_done(self) -> bool:
        return self._control.is_done()

    def close(self) -> None:
        """Memory stays mapped until nobody holds the board."""

    def _allocated(self, address: int, size: int) -> NDArray[np.uint8]:
        first = address - self._buffer.address
        if first < 0 or size < 0 or first + size > self._used:
            raise DeviceError(f"{size} bytes at address {address:#x} are outside what was allocated")
        return self._buffer.data[first : first + size]


@dataclass(frozen=True)
class _Wiring:
    """Where a board's design has its registers, which design it is, and whether its DMA port is coherent."""

    address: int
    control: type[HlsControl] | type[ChiselControl]
    is_coherent: bool


_WIRING = {
    "pynq": _Wiring(0x43C0_0000, HlsControl, True),
    "ultra96": _Wiring(0xA000_0000, HlsControl, True),
    "zcu104": _Wiring(0xA000_0000, HlsControl, True),
    "de10nano": _Wiring(0xFF22_0000, ChiselControl, False),
}


class _Mapped:
    """Registers in physical memory."""

    def __init__(self, address: int, size: int) -> None:
        self._words = np.frombuffer(_mapped(Path("/dev/mem"), size, address, is_cached=False), "<u4")

    def read(self, offset: int) -> int:
        return int(self._words[offset // 4])

    def write(self, offset: int, value: int) -> None:
        self._words[offset // 4] = value


def opened(config: Config, name: str = BUFFER) -> Board:
    """The VTA of the board that this process runs on, with the u-dma-buf of that name as its memory."""
    wiring = _WIRING[config.target]
    folders = [Path("/sys/class") / driver / name for driver in ("u-dma-buf", "udmabuf")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise DeviceError(f"there is no {name}: load the kernel module u-dma-buf ({name}=BYTES)")
    address, size = (int((folder / entry).read_text(), 0) for entry in ("phys_addr", "size"))
    data = np.frombuffer(_mapped(Path("/dev") / name, size, 0, wiring.is_coherent), np.uint8)
    control = wiring.control(_Mapped(wiring.address, wiring.control.SIZE))
    return Board(config, control, Buffer(address, data))


def _mapped(path: Path, size: int, offset: int, is_cached: bool) -> mmap.mmap:
    try:
        file = os.open(path, os.O_RDWR | (0 if is_cached else os.O_SYNC))
        try:
            return mmap.mmap(file, size, offset=offset)
        finally:
            os.close(file)
    except OSError as error:
        raise DeviceError(f"{path} cannot be mapped: {error.strerror or error}") from error
