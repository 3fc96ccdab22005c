"""SignPredict: what it rewrites, what it leaves alone and says so, and that training goes on."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from e2compile.errors import UsageError
from e2compile.graph import Kind, StepGraph, entry_points, text, verify
from e2compile.ops import GUARD, INTEGER_CONVOLUTION, INTEGER_WEIGHT_GRADIENT
from e2compile.options import parse_passes
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Change, TrainingGraph, capture
from tests.conftest import Golden
from tests.integers import run, steps, uncoded
from tests.models import small_resnet
from tests.steps import Named, images, state_of

aten = torch.ops.aten


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.03, momentum=0.9)


def captured(model: nn.Module, shape: tuple[int, ...] = (4, 3, 6, 6), make: Any = sgd) -> TrainingGraph:
    return capture(model, images(shape, classes=3), optimizer=make(model.parameters()))


def layers(*convolutions: nn.Module) -> nn.Module:
    """Convolutions with ReLUs between them, a mean and a classifier."""
    torch.manual_seed(0)
    between = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    *_, last = (m for m in nn.Sequential(*convolutions).modules() if isinstance(m, (nn.Conv2d, nn.Conv1d)))
    pool = nn.AdaptiveAvgPool2d(1) if isinstance(last, nn.Conv2d) else nn.AdaptiveAvgPool1d(1)
    return nn.Sequential(*between, pool, nn.Flatten(), nn.Linear(last.out_channels, 3))


def changed(graph: TrainingGraph, **options: Any) -> Change:
    change = SignPredict(**options)(graph.step)
    verify(change.graph)
    return change


def calls(step: StepGraph, target: Any) -> list[fx.Node]:
    return list(step.graph.find_nodes(op="call_function", target=target))


def conv(*sizes: Any, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(*sizes, **options)


def test_the_graph_becomes_integer_products(golden: Golden) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(1, 2, 3, bias=False), nn.ReLU(), conv(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    graph = captured(model, (4, 1, 6, 6), lambda p: torch.optim.SGD(p, lr=0.03))
    graph = graph.apply(SignPredict(fallback="layer"))
    golden.check(re.sub(r"test_sign_predict.py:\d+", "test_sign_predict.py", graph.text()))


def test_no_float_convolution_is_left() -> None:
    change = changed(captured(layers(conv(3, 4, 3), conv(4, 4, 3))))
    assert (change.changed, change.notes) == (2, ())
    assert calls(change.graph, aten.convolution.default) == []
    assert calls(change.graph, aten.convolution_backward.default) == []
    assert len(calls(change.graph, INTEGER_CONVOLUTION)) == 2


def test_the_pass_leaves_its_argument_as_it_was_and_has_nothing_to_do_twice() -> None:
    step = captured(layers(conv(3, 4, 3), conv(4, 4, 3))).step
    before = text(step)
    change = SignPredict()(step)
    assert text(step) == before
    again = SignPredict()(change.graph)
    assert (again.changed, again.notes) == (0, ("no convolution to rewrite",))
    assert text(again.graph) == text(change.graph)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_declines_where_the_optimizer_divides_by_the_gradients_size(make: Any) -> None:
    step = captured(layers(conv(3, 4, 3)), make=make).step
    change = SignPredict()(step)
    assert change.changed == 0
    assert change.graph is step
    assert "Adam divides by the gradient's magnitude" in change.notes[0]


class Computed(nn.Module):
    """A convolution whose weight is standardised first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.out_channels = 4

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean())


