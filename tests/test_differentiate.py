"""A captured step in float64 is the eager step in float64: loss, gradients, buffers, optimizer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2compile.errors import CompileError, UsageError
from e2compile.forward import capture_forward
from e2compile.graph import Kind
from e2compile.pipeline import capture_task
from e2compile.task import make_task
from tests import models
from tests.steps import assert_captured_equals_eager, images, task_of

CIFAR = (2, 3, 32, 32)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet_cifar": (lambda: models.resnet_cifar(20), CIFAR),
    "preact_resnet": (lambda: models.preact_resnet(20), CIFAR),
    "resnet18": (lambda: models.resnet18(10), (2, 3, 64, 64)),
    "mobilenet_v2": (lambda: models.mobilenet_v2(dropout=0.2), (2, 3, 16, 16)),
    "vgg16_bn": (models.vgg16_bn, CIFAR),
    "functional_net": (models.functional_net, CIFAR),
    "small_resnet": (models.small_resnet, (4, 1, 8, 8)),
}

Optimizers = torch.optim
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: Optimizers.SGD(p, lr=0.1),
    "sgd momentum": lambda p: Optimizers.SGD(p, lr=0.1, momentum=0.9),
    "sgd nesterov": lambda p: Optimizers.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "sgd decay": lambda p: Optimizers.SGD(p, lr=0.1, weight_decay=0.01),
    "sgd maximize": lambda p: Optimizers.SGD(p, lr=0.01, maximize=True),
    "sgd all": lambda p: Optimizers.SGD(
        p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True
    ),
    "adam": lambda p: Optimizers.Adam(p, lr=0.01),
    "adam decay": lambda p: Optimizers.Adam(p, lr=0.01, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.1),
    "adam maximize": lambda p: Optimizers.Adam(p, lr=0.01, weight_decay=0.1, maximize=True),
    "adamw": lambda p: Optimizers.AdamW(p, lr=0.01),
    "adamw all": lambda p: Optimizers.AdamW(p, lr=0.02, betas=(0.7, 0.95), weight_decay=0.3, maximize=True),
}


class Tiny(nn.Module):
    """Two convolutions, a batch norm, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv1(x)))
        logits: Tensor = self.head(F.relu(self.conv2(y)).mean((2, 3)))
        return logits


BATCH = images((4, 2, 6, 6), classes=5)


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_trains_as_in_eager_pytorch(name: str) -> None:
    build, shape = MODELS[name]
    assert_captured_equals_eager(task_of(build(), images(shape)), steps=2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_several_steps_of_an_optimizer_are_torchs(name: str) -> None:
    assert_captured_equals_eager(task_of(Tiny(), BATCH, OPTIMIZERS[name]))


def test_parameter_groups_have_their_own_rate_and_decay() -> None:
    model = Tiny()
    groups = [
        {"params": [model.conv1.weight, model.conv2.weight], "lr": 0.2, "weight_decay": 0.1},
        {"params": model.norm.parameters(), "momentum": 0.0, "nesterov": False},
        {"params": [model.conv1.bias, *model.head.parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    assert_captured_equals_eager(make_task(model, BATCH, optimizer=optimizer))


def test_groups_of_adam_keep_their_own_betas() -> None:
    model = Tiny()
    groups = [{"params": model.conv1.parameters(), "betas": (0.5, 0.6)}, {"params": model.head.parameters()}]
    assert_captured_equals_eager(make_task(model, BATCH, optimizer=torch.optim.Adam(groups, lr=0.02)))


def test_a_frozen_parameter_stays() -> None:
    model = Tiny()
    model.conv1.requires_grad_(False)
    graph = assert_captured_equals_eager(task_of(model, BATCH))
    assert not any(s.target.startswith("conv1") for s in graph.outputs)


def test_a_parameter_that_the_optimizer_does_not_hold_stays() -> None:
    model = Tiny()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    graph = assert_captured_equals_eager(make_task(model, BATCH, optimizer=optimizer))
    assert {s.target for s in graph.outputs if s.kind is Kind.PARAMETER} == {"head.weight", "head.bias"}


def test_a_parameter_without_a_gradient_is_not_decayed() -> None:
    class Unused(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)

    assert_captured_equals_eager(task_of(Unused(), BATCH))


@pytest.mark.parametrize("name", ["sgd nesterov", "adam", "adamw all"])
def test_an_optimizer_that_has_stepped_before_goes_on(name: str) -> None:
    task = task_of(Tiny(), BATCH, OPTIMIZERS[name])
    for _ in range(2):
        task.optimizer.zero_grad()
        task.loss(task.model(BATCH[0]), BATCH[1]).backward()
        task.optimizer.step()
    assert_captured_equals_eager(task)


def test_tied_weights_are_one_input_with_the_sum_of_their_gradients() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.second(torch.tanh(self.first(x))))
            return logits

    graph = assert_captured_equals_eager(task_of(Tied(), images((4, 6), classes=5)))
    names = [s.target for s in graph.inputs if s.kind is Kind.PARAMETER]
    assert names.count("first.weight") == 1
    assert "second.weight" not in names


def test_a_module_called_twice_is_updated_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())
            self.head = nn.Linear(2, 5)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.block(self.block(x)).mean((2, 3)))
            return logits

    graph = assert_captured_equals_eager(task_of(Twice(), BATCH))
    assert [s.target for s in graph.outputs].count("block.1.running_mean") == 1


class Running(nn.Module):
    """A hand-written running mean of what a parameter makes; `attached` leaves it in the autograd graph."""

    mean: Tensor

    def __init__(self, update: str) -> None:
        super().__init__()
        self.conv, self.head, self.update = nn.Conv2d(2, 4, 3), nn.Linear(4, 5), update
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        batch_mean = y.mean(0)
        if self.update == "in place":
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * batch_mean)
        elif self.update == "assigned":
            self.mean = (0.9 * self.mean + 0.1 * batch_mean).detach()
        else:
            self.mean.mul_(0.9).add_(0.1 * batch_mean)
        logits: Tensor = self.head(torch.tanh(y - self.mean))
        return logits


