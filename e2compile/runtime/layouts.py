"""The layouts image sets have on disk: CIFAR binaries, idx files, and folders of images."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError

Labels = NDArray[np.int64]
Half = tuple[NDArray[np.uint8], Labels]

CIFAR_IMAGE = (3, 32, 32)
IDX_NAMES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


@dataclass(frozen=True)
class Layout:
    """A kind of folder: `holds` recognises it, `read` gives its images and labels, training half first."""

    title: str
    holds: Callable[[Path], bool]
    read: Callable[[Path], tuple[Half, Half]]


def _holds_cifar10(folder: Path) -> bool:
    return any(folder.glob("data_batch_*.bin")) or (folder / "test_batch.bin").is_file()


def _read_cifar10(folder: Path) -> tuple[Half, Half]:
    batches = sorted(folder.glob("data_batch_*.bin"))
    if not batches:
        raise UsageError(f"{folder} holds no data_batch_*.bin; CIFAR-10 trains on data_batch_1.bin and on")
    halves = [_read_cifar(path, label_bytes=1, classes=10) for path in batches]
    train = np.concatenate([images for images, _ in halves]), np.concatenate([labels for _, labels in halves])
    return train, _read_cifar(folder / "test_batch.bin", label_bytes=1, classes=10)


def _holds_cifar100(folder: Path) -> bool:
    return (folder / "train.bin").is_file() or (folder / "test.bin").is_file()


def _read_cifar100(folder: Path) -> tuple[Half, Half]:
    """The fine label is the second of the two label bytes."""
    train, test = (
        _read_cifar(folder / name, label_bytes=2, classes=100) for name in ("train.bin", "test.bin")
    )
    return train, test


def _read_cifar(path: Path, label_bytes: int, classes: int) -> Half:
    record = label_bytes + int(np.prod(CIFAR_IMAGE))
    raw = np.frombuffer(_read_bytes(path), np.uint8)
    if raw.size == 0 or raw.size % record:
        raise UsageError(
            f"{path} has {raw.size:,} bytes, expected a whole number of {record:,}-byte records "
            f"({label_bytes} of label, 3 x 32 x 32 of image): the file is cut short or of another format"
        )
    rows = raw.reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        at = int(labels.argmax())
        raise UsageError(f"{path} is damaged: record {at} has label {labels[at]}, not 0 to {classes - 1}")
    return np.ascontiguousarray(rows[:, label_bytes:]).reshape(-1, *CIFAR_IMAGE), labels


def _idx_file(folder: Path, stem: str, rank: int) -> Path | None:
    names = (f"{stem}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _holds_idx(folder: Path) -> bool:
    return any(_idx_file(folder, images, 3) for images, _ in IDX_NAMES.values())


def _read_idx(folder: Path) -> tuple[Half, Half]:
    train, test = (_read_idx_half(folder, *stems) for stems in IDX_NAMES.values())
    return train, test


def _read_idx_half(folder: Path, images_stem: str, labels_stem: str) -> Half:
    images = _read_idx_file(folder, images_stem, rank=3)
    labels = _read_idx_file(folder, labels_stem, rank=1)
    if len(images) != len(labels):
        raise UsageError(f"{folder}: {images_stem} has {len(images)} rows, {labels_stem} {len(labels)}")
    return images[:, None], labels.astype(np.int64)


def _read_idx_file(folder: Path, stem: str, rank: int) -> NDArray[np.uint8]:
    path = _idx_file(folder, stem, rank)
    if path is None:
        raise UsageError(f"{folder} lacks {stem}-idx{rank}-ubyte (plain or .gz)")
    raw = _read_bytes(path)
    if raw[:4] != bytes((0, 0, 8, rank)):
        raise UsageError(
            f"{path} begins with {raw[:4].hex() or 'nothing'}, expected 000008{rank:02x}: "
            "the file is damaged or of another format"
        )
    header = 4 + 4 * rank
    shape = tuple(int(size) for size in np.frombuffer(raw[4:header].ljust(4 * rank, b"\0"), ">u4"))
    expected = header + int(np.prod(shape))
    if len(raw) != expected or 0 in shape:
        raise UsageError(
            f"{path} has {len(raw):,} bytes, expected {expected:,} by its header {shape}: "
            "the file is cut short or damaged"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise UsageError(f"{path.name} is missing from {path.parent}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _holds_images(folder: Path) -> bool:
    return any(child.is_dir() for half in ("train", "test") for child in _children(folder / half))


def _read_images(folder: Path) -> tuple[Half, Half]:
    classes = image_classes(folder)
    if len(classes) < 2:
        raise UsageError(f"{folder / 'train'} has {len(classes)} class folders, expected at least 2")
    unknown = sorted({child.name for child in _children(folder / "test") if child.is_dir()} - set(classes))
    if unknown:
        raise UsageError(f"{folder / 'test'} has classes that train has not: {', '.join(unknown)}")
    train, test = (_read_image_half(folder / half, classes) for half in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UsageError(f"{folder}: train images are {train[0].shape[1:]}, test images {test[0].shape[1:]}")
    return train, test


def image_classes(folder: Path) -> list[str]:
    """The names of the class folders; a class's label is its place in this list."""
    return [child.name for child in _children(folder / "train") if child.is_dir()]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _read_image_half(folder: Path, classes: Sequence[str]) -> Half:
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in _children(folder / name)
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise UsageError(f"{folder} has no images: expected {folder}/<class>/*.png or *.jpg")
    return _decode([path for path, _ in found]), np.array([label for _, label in found], np.int64)


def _decode(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """All images as (n, c, h, w), grey if the first one is, else RGB."""
    first = _pixels(paths[0], None)
    grey = first.ndim == 2
    images = np.empty((len(paths), *first.shape), np.uint8)
    for row, path in enumerate(paths):
        pixels = _pixels(path, "L" if grey else "RGB")
        if pixels.shape != first.shape:
            raise UsageError(f"{path} has shape {pixels.shape}, {paths[0]} {first.shape}: resize them alike")
        images[row] = pixels
    return images[:, None] if grey else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _pixels(path: Path, mode: str | None) -> NDArray[np.uint8]:
    image_module = _pillow()
    try:
        with image_module.open(path) as image:
            grey = image.mode in {"1", "L", "LA"}
            return np.asarray(image.convert(mode or ("L" if grey else "RGB")), np.uint8)
    except OSError as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError:
        raise UsageError("a folder of images needs Pillow to be read: pip install pillow") from None


CIFAR10 = Layout("CIFAR-10 binaries (data_batch_*.bin, test_batch.bin)", _holds_cifar10, _read_cifar10)
CIFAR100 = Layout("CIFAR-100 binaries (train.bin, test.bin)", _holds_cifar100, _read_cifar100)
IDX = Layout("idx files (train-images-idx3-ubyte, ..., plain or .gz)", _holds_idx, _read_idx)
IMAGES = Layout("folders of images (train/<class>/*.png, test/<class>/*.png)", _holds_images, _read_images)
LAYOUTS = (CIFAR10, CIFAR100, IDX, IMAGES)
