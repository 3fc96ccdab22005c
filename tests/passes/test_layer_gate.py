"""LayerGate's insertion: the masked graph computes what a network computes that really leaves blocks out."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2compile.errors import CompileError, UsageError
from e2compile.gates.blocks import find_blocks
from e2compile.graph import Kind, text
from e2compile.ops import UNIFORM, uniform
from e2compile.passes import BatchDrop, LayerGate
from e2compile.pipeline import TrainingGraph, capture, forward_text
from tests import models
from tests.conftest import Golden
from tests.decisions import Decisions
from tests.passes.gated import Network, Oracle, Outcome
from tests.steps import Named, graph_steps, images

N = 6
SEED = 3


def mobile() -> nn.Module:
    """The first blocks of MobileNetV2: two of them add."""
    return nn.Sequential(*list(models.mobilenet_v2().children())[:9], *models._head(32, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "basic and projected": (lambda: models.resnet_cifar(8), (N, 3, 16, 16)),
    "pre-activation": (lambda: models.preact_resnet(8), (N, 3, 16, 16)),
    "functional, in place": (models.functional_net, (N, 3, 32, 32)),
    "MobileNetV2": (mobile, (N, 3, 16, 16)),
}

MASKS: dict[str, Callable[[int], Tensor]] = {
    "mixed": lambda i: torch.arange(N) % (i + 2) == 0,
    "all": lambda _: torch.ones(N, dtype=torch.bool),
    "none": lambda _: torch.zeros(N, dtype=torch.bool),
    "one": lambda i: torch.arange(N) == i % N,
}


@cache
def plain(name: str) -> TrainingGraph:
    """A network captured, so that a new parameter is the old one less its gradient."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return capture(model, images(shape), optimizer=torch.optim.SGD(model.parameters(), lr=1.0))


@cache
def gated(name: str, **options: Any) -> TrainingGraph:
    return plain(name).apply(LayerGate(**{"first": True} | options))


def step_of(graph: TrainingGraph, masks: list[Tensor] | None = None) -> Named:
    step, added = graph.step, graph.forward.added
    with Decisions({f"slu.{i}": mask for i, mask in enumerate(masks or [])}):
        (result,) = graph_steps(step, graph.task, [graph.task.batch], SEED, added=added)
    return result


def shares(graph: TrainingGraph, skip: int = 0) -> list[float]:
    macs = [block.macs for block in find_blocks(graph.training.graph)[0]][skip:]
    return [count / sum(macs) for count in macs]


def oracle_of(graph: TrainingGraph, skip: int = 0, **options: Any) -> Oracle:
    return Oracle(graph.task.model, graph.forward.added, shares(graph, skip), skip, **options)


def draws(gate: int, first: int = 1) -> Tensor:
    return uniform(torch.tensor(SEED), torch.tensor(0), first + gate, [N])


def assert_same(found: Named, expected: Outcome, graph: TrainingGraph) -> None:
    old = {n: p.detach() for n, p in [*graph.task.model.named_parameters(), *graph.forward.added.items()]}
    torch.testing.assert_close(found["loss loss"], expected.loss, rtol=1e-10, atol=1e-12)
    for name, buffer in expected.buffers.items():
        torch.testing.assert_close(found[f"buffer {name}"], buffer, rtol=1e-10, atol=1e-12, msg=name)
    for name, gradient in expected.gradients.items():
        got = old[name].double() - found[f"parameter {name}"]
        error = (got - gradient).norm() / (1 + gradient.norm())
        assert error < 1e-10, f"{name}: {error}"


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_that_of_a_network_that_leaves_samples_out(name: str, masks: str) -> None:
    graph = gated(name)
    decided = [MASKS[masks](i) for i in range(len(shares(graph)))]
    found = step_of(graph, decided)
    assert_same(found, oracle_of(graph).step(graph.task.batch, decided), graph)
    counts = [int(found[f"counter slu.{i}.executed"]) for i in range(len(decided))]
    assert counts == [int(mask.sum()) for mask in decided]


def test_decisions_are_draws_below_p() -> None:
    graph = gated("basic and projected", first=False)
    expected = oracle_of(graph, skip=1).step(graph.task.batch, None, draws)
    found = step_of(graph)
    assert_same(found, expected, graph)
    counts = [int(found[f"counter slu.{i}.executed"]) for i in range(2)]
    assert counts == [int(mask.sum()) for mask in expected.masks]


def test_the_first_block_runs_always_and_a_note_says_so() -> None:
    change = LayerGate()(plain("basic and projected").training)
    assert change.changed == 2
    assert change.notes == ("models.py:27: total: Tensor = " + LINE + ": the first block always runs",)


LINE = "self.bn2(self.conv2(y)) + self.shortcut(x)"


