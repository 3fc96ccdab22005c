"""Kernels over live samples: a compiled step runs a block for some, and reads nothing of the others."""

import numpy as np
import pytest
import torch

import e2compile
from e2compile.runtime.program import Program
from tests.guarded import MASKS, batch, guarded
from tests.steps import graph_steps


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return e2compile.compile(guarded(), output=tmp_path_factory.mktemp("guarded") / "out")


def fresh(program: Program) -> Program:
    return Program(program.folder)


@pytest.mark.parametrize("masks", MASKS)
def test_a_step_is_that_of_the_graph(program: Program, masks: str) -> None:
    graph, data, run = guarded(), batch(MASKS[masks]), fresh(program)
    (expected,) = graph_steps(graph.step, graph.task, [data])
    loss = run.execute(tuple(t.numpy() for t in data)).loss
    assert loss == pytest.approx(float(expected["loss loss"]), rel=1e-6)
    for name, array in run.arrays().items():
        kind = "optimizer state" if name.startswith("optimizer.") else "parameter"
        wanted = expected[f"{kind} {name.removeprefix('optimizer.')}"]
        # float32 against float64: gradients of up to some 500 products, rounded at 6e-8 of their magnitude
        torch.testing.assert_close(torch.from_numpy(array).double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masks", MASKS)
def test_what_skipped_samples_left_in_memory_is_never_read(program: Program, masks: str) -> None:
    """A step of NaN images for all samples fills the program's memory; the next step has the same bits."""
    data = tuple(t.numpy() for t in batch(MASKS[masks]))
    poison = np.full_like(data[0], np.nan)
    poison[:, :, 0, 0] = 1.0  # every sample runs every block
    clean, dirty = fresh(program), fresh(program)
    state = dirty.arrays()
    assert np.isnan(dirty.execute((poison, data[1])).loss)
    dirty.restore(state)
    dirty.position = clean.position
    assert clean.execute(data).loss == dirty.execute(data).loss
    for name, array in clean.arrays().items():
        assert array.tobytes() == dirty.arrays()[name].tobytes(), name


@pytest.mark.parametrize("masks", MASKS)
def test_other_samples_pixels_do_not_matter_to_a_block(program: Program, masks: str) -> None:
    """Two steps run one after the other give the same as each alone: no list outlives its step."""
    first, second = batch(MASKS[masks]), batch(MASKS["odd"], seed=1)
    graph, run = guarded(), fresh(program)
    expected = graph_steps(graph.step, graph.task, [first, second])
    for data, wanted in zip((first, second), expected, strict=True):
        loss = run.execute(tuple(t.numpy() for t in data)).loss
        assert loss == pytest.approx(float(wanted["loss loss"]), rel=1e-5)
