"""Which blocks are gated, found by structure alone, and the notes on those that are not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2compile.gates.blocks import find_blocks
from e2compile.passes import LayerGate
from e2compile.pipeline import capture
from tests import models
from tests.steps import images

CIFAR = (2, 3, 32, 32)
COUNTS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], int]] = [
    ("resnet20", lambda: models.resnet_cifar(20), CIFAR, 9),
    ("resnet38", lambda: models.resnet_cifar(38), CIFAR, 18),
    ("preact20", models.preact_resnet, CIFAR, 9),
    ("resnet18", lambda: models.resnet18(10), (2, 3, 64, 64), 8),
    ("mobilenet_v2", lambda: models.mobilenet_v2(dropout=0.1), CIFAR, 10),
    ("functional", models.functional_net, CIFAR, 2),
    ("small", models.small_resnet, (2, 1, 8, 8), 2),
]


@pytest.mark.parametrize(("build", "shape", "blocks"), [pytest.param(*c[1:], id=c[0]) for c in COUNTS])
def test_every_block_of_a_network_is_found(
    build: Callable[[], nn.Module], shape: tuple[int, ...], blocks: int
) -> None:
    graph = capture(build(), images(shape))
    for forward in (graph.training, graph.evaluation):
        found, notes = find_blocks(forward.graph)
        assert (len(found), notes) == (blocks, ())
    change = LayerGate()(graph.training)
    assert (change.changed, len(change.notes)) == (blocks - 1, 1)


def test_a_network_without_blocks_is_left_alone() -> None:
    forward = capture(models.vgg16_bn(), images(CIFAR)).training
    change = LayerGate()(forward)
    assert (change.graph, change.changed, change.notes) == (forward, 0, ("no residual block",))


def test_work_is_counted_in_multiply_accumulates_of_a_sample() -> None:
    found, _ = find_blocks(capture(models.resnet_cifar(8), images(CIFAR)).training.graph)
    assert [block.macs for block in found] == [
        2 * 9 * 16 * 16 * 32 * 32,
        9 * (16 + 32) * 32 * 16 * 16,
        9 * (32 + 64) * 64 * 8 * 8,
    ]
    (block,) = find_blocks(capture(mobile_block(), images((2, 4, 8, 8))).training.graph)[0]
    assert block.macs == (4 * 24 + 9 * 24 + 24 * 4) * 8 * 8


def mobile_block() -> nn.Module:
    block = models.InvertedResidual(4, 4, 1, 6)
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Net(nn.Module):
    """x + conv(norm(x)) between a stem and a mean, with what a test makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.other, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x)).mean((2, 3))

    def block(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))


class Leaks(Net):
    def block(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.conv(y) + y.mean((2, 3), keepdim=True)


class SharesNorm(Net):
    def block(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(self.norm(x)))


class Mixes(Net):
    def block(self, x: Tensor) -> Tensor:
        return x + self.conv(x - x.mean(0, keepdim=True))


class Rolls(Net):
    def block(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.roll(x, 1, 0))


class TwoBranches(Net):
    def block(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.other(x)


class Nested(Net):
    def block(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return x + (y + self.norm(self.other(y)))


class Scaled(Net):
    def block(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv(x), alpha=0.1)


class Excited(Net):
    """A squeeze-and-excitation block with layer and group norms: all of one sample."""

    def block(self, x: Tensor) -> Tensor:
        y = F.layer_norm(F.group_norm(self.conv(x), 2), (6, 6))
        gate = torch.sigmoid(F.linear(F.adaptive_avg_pool2d(y, 1).flatten(1), self.other.weight[:, :, 0, 0]))
        return x + y * gate.unsqueeze(-1).unsqueeze(-1)


def notes_of(model: nn.Module) -> tuple[int, list[str]]:
    found, notes = find_blocks(capture(model, images((4, 1, 6, 6), classes=4)).training.graph)
    assert all(note.startswith("test_layer_gate_sites.py:") for note in notes)
    return len(found), [note.rpartition(": ")[2] for note in notes]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Leaks, "aten.batch_norm inside it is used outside by aten.mean.dim"),
        (SharesNorm, "a batch norm inside it is called twice"),
        (Mixes, "aten.mean.dim inside it may mix samples"),
        (Rolls, "aten.roll inside it may mix samples"),
        (TwoBranches, "neither side is the shortcut: both have as many convolutions"),
    ],
)
def test_a_block_that_cannot_be_left_out_is_left_alone(model: type[nn.Module], why: str) -> None:
    count, notes = notes_of(model())
    assert (count, notes[:1]) == (0, [why.rpartition(": ")[2]])


def test_of_nested_blocks_the_inner_one_is_gated() -> None:
    assert notes_of(Nested()) == (1, ["it holds a block of its own"])


def test_a_scaled_branch_is_no_block() -> None:
    assert notes_of(Scaled()) == (0, [])


def test_operators_of_single_samples_may_be_in_a_block() -> None:
    assert notes_of(Excited()) == (1, [])
    assert notes_of(Net()) == (1, [])


def test_a_norm_whose_shape_hides_the_samples_may_mix_them() -> None:
    class Folds(Net):
        def block(self, x: Tensor) -> Tensor:
            return x + self.conv(x.reshape(2, 8, 6, 6)).reshape(x.shape)

    model = Folds()
    model.conv = nn.Conv2d(8, 8, 3, padding=1)
    assert notes_of(model) == (0, ["aten.reshape inside it may mix samples"])
