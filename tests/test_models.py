"""The test networks are the ones of the literature: known parameter counts, and training that moves."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests import models

BLOCKS = sum(2 * 9 * c * c + 2 * 2 * c for c in (16, 32, 64))  # one identity block of each stage
CIFAR = (2, 3, 32, 32)
COUNTS: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("resnet20", lambda: models.resnet_cifar(20), 272_474),
    ("resnet38", lambda: models.resnet_cifar(38), 272_474 + 3 * BLOCKS),
    ("resnet74", lambda: models.resnet_cifar(74), 272_474 + 9 * BLOCKS),
    ("resnet110", lambda: models.resnet_cifar(110), 272_474 + 15 * BLOCKS),
    ("resnet18", models.resnet18, 11_689_512),
    ("mobilenet_v2", models.mobilenet_v2, 2_236_682),
    ("vgg16_bn", models.vgg16_bn, 14_728_266),
]
TRAINED: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("resnet20", lambda: models.resnet_cifar(20), CIFAR),
    ("preact20", models.preact_resnet, CIFAR),
    ("resnet18", lambda: models.resnet18(10), (2, 3, 64, 64)),
    ("mobilenet_v2", lambda: models.mobilenet_v2(dropout=0.1), CIFAR),
    ("vgg16_bn", models.vgg16_bn, CIFAR),
    ("functional", models.functional_net, CIFAR),
    ("small", models.small_resnet, (2, 1, 8, 8)),
]


def named(cases: list) -> list:  # type: ignore[type-arg]
    return [pytest.param(*rest, id=name) for name, *rest in cases]


@pytest.mark.parametrize(("build", "expected"), named(COUNTS))
def test_has_the_published_number_of_parameters(build: Callable[[], nn.Module], expected: int) -> None:
    assert sum(parameter.numel() for parameter in build().parameters()) == expected


@pytest.mark.parametrize(("build", "shape"), named(TRAINED))
def test_every_parameter_gets_a_gradient(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build()
    loss = nn.functional.cross_entropy(model(torch.randn(shape)), torch.tensor([1, 7]))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("depth", "blocks"), [(20, 9), (38, 18), (74, 36), (110, 54)])
def test_depth_counts_convolutions_and_the_linear_layer(depth: int, blocks: int) -> None:
    model = models.resnet_cifar(depth)
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(spatial) + 1 == depth
    assert sum(isinstance(m, models.BasicBlock) for m in model.modules()) == blocks


def test_refuses_a_depth_that_is_no_resnet() -> None:
    with pytest.raises(ValueError, match="21 is not 6n"):
        models.resnet_cifar(21)
