"""Tuning: what can be chosen, that kernels are as chosen, and what is kept of measurements."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import tvm
from tvm_ffi import structural_equal

from e2compile.errors import UsageError
from e2compile.lower.module import contraction_kernel
from e2compile.lower.workload import Contraction, Convolution
from e2compile.targets import TuningProgress
from e2compile.targets.llvm import tiling, tuning, tuning_table
from e2compile.targets.llvm.arithmetic import Floats
from e2compile.targets.llvm.build import function
from e2compile.targets.llvm.choices import WINOGRAD, Choice, candidates
from e2compile.targets.llvm.gather_plan import plan as gather_plan
from e2compile.targets.llvm.gradient_plan import GradientTile, priced
from e2compile.targets.llvm.gradient_plan import plan as gradient_plan
from e2compile.targets.llvm.kernels import LlvmKernels
from e2compile.targets.llvm.machine import host
from e2compile.targets.llvm.tiling import RegisterTile
from e2compile.targets.llvm.tuning import Tuning
from e2compile.targets.llvm.tuning_table import Measured
from tests.targets.contractions import TOLERANCE, reference, run, same

FLOATS = ("convolution", "input_gradient", "weight_gradient")
SCALED = ("scaled_convolution", "scaled_input_gradient", "planes_input_gradient")
INTEGERS = ("integer_convolution", "integer_input_gradient", "integer_weight_gradient")
CONV = same(3, 8, 18, 20)
STRIDED = same(2, 9, 7, 13, 2)
DEPTHWISE = same(2, 7, 24, 24, 1, 24)
# The last of the candidates is unlike any that the estimate likes.
PICKS = (1, -1)


# Candidates


@pytest.mark.parametrize("conv", [CONV, STRIDED, DEPTHWISE], ids=["dense", "strided", "depthwise"])
def test_candidates_are_distinct_and_in_order_of_cost(conv: Convolution) -> None:
    for method in (*FLOATS, *INTEGERS, *SCALED):
        found = candidates(Contraction(method, conv), host())
        assert len(found) == len(set(found)) > 1
    forward, gradient = gather_plan(conv, False, host(), Floats()), gradient_plan(conv, host(), Floats())
    tiles = tiling.priced(forward.lattices, forward.targets, conv.batch, conv.is_depthwise, host(), 1)
    costs = {tile: cost for cost, tile in tiles}
    assert [costs[tile] for tile in forward.tiles] == sorted(costs.values())
    costs_of_gradient = {tile: cost for cost, tile in priced(gradient)}
    assert [costs_of_gradient[tile] for tile in gradient.tiles] == sorted(costs_of_gradient.values())
    assert (forward.tile, gradient.tile) == (forward.tiles[0], gradient.tiles[0])


@pytest.mark.parametrize(
    ("method", "conv", "place"),
    [
        ("convolution", CONV, 0),
        ("weight_gradient", same(8, 8, 16, 16), 0),
        ("weight_gradient", CONV, 1),  # too few tiles for its transforms to pay by default
        ("convolution", STRIDED, None),
        ("integer_convolution", CONV, None),
    ],
)
def test_winograd_is_a_candidate_where_it_fits(method: str, conv: Convolution, place: int | None) -> None:
    found = candidates(Contraction(method, conv), host())
    assert [number for number, choice in enumerate(found) if choice == WINOGRAD] == [
        number for number in (place,) if number is not None
    ]


@pytest.mark.parametrize("method", [*FLOATS, *INTEGERS, *SCALED])
def test_the_first_candidate_is_what_is_taken_without_tuning(method: str) -> None:
    contraction = Contraction(method, CONV)
    first, second, *_ = candidates(contraction, host())
    untuned = contraction_kernel(LlvmKernels(host()), contraction)
    assert structural_equal(untuned, chosen(contraction, first))
    assert not structural_equal(untuned, chosen(contraction, second))


# Kernels


def chosen(contraction: Contraction, choice: Choice) -> tvm.tirx.PrimFunc:
    return contraction_kernel(LlvmKernels(host(), ((contraction, choice),)), contraction)


@pytest.mark.parametrize("conv", [CONV, STRIDED], ids=["dense", "strided"])
@pytest.mark.parametrize("number", range(3), ids=FLOATS)
def test_each_choice_computes_what_torch_does(conv: Convolution, number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (conv.x_shape, conv.weight_shape, conv.y_shape)
    x, weight, dy = (torch.randint(-9, 9, shape, generator=generator).float() for shape in shapes)
    inputs = ((x, weight), (dy, weight), (x, dy))[number]
    expected = reference(conv, x, weight, dy)[number]
    for method, exact in ((FLOATS[number], False), (INTEGERS[number], True)):
        contraction = Contraction(method, conv)
        found = candidates(contraction, host())
        for choice in (found[pick] for pick in PICKS):
            out = torch.full(tuple(expected.shape), 77, dtype=torch.int32 if exact else torch.float32)
            given = (tensor.to(torch.int8 if exact else torch.float32) for tensor in inputs)
            result = run(function(chosen(contraction, choice)), out, *given)
            assert (result - expected).norm() <= (0 if exact else TOLERANCE) * expected.norm(), choice


# Measurements


def test_the_faster_candidate_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of one accumulator loads two operands for each product: several times slower."""
    contraction = Contraction("convolution", same(4, 16, 32, 32))
    best, worst = RegisterTile(1, (8,), 2), RegisterTile(1, (1,), 1)
    monkeypatch.setattr(tuning, "candidates", lambda *_: [worst, best])
    found = tuning.measured(contraction, host())
    assert found.choice == best
    assert 0 < found.ratio < 0.9
    monkeypatch.setattr(tuning, "candidates", lambda *_: [best, worst])
    assert tuning.measured(contraction, host()) == Measured()