class Gate(nn.Module):
    """Squeeze and excitation: a convolution of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = conv(3, 4, 3), conv(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.outer(x))
        return x * torch.sigmoid(self.inner(x.mean((2, 3), keepdim=True)))


def frozen() -> nn.Module:
    layer = conv(4, 4, 3)
    layer.weight.requires_grad_(False)
    return layer


ALONE: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "frozen": (lambda: layers(conv(3, 4, 3), frozen()), {}, "2: left alone, its weight is not trained"),
    "computed": (
        lambda: nn.Sequential(conv(3, 3, 1), Computed(), nn.Flatten(), nn.Linear(64, 3)),
        {},
        "left alone, its weight is computed, not a parameter",
    ),
    "transposed": (
        lambda: nn.Sequential(conv(3, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(72, 3)),
        {},
        "1: left alone, it is transposed",
    ),
    "one position": (
        lambda: nn.Sequential(Gate(), nn.Flatten(), nn.Linear(64, 3)),
        {},
        "0.inner: left alone, its input is one position: it is a linear layer",
    ),
    "stem": (
        lambda: layers(conv(3, 4, 3), conv(4, 4, 3)),
        {"stem": False},
        "0: left alone, it is the stem (psg.stem)",
    ),
    "pointwise": (
        lambda: layers(conv(3, 4, 3), conv(4, 4, 1)),
        {"pointwise": False},
        "2: left alone, it is 1 x 1 (psg.pointwise)",
    ),
    "long sums": (
        lambda: layers(conv(3, 7300, 1), conv(7300, 2, 3)),
        {},
        "2: left alone, a sum of more than 65536 products may leave int32",
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_leaves_alone_and_says_why(name: str) -> None:
    make, options, note = ALONE[name]
    torch.manual_seed(0)
    change = changed(captured(make()), **options)
    assert change.changed == 1
    assert len(calls(change.graph, aten.convolution.default)) == 1
    (found,) = change.notes
    assert note in found


def test_leaves_alone_what_is_not_two_dimensional() -> None:
    change = changed(captured(layers(nn.Conv1d(3, 4, 3)), (4, 3, 9)))
    assert change.notes == ("0: left alone, it is not two-dimensional", "no convolution to rewrite")


def test_grouped_and_dilated_convolutions_are_rewritten() -> None:
    model = layers(conv(3, 6, 3, padding=1), conv(6, 6, 3, groups=6), conv(6, 4, 2, dilation=2, groups=2))
    assert changed(captured(model)).changed == 3


def test_codes_are_made_once_for_all_that_read_them() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = conv(3, 4, 3), conv(4, 4, 1), conv(4, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            logits: Tensor = self.head((self.left(x) + self.right(x)).mean((2, 3)))
            return logits

    step = changed(captured(Forked())).graph
    dtypes = [node.kwargs["dtype"] for node in calls(step, aten._to_copy.default)]
    assert dtypes.count(torch.uint8) == 1  # of x after the stem
    # of the image, of weights, of a gradient's planes; of the stem's only the high one has a use
    assert dtypes.count(torch.int8) == 1 + 3 + 2 + 1
    assert [s.target for s in step.inputs if s.kind is Kind.PASS] == [
        "psg.stem.x",
        "psg.left.x",
        "psg.right.g",
        "psg.stem.g",
    ]


class Tied(nn.Module):
    """One weight twice, in different places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.conv(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("options", [{}, {"by_channel": True}, {"preset": "paper"}, {"gradient_bits": 8}])
def test_a_weight_used_twice_takes_the_sign_of_the_sum(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph = captured(Tied())
    options = {"scales": "current", **options}
    change = changed(graph, **options)
    assert change.changed == 2
    found, _ = run(change.graph, graph.task, graph.task.batch)
    (exact,) = steps(graph.step, graph.task, [graph.task.batch])
    name = "optimizer state conv.weight.momentum_buffer"
    assert torch.equal(found[name], found[name].sign())
    large = exact[name].abs() > 0.2 * exact[name].abs().max()
    assert torch.equal(found[name][large], exact[name][large].sign())
    assert not [n for n in found if n.startswith("counter")]


def test_a_penalised_weight_takes_the_sign_of_the_whole_gradient() -> None:
    model = layers(conv(3, 4, 3))
    weight: nn.Parameter = model[0].weight  # type: ignore[index, assignment]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) + 1e6 * model[0].weight.square().sum()  # type: ignore[index, operator]

    graph = capture(model, images((4, 3, 6, 6), classes=3), loss, sgd(model.parameters()))
    change = changed(graph)
    found, _ = run(change.graph, graph.task, graph.task.batch)
    assert torch.equal(found["optimizer state 0.weight.momentum_buffer"], weight.detach().sign())


@pytest.mark.parametrize(("limit", "runs"), [(0.0, 1), (1.0, 0)])
def test_the_low_half_runs_where_too_much_is_unsure_and_nowhere_else(limit: float, runs: int) -> None:
    graph = captured(layers(conv(3, 4, 3), conv(4, 8, 3)))
    step = changed(graph, fallback="layer", unsure_limit=limit, beta=0.2).graph
    seen = set[str]()
    for name, module in step.module.named_children():
        module.register_forward_hook(lambda *_, name=name: seen.add(name))
    found, _ = run(step, graph.task, graph.task.batch)
    kind = "execute" if runs else "skip"
    assert seen == {f"0_low_{kind}", f"2_low_{kind}"}
    assert [int(found[f"counter psg.{i}.fallback"]) for i in (0, 2)] == [runs, runs]


def test_eight_bit_gradients_have_one_plane() -> None:
    step = changed(captured(layers(conv(3, 4, 3), conv(4, 4, 3))), gradient_bits=8).graph
    assert len(calls(step, INTEGER_WEIGHT_GRADIENT)) == 2
    assert not calls(step, torch.ops.higher_order.cond)


def test_state_starts_at_zero_and_is_the_first_steps_guess() -> None:
    graph = captured(layers(conv(3, 4, 3)))
    step = changed(graph).graph
    state = state_of(graph.task, step)
    assert float(state["pass state psg.0.x"]) == 0
    zero, _ = run(step, graph.task, graph.task.batch, state)
    state |= {"pass state psg.0.x": torch.tensor(8.0), "pass state psg.0.g": torch.tensor(1 / 4)}
    guessed, _ = run(step, graph.task, graph.task.batch, state)
    assert all(torch.equal(zero[name], guessed[name]) for name in zero)


def test_a_step_of_zeros_is_finite() -> None:
    """A dead network has maxima of zero: no division by it, no gradient, no update."""
    model = layers(conv(3, 4, 3, bias=False), conv(4, 4, 3, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for options in ({}, {"preset": "paper"}):
        graph = captured(model)
        found, _ = run(changed(graph, **options).graph, graph.task, graph.task.batch)
        assert all(bool(torch.isfinite(value).all()) for value in found.values())
        assert not found["optimizer state 0.weight.momentum_buffer"].any()


def test_composes_with_batch_drop() -> None:
    graph = captured(layers(conv(3, 4, 3), conv(4, 4, 3)))
    both = graph.apply(SignPredict(), BatchDrop(p=0.5)).step
    bare = entry_points(both).step
    alone = changed(graph).graph
    assert text(bare) == text(alone)
    guard = entry_points(both).keep
    assert guard is not None
    for number in range(8):
        keep = bool(guard.module(torch.tensor(0), torch.tensor(number))[0])
        state = state_of(graph.task, both) | {"pass state psg.0.x": torch.tensor(2.5)}
        found = _at(both, graph, state, number)
        assert int(found.pop("counter executed")) == keep
        expected = _at(alone, graph, state, number)
        if not keep:
            expected = {n: state.get(n, torch.zeros_like(v)) for n, v in expected.items()}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def _at(step: StepGraph, graph: TrainingGraph, state: Named, number: int) -> Named:
    plain = {Kind.SEED: torch.tensor(0), Kind.STEP: torch.tensor(number), Kind.RATE: torch.tensor([0.03])}
    arguments = [
        state[str(s)] if s.kind.is_state else plain.get(s.kind) if s.kind is not Kind.DATA
        else graph.task.batch[int(s.target)]
        for s in step.inputs
    ]  # fmt: skip
    with torch.no_grad():
        values = step.module(*arguments)
    return {str(slot): value for slot, value in zip(step.outputs, values, strict=True)}


def test_runs_before_the_guard_of_the_step_in_whatever_order_it_is_named() -> None:
    graph = captured(layers(conv(3, 4, 3))).apply(BatchDrop(), SignPredict())
    assert [stage.name for stage in graph.stages] == ["captured", "differentiated", "psg", "smd"]
    change = SignPredict()(graph.step)
    assert (change.changed, change.notes) == (0, ("no convolution to rewrite",))


@pytest.mark.parametrize("live", [[True] * 4, [True, False, True, False], [False] * 4])
def test_maxima_of_a_gated_block_are_taken_over_live_samples(live: list[bool]) -> None:
    """And where none lives, they stay those of the last step that ran it."""
    torch.manual_seed(0)
    model = small_resnet(channels=4, classes=3)
    graph = captured(model, (4, 1, 8, 8)).apply(LayerGate(), SignPredict())
    step = next(stage.graph for stage in graph.stages if stage.name == "psg")
    assert isinstance(step, StepGraph)
    (guard,) = calls(step, GUARD)
    inner = [node for node in calls(step, INTEGER_CONVOLUTION) if node.meta["module"] == "4.conv1"]
    state = state_of(graph.task, step) | {"pass state psg.4.conv1.g": torch.tensor(0.125)}
    mask = torch.tensor(live)
    found, values = run(step, graph.task, graph.task.batch, state, {str(guard.args[1]): mask})
    codes, weight_gradient = inner[0].args[0], calls(step, INTEGER_WEIGHT_GRADIENT)
    of_block = next(node for node in weight_gradient if node.args[0] is codes)
    g = values.env[uncoded(of_block.args[1])]
    expected = g[mask].abs().max() if any(live) else torch.tensor(0.125)
    assert torch.equal(found["pass state psg.4.conv1.g"], expected)
    assert float(found["counter psg.3.conv1.sure"]) < 1


def test_a_network_learns() -> None:
    """Three layers, 100 steps at 0.03: the loss falls, under both presets."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, 8, 8, generator=random)
    y = (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).long() + 2 * (x[:, 2, 0, 0] > 0).long() % 3
    for options in ({}, {"preset": "paper"}):
        torch.manual_seed(0)
        model = nn.Sequential(
            conv(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            conv(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            conv(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
        )  # fmt: skip
        graph = capture(model, (x, y), optimizer=sgd(model.parameters()))
        given = steps(changed(graph, **options).graph, graph.task, [(x, y)] * 100)
        losses = [float(values["loss loss"]) for values in given]
        assert losses[-1] < 0.5 * losses[0], options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "cheap"}, "psg.preset is one of hardware, paper"),
        ({"activation_bits": 9}, "psg.activation_bits is 2 to 8, not 9"),
        ({"weight_bits": 1}, "psg.weight_bits is 2 to 8, not 1"),
        ({"activation_bits": 4}, "psg.predictor_activation_bits is 2 to 4, not 8"),
        ({"predictor_gradient_bits": 17}, "psg.predictor_gradient_bits is 2 to 16, not 17"),
        ({"gradient_bits": 12}, "psg.gradient_bits is 8 or 16, not 12"),
        ({"gradient_bits": 8, "fallback": "layer"}, "psg.fallback=layer needs 16-bit gradients"),
        ({"beta": -0.1}, "psg.beta is a share"),
        ({"beta": float("nan")}, "psg.beta is a share"),
        ({"unsure_limit": 2.0}, "psg.unsure_limit is a share"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SignPredict(**options)


def test_options_are_the_presets_unless_given() -> None:
    (item,) = parse_passes("psg", ["psg.preset=paper", "psg.beta=0.1", "psg.scales=previous"])
    assert isinstance(item, SignPredict)
    settings = item.settings()
    assert (settings.beta, settings.scales, settings.fallback) == (0.1, "previous", "element")
    assert (settings.predictor_activation_bits, settings.predictor_gradient_bits) == (4, 10)
    assert SignPredict().settings().is_prefix
