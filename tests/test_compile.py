"""Programs against eager PyTorch: networks, consecutive steps, evaluation, state, batches."""

import copy
import json
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

import e2compile
from e2compile.errors import UsageError, VerificationError
from e2compile.pipeline import TrainingGraph, capture_task
from e2compile.runtime.datasets import arrays
from e2compile.runtime.fit import evaluate
from e2compile.runtime.program import Program
from e2compile.task import load_task
from tests.networks import NETWORKS, compile_network, network
from tests.small import BATCH, LOSS, Net, small
from tests.steps import images


@pytest.fixture(scope="module")
def graph() -> TrainingGraph:
    return small()


@pytest.fixture(scope="module")
def program(graph: TrainingGraph, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return e2compile.compile(graph, output=tmp_path_factory.mktemp("program") / "out", seed=3)


@pytest.fixture
def fresh(program: Program) -> Program:
    """The same program at its first step."""
    return e2compile.load(program.folder)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[Path]"]]:
    folder = tmp_path_factory.mktemp("networks")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        yield {name: pool.submit(compile_network, name, folder) for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_compiles_and_passes_its_verification(
    name: str, compiled: dict[str, "Future[Path]"]
) -> None:
    program = e2compile.load(compiled[name].result())
    found = json.loads((program.folder / "verify" / "verify.json").read_text())
    assert found["passed"] is True
    kinds = {key.split(", ")[1] for key in found["worst"] if key.startswith("program")}
    assert kinds == {"loss", "metric", "parameter", "buffer", "optimizer state"}
    state = {name: torch.from_numpy(array) for name, array in program.state_dict().items()}
    network(name).load_state_dict(state)


def test_five_steps_stay_at_the_eager_ones(graph: TrainingGraph, fresh: Program) -> None:
    """Single precision drifts from double by rounding, and a step amplifies what the last one left:
    the bound is ten times what eager float32 has after as many steps, and never under 1e-6 of the size."""
    batches = [images((8, 1, 6, 6), classes=3, seed=seed) for seed in range(5)]
    exact, single = eager(graph, batches, torch.float64), eager(graph, batches, torch.float32)
    for step, batch in enumerate(batches):
        loss = fresh.step(batch).loss
        assert loss == pytest.approx(exact[step].pop("loss").item(), rel=1e-5)
        found = fresh.arrays()
        for name, wanted in exact[step].items():
            error = np.linalg.norm(found[name].astype(np.float64) - wanted.double().numpy())
            drift = (single[step][name].double() - wanted.double()).norm().item()
            assert error <= 10 * drift + 1e-6 * (1 + wanted.double().norm().item()), (
                f"{name} after step {step}"
            )


def eager(
    graph: TrainingGraph, batches: list[tuple[Tensor, ...]], dtype: torch.dtype
) -> list[dict[str, Tensor]]:
    model, loss, optimizer = copy.deepcopy((graph.task.model, graph.task.loss, graph.task.optimizer))
    model.to(dtype).train()
    loss.to(dtype)  # type: ignore[attr-defined]
    results = []
    for x, y in batches:
        optimizer.zero_grad()
        value = loss(model(x.to(dtype)), y)
        value.backward()
        optimizer.step()
        names = {parameter: name for name, parameter in model.named_parameters()}
        state = {name: tensor for name, tensor in model.state_dict().items() if name != "second.weight"}
        for parameter, held in optimizer.state.items():
            state[f"optimizer.{names[parameter]}.momentum_buffer"] = held["momentum_buffer"]
        results.append({"loss": value.detach()} | {name: t.clone() for name, t in state.items()})
    return results


def test_evaluation_with_a_padded_last_batch_is_eagers_on_all_samples(fresh: Program) -> None:
    for seed in range(3):
        fresh.step(images((8, 1, 6, 6), classes=3, seed=seed))
    x, y = images((27, 1, 6, 6), classes=3, seed=9)
    found = evaluate(fresh, arrays(x.numpy(), y.numpy()), None)
    model = Net()
    model.load_state_dict({n: torch.from_numpy(a) for n, a in fresh.state_dict().items()})
    with torch.no_grad():
        output = model.eval()(x)
        losses = [LOSS(o[None], t[None]) for o, t in zip(output, y, strict=True)]
    assert found.samples == 27
    assert found.loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert found.accuracy == pytest.approx((output.argmax(1) == y).double().mean().item())


def test_the_state_dict_is_the_modules_own(graph: TrainingGraph, fresh: Program) -> None:
    fresh.step(BATCH)
    state = fresh.state_dict()
    model = Net()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=True)
    assert state["second.weight"].tobytes() == state["first.weight"].tobytes()
    assert (
        state["spare.weight"].tobytes()
        == graph.task.model.get_parameter("spare.weight").detach().numpy().tobytes()
    )
    with torch.no_grad():
        expected = model.eval()(BATCH[0])
    np.testing.assert_allclose(fresh.predict(BATCH)["output"], expected, rtol=1e-5, atol=1e-6)


def test_a_program_starts_from_a_given_state(tmp_path: Path) -> None:
    source = "from tests.small import *\nmodel, batch, loss = Net(), BATCH, LOSS\n"
    source += "optimizer = sgd(model.parameters())\n"
    (tmp_path / "net.py").write_text(source)
    torch.manual_seed(77)
    state = {name: tensor.numpy() for name, tensor in Net().state_dict().items()}
    state = {name: array.copy() for name, array in state.items()}
    save_file(state, tmp_path / "init.safetensors")
    task = load_task(str(tmp_path / "net.py"), init=tmp_path / "init.safetensors")
    program = e2compile.compile(capture_task(task), output=tmp_path / "out")
    found = program.state_dict()
    assert all(found[name].tobytes() == array.tobytes() for name, array in state.items())


def test_numpy_and_dlpack_batches_give_the_same_step(program: Program) -> None:
    from_torch, from_numpy = e2compile.load(program.folder), e2compile.load(program.folder)
    a = from_torch.step(BATCH)
    b = from_numpy.step(tuple(t.numpy() for t in BATCH))
    assert a.loss == b.loss
    left, right = from_torch.arrays(), from_numpy.arrays()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_arrays_that_are_not_contiguous_are_taken_by_value(program: Program) -> None:
    x, y = (t.numpy() for t in BATCH)
    wide = np.zeros((8, 1, 6, 12), np.float32)
    wide[..., ::2] = x
    plain, strided = e2compile.load(program.folder), e2compile.load(program.folder)
    assert plain.step((x, y)).loss == strided.step((wide[..., ::2], y)).loss


def test_a_step_leaves_the_callers_batch_alone(fresh: Program) -> None:
    batch = tuple(t.clone() for t in BATCH)
    fresh.step(batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, BATCH, strict=True))


