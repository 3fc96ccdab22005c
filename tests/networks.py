"""Networks compiled with verification, in processes of their own so that two are built at a time."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import e2compile
from e2compile.pipeline import capture_task
from tests import models
from tests.steps import images, task_of

CIFAR = (4, 3, 32, 32)


def start_of(model: nn.Module, layers: int, channels: int) -> nn.Module:
    """The first layers of a network and a classifier: its kinds of kernels in a fraction of the time."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*list(model.children())[:layers], *head)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobilenet_v2": (lambda: start_of(models.mobilenet_v2(), 7, 32), CIFAR),
    "resnet_cifar": (lambda: models.resnet_cifar(20), (8, 3, 32, 32)),
    "preact_resnet": (lambda: models.preact_resnet(8), CIFAR),
    "resnet18": (lambda: start_of(models.resnet18(10), 7, 128), (2, 3, 64, 64)),
    "vgg16_bn": (lambda: start_of(models.vgg16_bn(), 10, 128), CIFAR),
    "functional_net": (models.functional_net, CIFAR),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]()


def compile_network(name: str, folder: Path) -> Path:
    """Compile and verify a network; its Program folder."""
    task = task_of(network(name), images(NETWORKS[name][1]))
    return e2compile.compile(capture_task(task), output=folder / name, cache=False).folder
