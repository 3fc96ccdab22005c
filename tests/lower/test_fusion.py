"""Fused and scheduled graphs compute what their calls compute one by one; state is replaced in place."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.lower.compiling import Case, assert_same, results, traced
from tests.lower.graphs import GRAPHS, STATES, batch_norm
from tests.lower.programs import Program, programs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    made = {name: traced(function, *inputs) for name, (function, inputs) in GRAPHS.items()}
    return made | {
        f"state {name}": traced(function, *inputs, states=states)
        for name, (function, inputs, states) in STATES.items()
    }


@pytest.fixture(scope="module")
def computed(cases: dict[str, Case]) -> dict[str, list[Tensor]]:
    return results(cases)


def assert_computed(name: str, cases: dict[str, Case], computed: dict[str, list[Tensor]]) -> None:
    assert_same(computed[name], cases[name].expected(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_fused_graph_computes_the_same(
    name: str, cases: dict[str, Case], computed: dict[str, list[Tensor]]
) -> None:
    assert_computed(name, cases, computed)


@pytest.mark.parametrize("name", STATES)
def test_state_is_replaced_after_its_last_reader(
    name: str, cases: dict[str, Case], computed: dict[str, list[Tensor]]
) -> None:
    assert_computed(f"state {name}", cases, computed)


def split(case: Case, position: int) -> Case:
    """With the nodes from a position on in the backward phase: groups do not span phases."""
    for i, node in enumerate(case.graph.graph.nodes):
        node.meta["phase"] = "forward" if i < position else "backward"
    return case


# One build takes longer than one program to run, so an example is a module of several programs.
@given(st.lists(programs(), min_size=8, max_size=8), st.integers(4, 12))
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_random_graph_computes_the_same(made: list[Program], position: int) -> None:
    cases = {
        f"program_{i}": split(traced(program, *program.inputs(), states=program.states()), position)
        for i, program in enumerate(made)
    }
    for name, found in results(cases).items():
        assert_same(found, cases[name].expected(), rtol=1e-4, atol=1e-4)


def digest() -> str:
    """Of results that take reductions in parts, in rows and with stores beside them."""
    random = torch.Generator().manual_seed(1)
    x, channels = torch.randn(8, 24, 40, 41, generator=random), torch.ones(24)

    def function(x: Tensor, c: Tensor) -> Any:
        return *batch_norm(x, c, c, c, c, x * 2), x.sum(), x.amax((0, 2)), x.exp()

    found = results({"f": traced(function, x, channels)})["f"]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in found)).hexdigest()


def test_the_number_of_threads_changes_no_bit() -> None:
    """As many threads as the test itself has, against one: the variable is read when TVM is loaded."""
    command = [sys.executable, "-c", "from tests.lower.test_fusion import digest; print(digest())"]
    environment = os.environ | {"TVM_NUM_THREADS": "1"}
    alone = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    assert alone.stdout.strip() == digest()
