"""A network that the array trains in milliseconds on scikit-learn's digits, and batches for it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from e2compile.pipeline import TrainingGraph, capture

BATCH = 2
SHAPE = (BATCH, 1, 8, 8)
CLASSES = 10


def tiny() -> TrainingGraph:
    """Two convolutions that are alike, one in groups, one with a stride; a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 20, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, CLASSES),
    )
    return capture(model, (torch.randn(SHAPE), torch.tensor([0, 2])), data="digits")


def batch(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random images and labels."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal(SHAPE).astype(np.float32), draw.integers(0, CLASSES, BATCH)