def test_results_of_a_step_survive_the_next_one(fresh: Program) -> None:
    first = fresh.predict(BATCH)["output"]
    kept, state = first.copy(), fresh.state_dict()["head.weight"]
    before = state.copy()
    fresh.step(BATCH)
    fresh.predict(BATCH)
    assert first.tobytes() == kept.tobytes()
    assert state.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((BATCH[0],), "has 2 tensors, not 1"),
        ((BATCH[0][:4], BATCH[1][:4]), r"is \[4, 1, 6, 6\], not \[8, 1, 6, 6\]"),
        ((BATCH[0], BATCH[1].float()), "is float32, not int64"),
        ((BATCH[0].to(torch.complex64), BATCH[1]), "is complex64, not float32"),
        ((BATCH[0], ["a"] * 8), "not int64"),
    ],
)
def test_a_batch_of_another_shape_or_type_is_refused(fresh: Program, batch: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fresh.step(batch)
    assert fresh.position == 0


def test_a_batch_in_float64_is_rounded(program: Program) -> None:
    double, single = e2compile.load(program.folder), e2compile.load(program.folder)
    assert double.step((BATCH[0].double(), BATCH[1])).loss == single.step(BATCH).loss


def break_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels subtract where the graph adds."""
    from e2compile.lower.scalar import RULES

    monkeypatch.setitem(RULES, torch.ops.aten.add.Tensor, RULES[torch.ops.aten.sub.Tensor])


def test_verification_catches_a_wrong_kernel_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    before = set(cache.iterdir())
    break_additions(monkeypatch)
    with pytest.raises(VerificationError, match="is off by"):
        e2compile.compile(small(make=lambda p: torch.optim.SGD(p, lr=0.3)), output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert set(cache.iterdir()) == before
