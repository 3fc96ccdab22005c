"""Every operator with a lowering computes what ATen computes, special values and corner shapes included."""

import operator
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor
from torch._ops import OpOverload

from e2compile.lower.kinds import OPERATORS
from tests.lower import arithmetic_samples, structure_samples
from tests.lower.compiling import Case, assert_same, called, results
from tests.lower.sampling import Sample

SAMPLES = structure_samples.SAMPLES | arithmetic_samples.SAMPLES
IMPLICIT = {operator.getitem}  # every call with several results


def test_every_operator_has_a_sample() -> None:
    assert set(SAMPLES) == set(OPERATORS) - IMPLICIT


def named_samples() -> Iterator[tuple[str, Any, Sample]]:
    for target, samples in SAMPLES.items():
        for i, sample in enumerate(samples):
            yield f"{str(target).replace('.', '_')}_{i}", target, sample


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: called(target, sample.args, sample.kwargs) for name, target, sample in named_samples()}


@pytest.fixture(scope="module")
def computed(cases: dict[str, Case]) -> dict[str, list[Tensor]]:
    return results(cases)


@pytest.mark.parametrize("target", SAMPLES, ids=str)
def test_computes_what_aten_computes(
    target: OpOverload, cases: dict[str, Case], computed: dict[str, list[Tensor]]
) -> None:
    for name, other, sample in named_samples():
        if other is target:
            assert_same(computed[name], cases[name].expected(), sample.rtol, sample.atol)
