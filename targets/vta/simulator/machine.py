"""What the TIR of VTA's units is written with: the machine that it works on, conditions, vectors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T

from e2compile.targets.vta.isa.config import Config
from e2compile.targets.vta.simulator.simulator import Fault


@dataclass(frozen=True)
class Machine:
    """The arguments of the function. A WGT element is transposed: so an output row is one vector."""

    config: Config
    size: Any
    dram: Any
    uop: Any
    inp: Any
    wgt: Any
    acc: Any
    out: Any
    status: Any

    @property
    def lanes(self) -> int:
        """Of an element of INP, ACC and OUT."""
        return self.config.batch * self.config.block


@contextmanager
def when(condition: Any) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


@contextmanager
def unless(machine: Machine, *faults: tuple[Any, Fault]) -> Iterator[None]:
    """Runs its body where no condition holds; else the status is the first one's fault."""
    code: Any = T.int32(0)
    for condition, fault in reversed(faults):
        code = T.Select(condition, T.int32(int(fault)), code)
    code = T.bind(code)
    with T.If(code == 0):
        with T.Then():
            yield
        with T.Else():
            T.buffer_store(machine.status, code, [0])


def get(pad: Any, index: Any, lanes: int) -> Any:
    """A vector from an index on."""
    return pad[T.ramp(index, 1, lanes)]


def put(pad: Any, index: Any, value: Any, lanes: int) -> None:
    T.buffer_store(pad, value, [T.ramp(index, 1, lanes)])
