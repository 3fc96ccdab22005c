"""A small model with everything that state can be, and graphs of it."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2compile.pipeline import TrainingGraph, capture
from tests.steps import images, sgd


class Net(nn.Module):
    """Tied weights, a parameter that nothing uses, a buffer outside the state_dict, a strided convolution."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.head = nn.Linear(width, 3)
        self.spare = nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x))).mean((2, 3)) * self.scale
        logits: Tensor = self.head(self.second(torch.tanh(self.first(y))))
        return logits


BATCH = images((8, 1, 6, 6), classes=3)
LOSS = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.5, 2.0]), label_smoothing=0.1)


def small(seed: int = 0, make: Any = sgd, **options: Any) -> TrainingGraph:
    torch.manual_seed(seed)
    model = Net()
    return capture(model, BATCH, LOSS, make(model.parameters()), **options)


def tiny() -> TrainingGraph:
    """What is built in the shortest time."""
    return capture(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), BATCH)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
