"""A network with guards of its own: which samples run a block is read off the images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import e2compile.ops  # noqa: F401 - registers e2.guard
from e2compile.pipeline import TrainingGraph, capture

SAMPLES, CHANNELS = 7, 8

Masks = tuple[list[bool], list[bool]]

# For each block, the samples that run it: none, one, an odd number, all; and one block without the other.
MASKS: dict[str, Masks] = {
    "none": ([False] * 7, [False] * 7),
    "one": ([i == 3 for i in range(7)], [i == 0 for i in range(7)]),
    "odd": ([i % 2 == 0 or i == 1 for i in range(7)], [i > 3 for i in range(7)]),
    "all": ([True] * 7, [True] * 7),
    "first alone": ([i < 4 for i in range(7)], [False] * 7),
}


class Guarded(nn.Module):
    """Two residual blocks, group norm in one, moments of live samples in the other; the first one's weight
    is tied to the stem's second layer where `tied`."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.first = nn.ModuleList(_conv() for _ in range(2))
        self.last = nn.ModuleList(_conv() for _ in range(2))
        if tied:
            self.first[0].weight = self.second.weight
        self.norm = nn.GroupNorm(2, CHANNELS)
        self.scale = nn.Parameter(torch.ones(CHANNELS))
        self.squeeze = nn.Linear(CHANNELS, CHANNELS)
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(F.relu(self.stem(images)))
        for i in range(2):
            runs = torch.ops.e2.guard(images[:, i, 0, 0] > 0, f"block.{i}", True)
            inner = self._normal(i, self.first[i](x), runs)
            inner = self.last[i](F.relu(inner))
            inner = inner * torch.sigmoid(self.squeeze(inner.mean((2, 3))))[:, :, None, None]
            x = F.relu(x + torch.where(runs.view(-1, 1, 1, 1), inner, 0.0))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    def _normal(self, i: int, x: Tensor, runs: Tensor) -> Tensor:
        if i == 0:
            return self.norm(x)  # type: ignore[no-any-return]
        y, *_ = torch.ops.e2.batch_norm(x, runs, self.scale, None, 1e-5)
        return y  # type: ignore[no-any-return]


def _conv() -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)


def batch(masks: Masks, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images that let these samples run, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(SAMPLES, 3, 8, 8, generator=generator)
    for i, mask in enumerate(masks):
        sign = torch.tensor(mask).float() * 2 - 1
        images[:, i, 0, 0] = images[:, i, 0, 0].abs() * sign
    return images, torch.randint(0, 10, (SAMPLES,), generator=generator)


def guarded(tied: bool = False) -> TrainingGraph:
    torch.manual_seed(0)
    model = Guarded(tied)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    return capture(model, batch(MASKS["odd"]), optimizer=optimizer)