def test_the_largest_are_measured_first_until_time_is_spent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small, large, often = (Contraction("convolution", same(n, 8, 4, 4)) for n in (1, 4, 2))
    calls, seen = {small: 1, large: 1, often: 3}, []
    reports: list[TuningProgress] = []

    def measured(contraction: Contraction, _: object) -> Measured:
        seen.append(contraction)
        return Measured(candidates(contraction, host())[1], 0.5) if contraction == often else Measured()

    monkeypatch.setattr(tuning, "measured", measured)
    # Six seconds pass with each measurement.
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: 6.0 * len(seen)))
    tuned = Tuning(host(), 10.0, tmp_path / "table.json", reports.append)
    expected = ((often, candidates(often, host())[1]),)
    assert tuned.choices(calls) == expected
    assert seen == [often, large]
    assert [(report.done, report.total, report.faster) for report in reports] == [
        *((0, 3, 0), (1, 3, 1), (2, 3, 1)),
    ]
    assert tuned.choices(calls) == expected
    assert seen == [often, large, small]
    assert tuned.choices(calls) == expected
    assert seen == [often, large, small]
    assert (reports[-1].done, reports[-1].faster) == (3, 1)


# The table


ENTRIES: dict[Contraction, Measured] = {
    Contraction("convolution", CONV): Measured(RegisterTile(2, (7, 3), 1), 0.75),
    Contraction("integer_convolution", CONV, False): Measured(RegisterTile(1, (4,), 2), 0.9),
    Contraction("integer_convolution", CONV, True): Measured(),
    Contraction("weight_gradient", CONV): Measured(GradientTile(4, 3, 2, 1), 0.5),
    Contraction("input_gradient", CONV): Measured(WINOGRAD, 0.96),
}


def test_the_table_gives_back_what_it_keeps_by_cpu(tmp_path: Path) -> None:
    path, machine = tmp_path / "new" / "table.json", host()
    assert tuning_table.read(path, machine) == {}
    for contraction, measured in ENTRIES.items():
        tuning_table.keep(path, machine, contraction, measured)
    assert tuning_table.read(path, machine) == ENTRIES
    for other in (replace(machine, name="another"), replace(machine, lanes=2), replace(machine, registers=9)):
        assert tuning_table.read(path, other) == {}
        tuning_table.keep(path, other, Contraction("convolution", STRIDED), Measured())
    again = next(iter(ENTRIES))
    tuning_table.keep(path, machine, again, Measured())
    assert tuning_table.read(path, machine) == ENTRIES | {again: Measured()}
    assert [item.name for item in path.parent.iterdir()] == ["table.json"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"%s": [{}]}', '{"%s": 1}', "choice"])
def test_a_damaged_table_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "table.json"
    tuning_table.keep(path, host(), Contraction("convolution", CONV), Measured())
    (cpu,) = content = json.loads(path.read_text())
    content[cpu][0]["choice"] = "fft"
    path.write_text(json.dumps(content) if damage == "choice" else damage.replace("%s", cpu))
    with pytest.raises(UsageError, match=r"table.json is damaged: remove it"):
        tuning_table.read(path, host())


def test_a_choice_that_is_no_candidate_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contraction = Contraction("convolution", CONV)
    path = tmp_path / "table.json"
    tuning_table.keep(path, host(), contraction, Measured(RegisterTile(99, (99,), 99), 0.5))
    monkeypatch.setattr(tuning, "measured", lambda *_: Measured())
    assert Tuning(host(), 1, path, lambda _: None).choices({contraction: 1}) == ()
    assert tuning_table.read(path, host()) == {contraction: Measured()}


def test_a_table_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tuning_table.keep(tmp_path / "file" / "table.json", host(), Contraction("convolution", CONV), Measured())
    assert (tmp_path / "file").read_bytes() == b""
