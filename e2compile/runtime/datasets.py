"""Image sets as arrays, found by name or by folder; nothing here needs torch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from platformdirs import user_cache_path

from e2compile.errors import UsageError
from e2compile.runtime.known import KNOWN, Known
from e2compile.runtime.layouts import IDX, IMAGES, LAYOUTS, image_classes

Images = NDArray[np.uint8] | NDArray[np.float32]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


class Source(Protocol):
    """Samples that can be taken by number."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> tuple[Images, Labels]: ...

    def subset(self, indices: Indices) -> Self: ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images (n, c, h, w), bytes for 0 to 1 or floats, and a label for each."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> tuple[Images, Labels]:
        return self.images[indices], self.labels[indices]

    def subset(self, indices: Indices) -> "Split":
        return Split(*self.take(indices))


class Pairs(Protocol):
    """What torch calls a map-style dataset: a length, and (x, y) at each number below it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Items:
    """A user's own dataset object; its samples are taken as they come, as float32."""

    data: Pairs
    chosen: Indices | None = None

    def __len__(self) -> int:
        return len(self.data) if self.chosen is None else len(self.chosen)

    def take(self, indices: Indices) -> tuple[Images, Labels]:
        samples = [self._sample(int(index)) for index in self._numbers(indices)]
        shapes = sorted({x.shape for x, _ in samples})
        if len(shapes) > 1:
            raise UsageError(f"the dataset's samples differ in shape, {shapes[0]} and {shapes[1]}")
        return np.stack([x for x, _ in samples]), np.array([y for _, y in samples], np.int64)

    def subset(self, indices: Indices) -> "Items":
        return Items(self.data, self._numbers(indices))

    def _numbers(self, indices: Indices) -> Indices:
        return indices if self.chosen is None else self.chosen[indices]

    def _sample(self, index: int) -> tuple[NDArray[np.float32], int]:
        try:
            x, y = self.data[index]
            return np.asarray(x, np.float32), int(y)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"sample {index} of the dataset is not (image, class number): {error}"
            ) from error


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, and how to prepare their images.

    Bytes are divided by 255 before `mean` and `std` apply. Training images are shifted by up to `crop`
    pixels and, if `flip`, mirrored half the time.
    """

    name: str
    classes: int
    train: Source
    test: Source
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: int = 0
    flip: bool = False


def load(name_or_dir: str, root: Path | None = None) -> Dataset:
    """The set of that name, looked for in `root` first, or the one the folder holds."""
    if name_or_dir == "digits":
        return _digits()
    if name_or_dir in KNOWN:
        return _known(name_or_dir, root)
    folder = Path(name_or_dir).expanduser()
    if not folder.is_dir():
        raise UsageError(f"no data {name_or_dir!r}: give a folder, or one of digits, {', '.join(KNOWN)}")
    return _folder(folder)


def arrays(x: ArrayLike, y: ArrayLike) -> Split:
    """A split from images (n, c, h, w) and class numbers (n,); bytes stay bytes, all else becomes float32."""
    images, labels = np.asarray(x), np.asarray(y)
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise UsageError(
            f"images {images.shape} and labels {labels.shape} are not (n, channels, height, width) and (n,)"
        )
    if labels.dtype.kind not in "iu":
        raise UsageError(f"labels are {labels.dtype}, expected class numbers, that is integers")
    return Split(images if images.dtype == np.uint8 else images.astype(np.float32), labels.astype(np.int64))


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, bytes counted as 0 to 1; 1 where nothing varies."""
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    mean = images.mean((0, 2, 3), dtype=np.float64)
    deviations = [images[:, channel].std(dtype=np.float64) for channel in range(images.shape[1])]
    return tuple((mean / scale).tolist()), tuple(float(std / scale) or 1.0 for std in deviations)


def _known(name: str, root: Path | None) -> Dataset:
    known = KNOWN[name]
    searched = list(_candidates(known, root))
    folder = next((folder for folder in searched if known.layout.holds(folder)), None)
    if folder is None:
        raise UsageError(
            f"{name} not found: no {known.layout.title} in any of\n"
            + "".join(f"  {folder}\n" for folder in searched)
            + f"Get it from {known.origin} and unpack it there, or set E2COMPILE_DATA to the folder it is in."
        )
    return _prepared(name, known, folder)


def _candidates(known: Known, root: Path | None) -> Iterator[Path]:
    given = [] if root is None else [root]
    environment = os.environ.get("E2COMPILE_DATA")
    named = [Path(environment).expanduser()] if environment else []
    for place in (*given, *named, user_cache_path("e2compile") / "data"):
        yield from (place / folder for folder in known.folders)
        yield place


def _prepared(name: str, known: Known, folder: Path) -> Dataset:
    try:
        train, test = (Split(*half) for half in known.layout.read(folder))
    except UsageError as error:
        raise UsageError(f"{error}\nIt can be had again from {known.origin}.") from error
    return Dataset(name, known.classes, train, test, known.mean, known.std, known.crop, known.flip)


def _folder(folder: Path) -> Dataset:
    layout = next((layout for layout in LAYOUTS if layout.holds(folder)), None)
    if layout is None:
        titles = "".join(f"\n  {layout.title}" for layout in LAYOUTS)
        raise UsageError(f"{folder} holds none of the layouts known:{titles}")
    name = folder.resolve().name
    for known in KNOWN.values():
        if known.layout is layout is not IDX:
            return _prepared(name, known, folder)
    train, test = (Split(*half) for half in layout.read(folder))
    classes = len(image_classes(folder)) if layout is IMAGES else int(train.labels.max()) + 1
    return Dataset(name, classes, train, test, *statistics(train.images))


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits, a fifth of each class for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("the digits come with scikit-learn: pip install scikit-learn") from None
    pixels, labels = load_digits(return_X_y=True)
    whole = arrays((pixels / 16).reshape(-1, 1, 8, 8), labels)
    shuffled = np.argsort(np.random.Philox(key=0).random_raw(len(whole)), kind="stable")
    classes = [shuffled[whole.labels[shuffled] == label] for label in range(10)]
    test = np.sort(np.concatenate([members[: len(members) // 5] for members in classes]))
    train = np.setdiff1d(np.arange(len(whole)), test)
    split = whole.subset(train)
    return Dataset("digits", 10, split, whole.subset(test), *statistics(split.images))
