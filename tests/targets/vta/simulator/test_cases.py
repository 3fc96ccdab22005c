"""Streams that all VTAs run alike do so whichever stage goes first, keep the rules, move what is counted."""

from collections.abc import Callable

import numpy as np
import pytest

from e2compile.targets.vta.analysis.check import check
from e2compile.targets.vta.device.interface import Device
from e2compile.targets.vta.isa.config import Config, named
from e2compile.targets.vta.program.cost import cost
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator
from tests.targets.vta.cases import KINDS, random_program, single
from tests.targets.vta.interpreted import Interpreted
from tests.targets.vta.interpreter import ORDERS
from tests.targets.vta.program import Case, run

CONFIGS = ("pynq", "pynq-4x8")
SINGLES = 12  # of each kind, on each configuration
PROGRAMS = 100  # on each configuration

# Each way to run a stream; what they store is the same.
Make = Callable[[Config], Device]
DEVICES: dict[str, Make] = {
    "compute first": lambda config: Interpreted(config, ORDERS["compute first"], seed=1),
    "store first, as a pipeline": lambda config: Interpreted(config, ORDERS["store first"], 2, hazards=True),
    "simulator": lambda config: Simulator(config, compiled(config), 1 << 20),
    "simulator, strict": lambda config: Simulator(config, compiled(config), 1 << 20, strict=True),
    "any order": lambda config: Interpreted(config, np.random.default_rng(0), seed=3, hazards=True),
}


def same(case: Case, devices: dict[str, Make]) -> None:
    check(case.stream.instructions, case.stream.uops, case.config, case.stream.blocks)
    device = Interpreted(case.config)
    expected = run(device, case)
    counted = cost(case.stream, case.config)
    loaded = counted.loaded_bytes - counted.instruction_bytes
    moved = [counted.sram_read_bytes, counted.sram_written_bytes, loaded, counted.out_bytes]
    assert device.moved.tolist() == moved, case.name
    for name, make in devices.items():
        found = run(make(case.config), case)
        assert np.array_equal(found, expected), f"{case.name}: {name}"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_instruction(name: str, kind: str) -> None:
    for seed in range(SINGLES):
        same(single(kind, named(name), seed), DEVICES)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tens", range(PROGRAMS // 10))
def test_a_program(name: str, tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        same(random_program(named(name), seed), DEVICES)
