"""Programs against eager PyTorch: steps, evaluation, state, schedules; what compile writes and refuses."""

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.optim import lr_scheduler

import e2compile
from e2compile import compiler
from e2compile.errors import MissingError, UsageError, VerificationError
from e2compile.passes import BatchDrop
from e2compile.pipeline import TrainingGraph, capture, capture_task
from e2compile.runtime.datasets import arrays, load
from e2compile.runtime.fit import evaluate
from e2compile.runtime.program import Program
from e2compile.schedule import tabulate
from e2compile.task import load_task, make_task
from tests import models
from tests.steps import images, sgd, task_of

Make = Callable[[], tuple[nn.Module, tuple[int, ...]]]
NETWORKS: dict[str, Make] = {
    "resnet_cifar": lambda: (models.resnet_cifar(20), (8, 3, 32, 32)),
    "functional_net": lambda: (models.functional_net(), (4, 3, 32, 32)),
    "preact_resnet": lambda: (models.preact_resnet(20), (4, 3, 32, 32)),
    "resnet18": lambda: (models.resnet18(10), (2, 3, 64, 64)),
    "vgg16_bn": lambda: (models.vgg16_bn(), (4, 3, 32, 32)),
    "mobilenet_v2": lambda: (models.mobilenet_v2(dropout=0.2), (4, 3, 32, 32)),
}


