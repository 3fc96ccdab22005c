"""Small image sets in the real layouts, written byte by byte for the tests."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cifar_record(labels: tuple[int, ...], red: int, green: int, blue: int) -> bytes:
    """Channel planes of one colour each, but for a 255 at the second pixel of the first red row."""
    planes = bytearray(bytes([red]) * 1024 + bytes([green]) * 1024 + bytes([blue]) * 1024)
    planes[1] = 255
    return bytes(labels) + bytes(planes)


def write_cifar10(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_batch_1.bin").write_bytes(cifar_record((3,), 1, 2, 3) + cifar_record((9,), 4, 5, 6))
    (folder / "data_batch_2.bin").write_bytes(cifar_record((0,), 7, 8, 9))
    (folder / "test_batch.bin").write_bytes(cifar_record((5,), 10, 11, 12))
    return folder


def idx(array: NDArray[Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    contents = {
        "train-images-idx3-ubyte": images,
        "train-labels-idx1-ubyte": np.array([2, 0, 1], np.uint8),
        "t10k-images-idx3-ubyte": images[:1] + 100,
        "t10k-labels-idx1-ubyte": np.array([1], np.uint8),
    }
    for name, content in contents.items():
        raw = idx(content)
        (folder / f"{name}{'.gz' * zipped}").write_bytes(gzip.compress(raw) if zipped else raw)
    return folder