@pytest.mark.parametrize("update", ["in place", "assigned"])
def test_a_running_statistic_that_a_parameter_moves_is_right(update: str) -> None:
    graph = assert_captured_equals_eager(task_of(Running(update), BATCH))
    assert "mean" in {s.target for s in graph.outputs if s.kind is Kind.BUFFER}


def test_a_running_statistic_left_in_the_autograd_graph_is_refused() -> None:
    with pytest.raises(CompileError, match="detach"):
        _ = capture_task(task_of(Running("attached"), BATCH)).step


class Draws(nn.Module):
    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.draw = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 5), draw

    def forward(self, x: Tensor) -> Tensor:
        y = self.draw(self.conv(x))
        logits: Tensor = self.head(self.draw(F.relu(y)).mean((2, 3)))
        return logits


def stochastic_depth(y: Tensor) -> Tensor:
    alive = torch.rand(y.shape[0], 1, 1, 1) < 0.7
    return y * alive / 0.7


def bernoulli_of_tensor(y: Tensor) -> Tensor:
    return y * torch.bernoulli(torch.full((y.shape[0], 1, 1, 1), 0.6)) / 0.6


def bernoulli_in_place(y: Tensor) -> Tensor:
    return y * torch.empty(y.shape[:2]).bernoulli_(0.6)[:, :, None, None]


def bernoulli_of_numbers(y: Tensor) -> Tensor:
    return y * torch.bernoulli(torch.zeros(y.shape[0], 1, 1, 1), 0.6)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "Dropout": nn.Dropout(0.3),
    "Dropout2d": nn.Dropout2d(0.3),
    "F.dropout": lambda y: F.dropout(y, 0.35),
    "in place": lambda y: F.dropout(y * 1, 0.3, inplace=True),
    "nothing to drop": nn.Dropout(0.0),
    "nothing to drop before a draw": nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.3)),
    "not in training before a draw": lambda y: F.dropout(F.dropout(y, 0.5, training=False), 0.3),
    "all dropped before a draw": lambda y: F.dropout(F.dropout(y, 1.0) + y, 0.3),
    "all dropped": nn.Dropout(1.0),
    "stochastic depth": stochastic_depth,
    "rand_like": lambda y: y * (torch.rand_like(y) < 0.5),
    "bernoulli of a tensor": bernoulli_of_tensor,
    "bernoulli in place": bernoulli_in_place,
    "bernoulli of numbers": bernoulli_of_numbers,
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_layers_draw_by_counter(name: str) -> None:
    assert_captured_equals_eager(task_of(Draws(DRAWS[name]), BATCH))


