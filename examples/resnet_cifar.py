"""ResNet-20 on CIFAR-10; :resnet38, :resnet74 and :resnet110 after the file name choose a deeper one."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet(depth: int) -> nn.Module:
    widths = [16] + [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
    blocks = [Block(inputs, outputs) for inputs, outputs in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def training(depth: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = resnet(depth)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return {
        "model": model,
        "loss": nn.CrossEntropyLoss(),
        "optimizer": optimizer,
        "schedule": torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[82, 123], gamma=0.1),
        "batch": (torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))),
        "data": "cifar10",
        "epochs": 164,
    }


def resnet20() -> dict[str, Any]:
    return training(20)


def resnet38() -> dict[str, Any]:
    return training(38)


def resnet74() -> dict[str, Any]:
    return training(74)


def resnet110() -> dict[str, Any]:
    return training(110)


model, loss, optimizer, schedule, batch, data, epochs = resnet20().values()
