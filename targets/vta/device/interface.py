"""A device: memory that it can see, and a VTA that runs a stream of instructions from there."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2compile.targets.vta.isa.config import Config

PAGE = 4096


class Device(Protocol):
    """A board or the simulator. Addresses are physical, in bytes."""

    @property
    def config(self) -> Config: ...

    def allocate(self, size: int) -> int:
        """The address, a page's, of `size` contiguous bytes. Raises DeviceError if there are none."""

    def write(self, address: int, data: NDArray[np.uint8]) -> None: ...

    def read(self, address: int, size: int) -> NDArray[np.uint8]: ...

    def start(self, instructions: int, count: int) -> None:
        """Let the VTA run `count` instructions that lie at an address.

        Raises DeviceError where it is known that they will not reach their FINISH: by a simulator.
        """

    def close(self) -> None:
        """Let go of the device, so that others can have it."""

    def is_done(self) -> bool:
        """Whether the run has reached its FINISH. Raises DeviceError where it cannot any more."""
