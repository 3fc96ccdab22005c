"""The networks that the benchmarks run, by name."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import models

NETS = {
    "resnet20": lambda: models.resnet_cifar(20),
    "resnet38": lambda: models.resnet_cifar(38),
    "resnet74": lambda: models.resnet_cifar(74),
    "resnet110": lambda: models.resnet_cifar(110),
    "preact_resnet20": lambda: models.preact_resnet(20),
    "functional_net": models.functional_net,
    "resnet18": models.resnet18,
    "mobilenet_v2": models.mobilenet_v2,
    "vgg16_bn": models.vgg16_bn,
}


def net(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = NETS[name]()
    return module


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """CIFAR-shaped noise: speed does not depend on what the pixels show."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(size, 3, 32, 32, generator=generator),
        torch.randint(0, 10, (size,), generator=generator),
    )
