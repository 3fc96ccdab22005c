"""The second interpreter as a device."""

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.device.interface import PAGE
from e2compile.targets.vta.isa.config import Config
from tests.targets.vta.interpreter import ORDERS, Interpreter, Order


class Interpreted:
    """A device with `size` bytes of memory. What the interpreter refuses it raises Wrong for."""

    def __init__(
        self,
        config: Config,
        order: Order = ORDERS["load first"],
        seed: int = 0,
        hazards: bool = False,
        size: int = 1 << 20,
    ) -> None:
        self.config, self.order, self.seed, self.hazards = config, order, seed, hazards
        self.memory = np.zeros(size, np.uint8)
        self.end = PAGE
        # Bytes read from scratchpads and written there, loaded from DRAM and stored there.
        self.moved = np.zeros(4, int)

    def allocate(self, size: int) -> int:
        address = self.end
        self.end += -(-size // PAGE) * PAGE
        assert self.end <= self.memory.size
        return address

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self.memory[address : address + data.size] = data

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        return self.memory[address : address + size].copy()

    def start(self, instructions: int, count: int) -> None:
        words = self.read(instructions, 16 * count).view(np.uint64).reshape(count, 2)
        interpreter = Interpreter(self.config, self.memory, self.order, self.seed, self.hazards)
        interpreter.run(words)
        self.moved += (
            interpreter.read_bytes,
            interpreter.written_bytes,
            interpreter.loaded_bytes,
            interpreter.stored_bytes,
        )

    def close(self) -> None:
        pass

    def is_done(self) -> bool:
        return True