class Net(nn.Module):
    """Tied weights, a parameter that nothing uses, a buffer outside the state_dict, a strided convolution."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.head = nn.Linear(width, 3)
        self.spare = nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x))).mean((2, 3)) * self.scale
        logits: Tensor = self.head(self.second(torch.tanh(self.first(y))))
        return logits


BATCH = images((8, 1, 6, 6), classes=3)
LOSS = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.5, 2.0]), label_smoothing=0.1)


def small(seed: int = 0, make: Any = sgd, **options: Any) -> TrainingGraph:
    torch.manual_seed(seed)
    model = Net()
    return capture(model, BATCH, LOSS, make(model.parameters()), **options)


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


def report(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((program.folder / "verify" / "verify.json").read_text())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_compiles_and_passes_its_verification(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, shape = NETWORKS[name]()
    program = e2compile.compile(
        capture_task(task_of(model, images(shape))), output=tmp_path / "out", cache=False
    )
    found = report(program)
    assert found["passed"] is True
    kinds = {key.split(", ")[1] for key in found["worst"] if key.startswith("program")}
    assert kinds == {"loss", "metric", "parameter", "buffer", "optimizer state"}
    model.load_state_dict({n: torch.from_numpy(a) for n, a in program.state_dict().items()})


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
    source = "from tests.test_compile import BATCH, Net\nmodel, batch = Net(), BATCH\n"
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
    from e2compile.lower.scalar import ARITHMETIC

    monkeypatch.setitem(ARITHMETIC, torch.ops.aten.add.Tensor, ARITHMETIC[torch.ops.aten.sub.Tensor])


def test_verification_catches_a_wrong_kernel_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_additions(monkeypatch)
    with pytest.raises(VerificationError, match="is off by"):
        e2compile.compile(small(), output=tmp_path / "out", cache=False)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_verification_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    before = set(cache.iterdir())
    break_additions(monkeypatch)
    with pytest.raises(VerificationError):
        e2compile.compile(small(make=lambda p: torch.optim.SGD(p, lr=0.3)), output=tmp_path / "out")
    assert set(cache.iterdir()) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_failed_compile_leaves_the_old_program_and_its_runs(
    graph: TrainingGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    e2compile.compile(graph, output=out)
    (out / "runs" / "default").mkdir(parents=True)
    (out / "runs" / "default" / "results.json").write_text("{}")
    before = contents(out)

    def fails(*_: Any) -> None:
        raise RuntimeError("no space")

    monkeypatch.setattr(compiler.artefact, "seal", fails)
    with pytest.raises(RuntimeError, match="no space"):
        e2compile.compile(graph, output=out)
    assert contents(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_runs_survive_a_recompilation(graph: TrainingGraph, tmp_path: Path) -> None:
    out = tmp_path / "out"
    e2compile.compile(graph, output=out)
    (out / "runs" / "mine").mkdir(parents=True)
    (out / "runs" / "mine" / "note").write_text("kept")
    e2compile.compile(graph, output=out, seed=5)
    assert (out / "runs" / "mine" / "note").read_text() == "kept"
    assert e2compile.load(out).seed == 5


def test_a_folder_that_is_no_program_is_not_replaced(graph: TrainingGraph, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a Program"):
        e2compile.compile(graph, output=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_refused(graph: TrainingGraph, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        e2compile.compile(graph, output=tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(graph: TrainingGraph, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot write"):
        e2compile.compile(graph, output=tmp_path / "out")


def test_the_cache_gives_the_same_program(graph: TrainingGraph, program: Program, tmp_path: Path) -> None:
    seen: list[str] = []
    again = e2compile.compile(
        graph, output=tmp_path / "out", seed=3, watch=lambda phase, _: seen.append(phase)
    )
    assert seen == ["from the cache"]
    own, other = contents(program.folder), contents(again.folder)
    assert own.keys() == other.keys()
    assert [name for name in own if own[name] != other[name] and name != "manifest.json"] == []
    assert again.manifest.fingerprint == program.manifest.fingerprint


def test_the_cache_holds_no_weights(tmp_path: Path) -> None:
    """The same graph with other weights is a cache hit, and starts from its own weights."""
    seen: list[str] = []
    graph = small(seed=1)
    program = e2compile.compile(graph, output=tmp_path / "out", watch=lambda phase, _: seen.append(phase))
    weight = graph.task.model.get_parameter("head.weight").detach().numpy()
    assert seen == ["from the cache"]
    assert program.state_dict()["head.weight"].tobytes() == weight.tobytes()


def test_a_damaged_cache_entry_is_built_anew(
    graph: TrainingGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2COMPILE_CACHE", str(tmp_path / "cache"))
    e2compile.compile(graph, output=tmp_path / "out", verify=False)
    (library,) = (tmp_path / "cache").glob("*/program/program.so")
    library.write_bytes(library.read_bytes()[:1000])
    program = e2compile.compile(graph, output=tmp_path / "out", verify=False)
    assert math.isfinite(program.step(BATCH).loss or math.nan)


def test_a_cache_that_cannot_be_written_does_no_harm(
    graph: TrainingGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("E2COMPILE_CACHE", str(tmp_path / "file" / "cache"))
    e2compile.compile(graph, output=tmp_path / "out", verify=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def fingerprint(graph: TrainingGraph) -> str:
    return compiler._fingerprint(graph, compiler.find("cpu"), True)


def test_the_fingerprint_is_of_all_that_the_code_depends_on(
    graph: TrainingGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam
    others = [
        small(make=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=1e-3)),
        small(make=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=2e-3)),
        small(make=lambda p: optimizer(p)),
        capture(Net(5), BATCH, LOSS, None),
        capture(Net(), BATCH, nn.CrossEntropyLoss(), None),
        capture(Net(), images((4, 1, 6, 6), classes=3), LOSS, None),
        graph.apply(BatchDrop(p=0.5)),
        graph.apply(BatchDrop(p=0.25)),
    ]
    prints = [fingerprint(g) for g in (graph, *others)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(small(seed=4)) == prints[0]
    assert (
        fingerprint(small(make=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=1e-3)))
        == prints[0]
    )
    monkeypatch.setattr(compiler, "source_digest", lambda: "another compiler")
    assert fingerprint(graph) != prints[0]


def test_an_unknown_target_is_missing(graph: TrainingGraph, tmp_path: Path) -> None:
    with pytest.raises((UsageError, MissingError), match="abacus"):
        e2compile.compile(graph, target="abacus", output=tmp_path / "out")


def test_a_missing_linker_is_said_before_anything_is_built(
    graph: TrainingGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="a C compiler"):
        e2compile.compile(graph, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["program/program.so", "state/initial.safetensors", "state/rates.safetensors"]
)
def test_a_damaged_file_is_found_on_loading(program: Program, tmp_path: Path, name: str) -> None:
    folder = copied(program, tmp_path)
    damaged = bytearray((folder / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / name).write_bytes(damaged)
    with pytest.raises(UsageError, match="is corrupted"):
        e2compile.load(folder)


def test_a_changed_manifest_is_found_on_loading(program: Program, tmp_path: Path) -> None:
    folder = copied(program, tmp_path)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(UsageError, match="is corrupted"):
        e2compile.load(folder)
    path.write_text("{")
    with pytest.raises(UsageError, match="is corrupted"):
        e2compile.load(folder)
    path.unlink()
    with pytest.raises(UsageError, match="is not a Program"):
        e2compile.load(folder)


def copied(program: Program, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(program.folder, tmp_path / "copy"))


def test_a_program_folder_says_what_it_holds(program: Program) -> None:
    names = contents(program.folder)
    assert {
        "manifest.json",
        "program/program.so",
        "graphs/00_captured.txt",
        "graphs/01_differentiated.json",
    } <= set(names)
    manifest = json.loads(names["manifest.json"])
    assert set(manifest["checksums"]) == {
        n for n in names if n != "manifest.json" and not n.startswith("runs/")
    }
    assert set(load_file(program.folder / "state" / "initial.safetensors")) == set(program.arrays())


def stepped(make: Callable[[Any], Any], ticks: int) -> list[list[float]]:
    """The rates that torch's own loop uses."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}], lr=0.1)
    schedule = make(optimizer)
    rates = []
    for _ in range(ticks):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=9),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], gamma=0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda e: 1 / (1 + e), lambda e: 0.5**e]),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 6)], [3]
    ),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=[0.1, 0.2], total_steps=9),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_tabulated_as_torch_steps_it(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.02}], lr=0.1
    )
    schedule = SCHEDULES[name](optimizer)
    before = [dict(group) for group in optimizer.param_groups]
    task = make_task(model, (torch.zeros(2, 2), torch.zeros(2).long()), None, optimizer, schedule, epochs=9)
    np.testing.assert_array_equal(tabulate(task), np.array(stepped(SCHEDULES[name], 9), np.float32))
    assert task.schedule_unit == ("step" if name == "onecycle" else "epoch")
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in before]


def test_a_program_follows_its_schedule_and_holds_the_last_rate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model.parameters())
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    graph = capture(model, BATCH, LOSS, optimizer, schedule, epochs=3)
    program = e2compile.compile(graph, output=tmp_path / "out")
    program.steps_per_epoch = 2
    expected = [0.05, 0.05, *([0.05 * (1 + math.cos(math.pi / 4)) / 2] * 2), *([0.025] * 5)]
    assert [program.rate(step)[0] for step in range(9)] == pytest.approx(expected, rel=1e-6)


def test_a_schedule_by_step_needs_to_know_its_length() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = lr_scheduler.CyclicLR(optimizer, 0.01, 0.1)
    task = make_task(model, (torch.zeros(2, 2), torch.zeros(2).long()), None, optimizer, schedule)
    with pytest.raises(UsageError, match="declare `data`"):
        tabulate(task)
    task = make_task(
        model,
        (torch.zeros(64, 2), torch.zeros(64).long()),
        None,
        optimizer,
        schedule,
        data="digits",
        epochs=2,
    )
    assert len(tabulate(task)) == 2 * (len(load("digits").train) // 64)
