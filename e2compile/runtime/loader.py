"""Batches as a pure function of (seed, step), so that a run resumed anywhere sees the same images."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2compile.errors import UsageError
from e2compile.runtime.datasets import Dataset, Images, Indices, Labels, Source

Pixels = NDArray[np.float32]
Bits = NDArray[np.uint64]
Batch = tuple[Pixels, Labels]
AnySource = TypeVar("AnySource", bound=Source)

ORDER, AUGMENT, VALIDATION = range(3)  # what random bits are for; uses never share any


@dataclass(frozen=True)
class Augment:
    """Normalisation by `mean` and `std`, and in training a random shift and mirroring."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: int = 0
    flip: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        return cls(dataset.mean, dataset.std, dataset.crop, dataset.flip)

    def normalise(self, images: Images) -> Pixels:
        """(x - mean) / std with bytes counted as 0 to 1."""
        if len(self.mean) not in (1, images.shape[1]):
            raise UsageError(
                f"images of {images.shape[1]} channels, but {len(self.mean)} means to normalise by"
            )
        unit = 255.0 if images.dtype == np.uint8 else 1.0
        shape = (1, -1, *[1] * (images.ndim - 2))
        scale = (1 / (unit * np.array(self.std))).astype(np.float32).reshape(shape)
        shift = (np.array(self.mean) / np.array(self.std)).astype(np.float32).reshape(shape)
        pixels: Pixels = np.multiply(images, scale, dtype=np.float32)
        pixels -= shift
        return pixels

    def __call__(self, images: Images, bits: Bits) -> Pixels:
        """Normalised images, each shifted and mirrored as its row of three random words says."""
        pixels = self.normalise(images)
        if self.crop:
            down, right = (bits[:, :2] % np.uint64(2 * self.crop + 1)).astype(np.int64).T
            pixels = _cropped(pixels, self.crop, down, right)
        if self.flip:
            mirrored = bits[:, 2] >> np.uint64(63) == 1
            pixels[mirrored] = pixels[mirrored, :, :, ::-1]
        return pixels


@dataclass(frozen=True)
class Loader:
    """Shuffled training batches of `split`, all of one size; without `augment` its pixels as they are."""

    split: Source
    batch_size: int
    seed: int
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed {self.seed} is not between 0 and 2**64 - 1")
        if not 1 <= self.batch_size <= len(self.split):
            raise UsageError(
                f"a batch of {self.batch_size} cannot be drawn from {len(self.split)} samples: "
                f"use a batch of 1 to {len(self.split)}, or more data"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: an epoch leaves out what remains, other samples each time."""
        return len(self.split) // self.batch_size

    def batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _shuffled(self.seed, epoch, len(self.split))
        images, labels = self.split.take(order[place * self.batch_size :][: self.batch_size])
        if self.augment is None:
            return images.astype(np.float32), labels
        bits = random_bits(self.seed, step, AUGMENT, 3 * self.batch_size)
        return self.augment(images, bits.reshape(-1, 3)), labels

    def prefetch(self, steps: Iterable[int], depth: int = 2) -> Generator[tuple[int, Batch], None, None]:
        """Each step with its batch, in order, the next `depth` being loaded by a thread meanwhile."""
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        thread = ThreadPoolExecutor(1, "e2compile-loader")
        try:
            for step in steps:
                waiting.append((step, thread.submit(self.batch, step)))
                if len(waiting) > depth:
                    yield _loaded(waiting)
            while waiting:
                yield _loaded(waiting)
        finally:
            thread.shutdown(cancel_futures=True)


def evaluation(
    split: Source, batch_size: int, augment: Augment | None = None
) -> Iterator[tuple[Pixels, Labels, int]]:
    """Batches in order, normalised only, and their number of real rows; the last sample pads the last one."""
    for start in range(0, len(split), batch_size):
        images, labels = split.take(np.minimum(np.arange(start, start + batch_size), len(split) - 1))
        pixels = images.astype(np.float32) if augment is None else augment.normalise(images)
        yield pixels, labels, min(batch_size, len(split) - start)


def split_validation(split: AnySource, fraction: float, seed: int) -> tuple[AnySource, AnySource]:
    """The split without a random `fraction` of it, and that fraction."""
    count = round(len(split) * fraction)
    if not 0 < count < len(split):
        raise UsageError(f"a validation fraction of {fraction} of {len(split)} samples leaves one side empty")
    order = np.argsort(random_bits(seed, 0, VALIDATION, len(split)), kind="stable")
    return split.subset(np.sort(order[count:])), split.subset(np.sort(order[:count]))


def random_bits(seed: int, index: int, use: int, count: int) -> Bits:
    """Random words that depend on nothing but the arguments, not on numpy's version either."""
    key, counter = np.array([seed, index], np.uint64), np.array([0, 0, 0, use], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> Indices:
    order = np.argsort(random_bits(seed, epoch, ORDER, count), kind="stable")
    order.setflags(write=False)
    return order


def _cropped(pixels: Pixels, border: int, down: Indices, right: Indices) -> Pixels:
    """Windows of the images' own size out of the images within a border of zeros."""
    count, channels, height, width = pixels.shape
    padded = np.zeros((count, channels, height + 2 * border, width + 2 * border), np.float32)
    padded[:, :, border:-border, border:-border] = pixels
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(count), :, down, right])


def _loaded(waiting: "deque[tuple[int, Future[Batch]]]") -> tuple[int, Batch]:
    step, future = waiting.popleft()
    return step, future.result()
