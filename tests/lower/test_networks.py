"""Small networks of every common kind train one step as PyTorch trains them."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from e2compile.differentiate import differentiate
from e2compile.forward import capture_forward
from e2compile.graph import Kind, Slot, verify
from e2compile.task import Task, make_task
from tests.lower.compiling import Case, assert_same, results


class Between(nn.Module):
    """A function of feature maps between a convolution and a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 6) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.function = function
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(self.convolution(x)).mean((2, 3)))


class DenseBlock(nn.Module):
    """Each layer reads what all before it gave, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 4, 3, padding=1)) for c in (6, 10, 14)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class ShuffleUnit(nn.Module):
    """Half of the channels through a convolution, then channels of both halves in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        x = torch.cat([first, self.branch(second)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class PaddedShortcut(nn.Module):
    """The CIFAR ResNet's shortcut without parameters: every other pixel, and zeros for new channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 12, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))
        return (self.convolution(x) + shortcut).relu()


class Sum(nn.Module):
    """Several functions of the same feature maps: one capture and one set of contractions for all."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([f(x * (1 + 0.1 * i)) for i, f in enumerate(self.functions)]).sum(0)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "rectifiers": lambda: Between(
        Sum(nn.LeakyReLU(), nn.PReLU(), nn.ReLU6(), nn.Hardtanh(), nn.Threshold(0.1, 0.0), nn.Softshrink())
    ),
    "hard and soft steps": lambda: Between(
        Sum(nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Softsign(), nn.LogSigmoid())
    ),
    "exponentials": lambda: Between(
        Sum(nn.ELU(), nn.SELU(), nn.CELU(), nn.Softplus(), nn.Mish(), nn.SiLU(), torch.exp2, nn.Softmax(1))
    ),
    "error functions": lambda: Between(Sum(nn.GELU(), nn.GELU("tanh"))),
    "dense": lambda: Between(DenseBlock(), 18),
    "shuffle": lambda: Between(ShuffleUnit()),
    "padded_shortcut": lambda: Between(PaddedShortcut(), 12),
    "group_norm": lambda: Between(nn.GroupNorm(2, 6)),
    "instance_norm": lambda: Between(nn.InstanceNorm2d(6, affine=True)),
    "layer_norm": lambda: Between(nn.LayerNorm([8, 8])),
    "normalize": lambda: Between(lambda x: functional.normalize(x, dim=1)),
    "glu": lambda: Between(nn.GLU(1), 3),
    "squeeze_excite": lambda: Between(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "pixel_unshuffle": lambda: Between(nn.PixelUnshuffle(2), 24),
    "stack": lambda: Between(lambda x: torch.stack([x, x * 2]).sum(0)),
    "flip": lambda: Between(lambda x: x.flip(3) * x),
    "repeat": lambda: Between(lambda x: x[:, :2].repeat(1, 3, 1, 1) * x),
    "zero_pad": lambda: Between(lambda x: nn.ZeroPad2d((1, 2, 0, 1))(x).relu()),
    "average_pool": lambda: Between(nn.AvgPool2d(3, 2, 1)),
    "max_pool": lambda: Between(nn.MaxPool2d(3, 2, 1)),
}


def task_of(name: str) -> Task:
    torch.manual_seed(0)
    return make_task(NETWORKS[name](), (torch.randn(2, 3, 8, 8), torch.tensor([1, 2])))


def case_of(task: Task) -> Case:
    graph = differentiate(capture_forward(task, training=True), task)
    verify(graph)
    state = {n: t.detach() for n, t in [*task.model.named_parameters(), *task.model.named_buffers()]}

    def value(slot: Slot, example: Tensor) -> Tensor:
        if slot.kind in (Kind.PARAMETER, Kind.BUFFER):
            return state[slot.target].clone()
        if slot.kind is Kind.DATA:
            return task.batch[int(slot.target)]
        return torch.full(tuple(example.shape), 0.1 if slot.kind is Kind.RATE else 0, dtype=example.dtype)

    slots = zip(graph.inputs, graph.placeholders, strict=True)
    return Case(graph, tuple(value(slot, node.meta["val"]) for slot, node in slots))


def trained(task: Task) -> dict[str, Tensor]:
    """The state after a step of PyTorch's, and the loss."""
    model = copy.deepcopy(task.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss = functional.cross_entropy(model(task.batch[0]), task.batch[1])
    loss.backward()
    optimizer.step()
    return {n: t.detach() for n, t in [*model.named_parameters(), *model.named_buffers()]} | {
        "loss": loss.detach()
    }


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: case_of(task_of(name)) for name in NETWORKS}


@pytest.fixture(scope="module")
def computed(cases: dict[str, Case]) -> dict[str, list[Tensor]]:
    return results(cases)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_is_that_of_pytorch(
    name: str, cases: dict[str, Case], computed: dict[str, list[Tensor]]
) -> None:
    expected = trained(task_of(name))
    found = {slot.target: t for slot, t in zip(cases[name].graph.outputs, computed[name], strict=True)}
    names = [n for n in expected if n in found]
    assert {"loss", "convolution.weight", "linear.bias"} <= set(names)
    assert_same([found[n] for n in names], [expected[n] for n in names], rtol=1e-4, atol=1e-5)
