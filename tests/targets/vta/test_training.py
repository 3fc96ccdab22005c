"""Training on the array is training on the CPU: the same integers, and host kernels of the same code."""

from typing import Any

import numpy as np
import pytest
import torch

import e2compile
from e2compile.passes import BY_NAME, LayerGate, Quantise, SignPredict
from e2compile.pipeline import TrainingGraph, capture
from tests.models import functional_net
from tests.steps import images

SHAPE = (5, 3, 16, 16)
PASSES: dict[str, tuple[Any, ...]] = {
    "int8": (),
    "int8 of 8-bit gradients": (Quantise(gradient_bits=8),),
    "smd,slu,psg": (
        BY_NAME["smd"](p=0.3),
        LayerGate(first=True),
        SignPredict(fallback="layer", unsure_limit=0.2),
    ),
}


def graph(name: str) -> TrainingGraph:
    torch.manual_seed(0)
    return capture(functional_net(4), images(SHAPE)).apply(*PASSES[name])


@pytest.mark.parametrize("name", PASSES)
def test_steps_give_the_same_bits_as_on_the_cpu(name: str) -> None:
    fpga = e2compile.compile(graph(name), "fpga")
    folder = fpga.folder
    passes = graph(name).passes
    with_integers = passes if any(isinstance(p, Quantise) for p in passes) else (*passes, Quantise())
    torch.manual_seed(0)
    cpu = e2compile.compile(
        capture(functional_net(4), images(SHAPE)).apply(*with_integers), "cpu", verify=False
    )
    strict = e2compile.load(folder, "simulator:strict")
    for step in range(3):
        batch = tuple(t.numpy() for t in images(SHAPE, seed=step))
        losses = {program.step(batch).loss for program in (fpga, cpu, strict)}
        assert len(losses) == 1
    for other in (fpga, strict):
        assert all(np.array_equal(value, other.arrays()[key]) for key, value in cpu.arrays().items())
    assert fpga.driver.cycles == strict.driver.cycles > 0


def test_blocks_that_no_sample_runs_run_no_stream() -> None:
    torch.manual_seed(0)
    program = e2compile.compile(
        capture(functional_net(4), images(SHAPE)).apply(LayerGate(first=True, floor=0.0)),
        "fpga",
        verify=False,
    )
    batch = tuple(t.numpy() for t in images(SHAPE))
    opened = {}
    for bias in (-100.0, 100.0):
        state = program.arrays()
        (name,) = [n for n in state if n.endswith("slu.head.bias")]
        program.restore(state | {name: np.full_like(state[name], bias)})
        program.driver.groups_run.clear()
        program.execute(batch)
        opened[bias] = program.driver.cycles
    assert 0 < opened[-100.0] < opened[100.0] / 2