def test_a_draw_under_no_grad_is_refused_on_its_line() -> None:
    class Hidden(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                alive = torch.rand(x.shape[0], 1, 1, 1) < 0.7
            return super().forward(x * alive)

    with pytest.raises(CompileError, match=r"under torch\.no_grad") as caught:
        capture_forward(task_of(Hidden(), BATCH), training=True)
    line = Hidden.forward.__code__.co_firstlineno + 2
    assert caught.value.where[0].startswith(f"test_differentiate.py:{line}:")


def test_draws_without_a_counter_based_form_are_refused_on_their_line() -> None:
    def noise(y: Tensor) -> Tensor:
        return y + torch.randn_like(y)

    with pytest.raises(CompileError, match="counter-based") as caught:
        capture_forward(task_of(Draws(noise), BATCH), training=True)
    line = Draws.forward.__code__.co_firstlineno + 1
    assert caught.value.where == (f"test_differentiate.py:{line}: y = self.draw(self.conv(x))",)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 0.5, 2.0, 1.5])),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 0.5, 2.0, 1.5]), label_smoothing=0.2),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda y, t: F.nll_loss(F.log_softmax(y, 1), t) + 0.01 * y.square().mean(),
    ],
)
def test_a_classification_loss_has_the_right_gradient(loss: Any) -> None:
    graph = assert_captured_equals_eager(task_of(Tiny(), BATCH, loss=loss))
    assert "metric correct" in map(str, graph.outputs)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.SmoothL1Loss(), nn.L1Loss(), F.mse_loss])
def test_a_regression_has_no_accuracy(loss: Any) -> None:
    batch = (BATCH[0], torch.randn(4, 5))
    graph = assert_captured_equals_eager(task_of(Tiny(), batch, loss=loss))
    assert [s.kind for s in graph.outputs if s.kind is Kind.METRIC] == []


def test_a_model_may_take_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.number, self.head = nn.Conv2d(2, 4, 3), nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.tanh(self.image(x).mean((2, 3)) + self.number(z)))
            return logits

    graph = assert_captured_equals_eager(task_of(Two(), (BATCH[0], torch.randn(4, 3), BATCH[1])))
    assert [s.target for s in graph.inputs if s.kind is Kind.DATA] == ["0", "1", "2"]


def test_the_number_of_correct_samples_is_counted() -> None:
    task = task_of(Tiny(), BATCH)
    from tests.steps import graph_steps

    found = graph_steps(capture_task(task).step, task, [BATCH])[0]["metric correct"]
    expected = sum(
        int(row.argmax() == target) for row, target in zip(task.model(BATCH[0]), BATCH[1], strict=True)
    )
    assert found.item() == expected


def test_a_model_without_trained_parameters_is_refused() -> None:
    model = Tiny().requires_grad_(False)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(UsageError, match="holds no parameter"):
        _ = capture_task(make_task(model, BATCH, optimizer=optimizer)).step


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: Optimizers.RMSprop(p, lr=0.1), "RMSprop has no update rule"),
        (lambda p: Optimizers.LBFGS(p), "LBFGS has no update rule"),
        (lambda p: Optimizers.Adam(p, amsgrad=True), "amsgrad=True"),
        (lambda p: Optimizers.SGD(p, lr=0.1, momentum=0.9, dampening=0.5), "dampening=0.5"),
    ],
)
def test_an_optimizer_without_a_rule_is_refused(make: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _ = capture_task(task_of(Tiny(), BATCH, make)).step


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameters to train"):
        make_task(nn.Flatten(), BATCH)


class Shifted(Tiny):
    """A constant tensor, as a buffer or as none."""

    shift: Tensor

    def __init__(self, is_buffer: bool) -> None:
        super().__init__()
        shift = torch.tensor([0.25, -0.5])
        if is_buffer:
            self.register_buffer("shift", shift, persistent=False)
        else:
            self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.shift[:, None, None])


def test_a_constant_in_a_buffer_is_part_of_the_step() -> None:
    assert_captured_equals_eager(task_of(Shifted(is_buffer=True), BATCH))


def test_a_constant_that_is_no_buffer_is_refused_on_its_line() -> None:
    line = Shifted.forward.__code__.co_firstlineno + 1
    with pytest.raises(CompileError, match="neither parameter nor buffer") as caught:
        _ = capture_task(task_of(Shifted(is_buffer=False), BATCH)).step
    assert [where.split(": ")[0] for where in caught.value.where] == [f"test_differentiate.py:{line}"]
