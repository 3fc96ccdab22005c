"""BatchDrop: the same steps are dropped everywhere, and a dropped step changes nothing."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import e2compile
from e2compile.errors import CompileError, UsageError
from e2compile.graph import Kind, StepGraph, entry_points, text
from e2compile.ops import philox
from e2compile.passes import ALL, BY_NAME, BatchDrop
from e2compile.pipeline import Change, Level, TrainingGraph, capture
from e2compile.runtime.program import Program
from tests.conftest import Golden
from tests.steps import graph_steps, images, task_of

MASK = 0xFFFFFFFF


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def kept(seed: int, step: int, p: float) -> bool:
    """The decision by the definition: the first word at position 0, site 0, its upper 24 bits."""
    word = philox4x32([0, 0, step & MASK, step >> 32], [seed & MASK, seed >> 32])[0]
    return bool(np.float32((word >> 8) * 2.0**-24) >= np.float32(p))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return logits


def plain() -> TrainingGraph:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return capture(model, images((4, 1, 6, 6), classes=3), optimizer=optimizer)


@pytest.fixture(scope="module")
def graph() -> TrainingGraph:
    return plain().apply(BatchDrop(p=0.4))


@pytest.fixture(scope="module")
def program(graph: TrainingGraph, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return e2compile.compile(graph, output=tmp_path_factory.mktemp("drop") / "out", seed=2**40 + 9)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (MASK, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ],
)
def test_philox_gives_the_published_answers(word: int, expected: str) -> None:
    known = [int(w, 16) for w in expected.split()]
    tensors = [torch.tensor(word)] * 4, [torch.tensor(word)] * 2
    assert philox4x32([word] * 4, [word] * 2) == known
    assert [int(w) for w in philox(*tensors)] == known


def test_philox_of_random_counters_is_the_reference() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, (50, 6))
    found = philox([torch.tensor(words[:, i]) for i in range(4)], [torch.tensor(words[:, i]) for i in (4, 5)])
    expected = [philox4x32(row[:4].tolist(), row[4:].tolist()) for row in words]
    assert torch.stack(found, 1).tolist() == expected


def test_the_graph_becomes_a_conditional_over_the_step(graph: TrainingGraph, golden: Golden) -> None:
    both = f"before:\n{graph.text('differentiated')}\nafter:\n{graph.text('smd')}"
    golden.check(re.sub(r"batch_drop.py:\d+", "batch_drop.py", both))


def decisions(step: StepGraph, seed: int, steps: range) -> list[bool]:
    guard = entry_points(step).keep
    assert guard is not None
    return [bool(guard.module(torch.tensor(seed), torch.tensor(s))[0]) for s in steps]


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 9])
def test_the_graph_keeps_by_the_definition(graph: TrainingGraph, seed: int) -> None:
    for steps in (range(60), range(2**33, 2**33 + 20)):
        assert decisions(graph.step, seed, steps) == [kept(seed, s, 0.4) for s in steps]


def test_the_program_keeps_by_the_definition(program: Program) -> None:
    for steps in (range(300), range(2**33, 2**33 + 50)):
        assert [program.keep(s) for s in steps] == [kept(program.seed, s, 0.4) for s in steps]


def test_the_share_of_kept_steps_is_one_minus_p() -> None:
    share = np.mean([kept(3, step, 0.4) for step in range(20_000)])
    assert abs(share - 0.6) < 4 * (0.6 * 0.4 / 20_000) ** 0.5


def test_decisions_are_the_same_after_a_resume(program: Program) -> None:
    again = Program(program.folder)
    again.position = 57
    found = []
    batch = tuple(t.numpy() for t in images((4, 1, 6, 6), classes=3))
    for _ in range(20):
        found.append(again.step(batch).executed)
    assert found == [kept(program.seed, s, 0.4) for s in range(57, 77)]


def test_a_kept_step_in_pytorch_is_the_plain_step(graph: TrainingGraph) -> None:
    step = next(s for s in range(100) if kept(5, s, 0.4))
    batches = [graph.task.batch]
    (found,) = graph_steps(graph.step, graph.task, batches, seed=5, first=step)
    (expected,) = graph_steps(plain().step, graph.task, batches, seed=5, first=step)
    assert found.pop("counter executed") == 1
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_dropped_step_in_pytorch_changes_nothing(graph: TrainingGraph) -> None:
    step = next(s for s in range(100) if not kept(5, s, 0.4))
    (found,) = graph_steps(graph.step, graph.task, [graph.task.batch], seed=5, first=step)
    state = {name: t.detach().double() for name, t in graph.task.model.state_dict().items()}
    for name, value in found.items():
        target = name.split(" ", 1)[1]
        expected = state.get(target, torch.zeros_like(value))
        assert torch.equal(value.double(), expected.double()), name


def test_a_dropped_step_of_the_program_changes_no_bit(program: Program) -> None:
    batch = tuple(t.numpy() for t in images((4, 1, 6, 6), classes=3))
    program.position = next(s for s in range(100) if kept(program.seed, s, 0.4))
    assert program.step(batch).executed
    before = {name: array.tobytes() for name, array in program.arrays().items()}
    program.position = next(s for s in range(100) if not kept(program.seed, s, 0.4))
    result = program.step(batch)
    assert (result.executed, result.loss, result.metrics) == (False, None, {})
    assert {name: array.tobytes() for name, array in program.arrays().items()} == before


def test_a_dropped_step_does_not_look_at_its_batch(program: Program) -> None:
    program.position = next(s for s in range(100) if not kept(program.seed, s, 0.4))
    assert not program.step(()).executed


def test_scheduled_steps_count_whether_dropped_or_not(program: Program) -> None:
    program.position = 0
    batch = tuple(t.numpy() for t in images((4, 1, 6, 6), classes=3))
    executed = sum(program.step(batch).executed for _ in range(25))
    assert program.position == 25
    assert executed == sum(kept(program.seed, s, 0.4) for s in range(25))


def test_dropping_nothing_leaves_the_graph_alone() -> None:
    graph = plain()
    change = BatchDrop(p=0)(graph.step)
    assert (change.changed, change.notes) == (0, ("p = 0 drops nothing",))
    assert text(change.graph) == text(graph.step)


def test_the_pass_leaves_its_argument_as_it_was() -> None:
    step = plain().step
    before = text(step)
    assert BatchDrop()(step).changed == 1
    assert text(step) == before


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(UsageError, match="0 <= p < 1"):
        BatchDrop(p=p)


def test_a_step_is_dropped_by_one_guard_only() -> None:
    with pytest.raises(CompileError, match="guarded already"):
        _ = plain().apply(BatchDrop(p=0.3), BatchDrop(p=0.5)).step


@dataclass(frozen=True)
class Seen:
    """A pass that only says that it was there."""

    name: ClassVar[str] = "seen"
    level: ClassVar[Level] = Level.FORWARD

    def __call__(self, graph: Any) -> Change:
        return Change(graph, 0)


@dataclass(frozen=True)
class SeenJoint(Seen):
    name: ClassVar[str] = "seen joint"
    level: ClassVar[Level] = Level.JOINT


@dataclass(frozen=True)
class Other(SeenJoint):
    name: ClassVar[str] = "other"


def test_forward_passes_run_first_and_the_guard_of_the_step_last() -> None:
    graph = plain().apply(BatchDrop(), SeenJoint(), Seen())
    assert [s.name for s in graph.stages] == ["captured", "seen", "differentiated", "seen joint", "smd"]


def test_passes_of_a_level_run_in_the_order_given() -> None:
    graph = plain().apply(SeenJoint()).apply(Other(), SeenJoint())
    assert [s.name for s in graph.stages][2:] == ["seen joint", "other", "seen joint"]


def test_the_command_line_knows_every_pass_by_its_name() -> None:
    assert [BY_NAME[item.name] for item in ALL] == list(ALL)


def test_a_random_layer_does_not_share_the_guards_draws() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3))
    task = task_of(model, images((4, 1, 6, 6), classes=3))
    step = capture(task.model, task.batch, optimizer=task.optimizer).apply(BatchDrop()).step
    sites = [
        node.args[2]
        for module in (step.module, step.module.execute)
        for node in module.graph.find_nodes(op="call_function", target=torch.ops.e2.uniform.default)
    ]
    assert sorted(sites) == [0, 1]
    assert [s.kind for s in step.outputs].count(Kind.COUNTER) == 1