def test_importance_divides_by_p() -> None:
    graph = gated("basic and projected", estimator="importance")
    decided = [MASKS["mixed"](i) for i in range(3)]
    found = step_of(graph, decided)
    assert_same(found, oracle_of(graph, importance=True).step(graph.task.batch, decided), graph)
    assert not torch.equal(
        found["parameter slu.head.bias"],
        step_of(gated("basic and projected"), decided)["parameter slu.head.bias"],
    )


class Tiny(nn.Module):
    """A stem, one block of a convolution, and a sum for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return (x + self.conv(x)).mean((2, 3))


def tiny(**options: Any) -> TrainingGraph:
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    graph = capture(model, images((N, 1, 4, 4), classes=3), optimizer=optimizer)
    return graph.apply(LayerGate(**{"first": True, "alpha": 0.0, "floor": 0.0} | options))


@pytest.mark.parametrize("estimator", ["executed", "importance", "dense"])
def test_the_gates_gradient_by_hand(estimator: str) -> None:
    graph = tiny(estimator=estimator)
    model, (x, y) = graph.task.model, graph.task.batch
    with torch.no_grad():
        stem = torch.relu(F.conv2d(x.double(), model.stem.weight.double(), model.stem.bias.double()))
        f = F.conv2d(stem, model.conv.weight.double(), model.conv.bias.double(), padding=1)
        p = Network(graph.forward.added)(stem)
        mask = draws(0) < p
        outputs = (stem + mask.reshape(-1, 1, 1, 1) * f).mean((2, 3))
        dy = (outputs.softmax(1) - F.one_hot(y, 3)) / N
        dm = (dy * f.mean((2, 3))).sum(1)
        factor = {"executed": mask, "importance": mask / p.clamp(min=0.1), "dense": 1.0}[estimator]
        dbias = (dm * factor * p * (1 - p)).sum()
    assert 0 < mask.sum() < N
    found = graph.forward.added["slu.head.bias"].double() - step_of(graph)["parameter slu.head.bias"]
    torch.testing.assert_close(found, dbias.reshape(1), rtol=1e-10, atol=1e-14)


def test_the_dense_estimator_has_no_guard_so_that_all_runs() -> None:
    graph = tiny(estimator="dense")
    assert "guard" not in text(graph.step)
    assert [s.name for s in graph.stages] == ["captured", "slu", "differentiated"]


def test_the_quadratic_term_by_hand() -> None:
    graph = gated("basic and projected", alpha=7.0, target_skip=0.3)
    p = oracle_of(graph).step(graph.task.batch, None, draws).chances
    # 16 channels at 16 x 16, then twice the channels at half the width, its first convolution on 16 or 32
    macs = [2 * 9 * 16 * 16 * 256, 9 * (16 + 32) * 32 * 64, 9 * (32 + 64) * 64 * 16]
    executed = sum(m * q.mean() for m, q in zip(macs, p, strict=True)) / sum(macs)
    term = step_of(graph)["metric slu.regulariser"]
    torch.testing.assert_close(term, 7 * (executed - 0.7) ** 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("target_skip", [0.0, 0.99])
def test_the_bang_bang_term_by_hand(target_skip: float) -> None:
    """Its sign says whether the batch ran more than its share; its gradient reaches p alone."""
    graph = tiny(controller="bang_bang", beta=0.01, target_skip=target_skip)
    masks = [torch.arange(N) < 4]
    found, without = step_of(graph, masks), step_of(tiny(), masks)
    sign = 1 if target_skip else -1
    assert found["metric slu.regulariser"].item() == pytest.approx(sign * 0.01 * 4)
    with torch.no_grad():
        model, x = graph.task.model, graph.task.batch[0].double()
        stem = torch.relu(F.conv2d(x, model.stem.weight.double(), model.stem.bias.double()))
        p = Network(graph.forward.added)(stem)
    moved = without["parameter slu.head.bias"] - found["parameter slu.head.bias"]
    torch.testing.assert_close(moved, (sign * 0.01 * p * (1 - p)).sum().reshape(1), rtol=1e-9, atol=1e-12)


def test_by_batch_all_samples_run_or_none() -> None:
    graph = gated("basic and projected", granularity="batch")
    step = graph.step
    found = graph_steps(step, graph.task, [graph.task.batch] * 8, SEED, added=graph.forward.added)
    counts = [int(r[f"counter slu.{i}.executed"]) for r in found for i in range(3)]
    assert set(counts) == {0, N}
    p = oracle_of(graph).step(graph.task.batch, None, lambda _: torch.ones(N)).chances[0].mean()
    first = [r["counter slu.0.executed"] > 0 for r in found[:1]]
    assert first == [uniform(torch.tensor(SEED), torch.tensor(0), 1, [1]).item() < p]


def test_no_probability_is_below_the_floor() -> None:
    graph = gated("basic and projected", floor=0.9999)
    assert [int(step_of(graph)[f"counter slu.{i}.executed"]) for i in range(3)] == [N] * 3


def evaluated(graph: TrainingGraph, step: int = 0) -> Named:
    model = graph.task.model
    known = graph.forward.added | dict([*model.named_parameters(), *model.named_buffers()])
    plain = {Kind.SEED: torch.tensor(SEED), Kind.STEP: torch.tensor(step)}
    arguments = []
    for slot in graph.evaluation_step.inputs:
        data = graph.task.batch[int(slot.target)] if slot.kind is Kind.DATA else None
        value = known[slot.target] if slot.kind.is_state else plain.get(slot.kind, data)
        arguments.append(value.detach())
    with torch.no_grad():
        values = graph.evaluation_step.module(*arguments)
    return {str(s): v for s, v in zip(graph.evaluation_step.outputs, values, strict=True)}


def test_evaluation_runs_a_block_where_p_is_above_a_half() -> None:
    graph = tiny()
    model, x = graph.task.model, graph.task.batch[0]
    with torch.no_grad():
        stem = torch.relu(model.stem(x))
        p = Network(graph.forward.added)(stem.double())
        expected = (stem + (p > 0.5).float().reshape(-1, 1, 1, 1) * model.conv(stem)).mean((2, 3))
    torch.testing.assert_close(evaluated(graph)["metric output"], expected)


def test_evaluation_draws_where_it_is_told_to() -> None:
    outputs = [evaluated(tiny(evaluation="sample"), step)["metric output"] for step in range(4)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])
    assert torch.equal(outputs[1], evaluated(tiny(evaluation="sample"), 1)["metric output"])


def test_gates_draw_after_the_captured_draws() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Dropout(0.5), Tiny().conv)
    graph = capture(nn.Sequential(*model, Residual(), nn.Flatten()), images((N, 1, 4, 4), classes=3))
    calls = graph.apply(LayerGate(first=True)).forward.graph.find_nodes(op="call_function", target=UNIFORM)
    assert [node.args[2] for node in calls] == [1, 2]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def test_gates_start_from_their_own_seed() -> None:
    one, same, other = (gated("pre-activation", init_seed=s).forward.added for s in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not any(torch.equal(one[n], other[n]) for n in one)
    bound = 10**-0.5
    assert all(t.abs().max() <= bound for n, t in one.items() if "project" not in n)
    assert [tuple(one[f"slu.project.{i}.weight"].shape) for i in range(3)] == [(10, 16), (10, 16), (10, 32)]


def test_a_model_with_parameters_of_the_gates_names_is_refused() -> None:
    model = Tiny()
    model.slu = nn.Module()
    model.slu.head = nn.Linear(2, 2)
    graph = capture(model, images((N, 1, 4, 4), classes=3)).apply(LayerGate(first=True))
    with pytest.raises(CompileError, match=r"adds slu.head.bias, which the model has too"):
        _ = graph.step


def test_the_pass_leaves_its_argument_as_it_was() -> None:
    forward = plain("functional, in place").training
    before = forward_text(forward)
    assert LayerGate()(forward).changed == 1
    assert forward_text(forward) == before
    assert not any(name.startswith("slu") for name, _ in forward.module.named_parameters())


def test_blocks_are_gated_once() -> None:
    with pytest.raises(CompileError, match="gated already"):
        _ = gated("functional, in place").apply(LayerGate()).step


@pytest.mark.parametrize(
    "options", [{"target_skip": 1.0}, {"floor": -0.1}, {"alpha": float("inf")}, {"beta": -1.0}]
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"slu.{next(iter(options))} must be"):
        LayerGate(**options)


def test_a_step_with_gates_can_be_dropped_whatever_the_order() -> None:
    graph = plain("functional, in place").apply(BatchDrop(p=0.5), LayerGate())
    assert [s.name for s in graph.stages] == ["captured", "slu", "differentiated", "outlined", "smd"]
    step, added = graph.step, graph.forward.added
    found = graph_steps(step, graph.task, [graph.task.batch] * 6, SEED, added=added)
    kept = [bool(r["counter executed"]) for r in found]
    assert set(kept) == {True, False}
    for i, is_kept in enumerate(kept):
        after = found[i]["parameter slu.head.bias"]
        before = found[i - 1]["parameter slu.head.bias"] if i else added["slu.head.bias"].double()
        assert torch.equal(after, before) is not is_kept


def test_the_graph_gains_gates_a_mask_and_a_term(golden: Golden) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            return (y + self.norm(self.conv(y))).mean((2, 3))

    graph = capture(Net(), images((4, 2, 6, 6), classes=2)).apply(LayerGate(first=True))
    both = f"before:\n{graph.text('captured')}\nafter:\n{graph.text('slu')}"
    golden.check("".join(line.partition("  # ")[0].rstrip() + "\n" for line in both.splitlines()))
