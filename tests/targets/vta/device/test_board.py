"""The drivers against register-level doubles of both designs, whose stages are the simulator's."""

import numpy as np
import pytest

from e2compile.errors import DeviceError
from e2compile.targets.vta.device import board
from e2compile.targets.vta.device.board import Board, Buffer, ChiselControl, HlsControl
from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa import config
from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator
from tests.targets.vta.small import started

SIZE = 8 * PAGE


class Design:
    """What both designs share: 32-bit registers, a buffer that the VTA sees where the CPU does not."""

    def __init__(self, vta: Config, buffer: Buffer) -> None:
        self.simulator = Simulator(vta, compiled(vta), 1 << 20)
        assert self.simulator.allocate(buffer.data.size) == buffer.address
        self.buffer = buffer
        self.values: dict[int, int] = {}
        self.polls = 0

    def write(self, offset: int, value: int) -> None:
        assert offset % 4 == 0
        assert 0 <= value < 1 << 32
        self.values[offset] = value

    def run(self, instructions: int, count: int) -> None:
        self.simulator.write(self.buffer.address, self.buffer.data)
        self.simulator.start(instructions, count)
        self.buffer.data[:] = self.simulator.read(self.buffer.address, self.buffer.data.size)


class Hls(Design):
    """Registers of vta.cc's four units. The compute unit's first instruction ends some polls after the start,
    and sets `done` to 0, until then it is what the last run left; FINISH comes some polls later."""

    LATE = 3
    done, is_written = 0, False

    def read(self, offset: int) -> int:
        self._advance()
        if offset == 0x2018:
            return self.done
        assert offset == 0x201C, "no other register has to be read"
        written, self.is_written = self.is_written, False
        return int(written)

    def _advance(self) -> None:
        started = [self.values.get(unit, 0) & 0x01 for unit in (0x0000, 0x1000, 0x2000, 0x3000)]
        if not all(started):
            return
        self.polls += 1
        if self.polls == self.LATE:
            self.done, self.is_written = 0, True
        if self.polls == 2 * self.LATE:
            bases = [self.values[offset] for offset in (0x1010, 0x1018, 0x2020, 0x2028, 0x3010)]
            assert bases == [0] * 5
            assert all(self.values[unit] == 0x81 for unit in (0x1000, 0x2000, 0x3000))
            self.run(self.values[0x0018], self.values[0x0010])
            self.done, self.is_written = 1, True
            self.values[0x0000], self.polls = 0, 0


class Chisel(Design):
    """The one block of VCR.scala."""

    def read(self, offset: int) -> int:
        assert offset == 0x00
        self.polls += 1
        if self.values.get(0x00, 0) & 1 and self.polls > 2:
            assert [self.values[base] for base in range(0x10, 0x24, 4)] == [0] * 5
            self.run(self.values[0x0C], self.values[0x08])
            self.values[0x00], self.polls = 0x02, 0
        return self.values.get(0x00, 0)


def wait(device: Board) -> int:
    """How often is_done had to be asked."""
    for polls in range(20):
        if device.is_done():
            return polls
    raise AssertionError("never done")


@pytest.mark.parametrize(
    ("name", "design", "control"),
    [
        ("pynq", Hls, HlsControl),
        ("pynq-4x8", Hls, HlsControl),
        ("ultra96", Hls, HlsControl),
        ("de10nano", Chisel, ChiselControl),
    ],
)
def test_runs_follow_one_another(
    name: str, design: type[Hls] | type[Chisel], control: type[HlsControl] | type[ChiselControl]
) -> None:
    """A second run does not look done because the first one was."""
    vta = config.named(name)
    buffer = Buffer(PAGE, np.zeros(SIZE, np.uint8))
    device = Board(vta, control(design(vta, buffer)), buffer)
    for seed in range(3):
        address, expected = started(device, seed)
        assert wait(device) > 1
        np.testing.assert_array_equal(device.read(address, expected.size), expected)


def test_memory_is_the_buffers() -> None:
    vta = config.named("pynq")
    buffer = Buffer(3 * PAGE + 16, np.zeros(SIZE, np.uint8))
    device = Board(vta, ChiselControl(Chisel(vta, Buffer(PAGE, buffer.data))), buffer)
    address = device.allocate(1)
    assert address == 4 * PAGE, "a page's address, whatever the buffer's is"
    device.write(address + 5, np.array([7, 8], np.uint8))
    assert device.read(address + 4, 4).tolist() == [0, 7, 8, 0]
    assert buffer.data[PAGE - 16 + 5] == 7
    for outside, size in ((3 * PAGE, 1), (address, PAGE + 1), (address, -1)):
        with pytest.raises(DeviceError, match="outside what was allocated"):
            device.read(outside, size)
    with pytest.raises(DeviceError, match="outside what was allocated"):
        device.start(address, PAGE // 16 + 1)
    with pytest.raises(DeviceError, match="do not fit the board's buffer"):
        device.allocate(SIZE)


def test_a_buffer_beyond_the_registers_is_refused() -> None:
    vta = config.named("pynq")
    buffer = Buffer((1 << 32) - PAGE, np.zeros(SIZE, np.uint8))
    with pytest.raises(DeviceError, match="first 4 GiB"):
        Board(vta, HlsControl(Hls(vta, Buffer(PAGE, buffer.data))), buffer)


def test_a_machine_without_a_buffer_says_what_to_load() -> None:
    with pytest.raises(DeviceError, match="load the kernel module u-dma-buf"):
        board.opened(config.named("pynq"), "nowhere")
