"""Every layout on disk is read right, and every way for it to be damaged is told apart."""

import sys
from pathlib import Path

import numpy as np
import pytest

from e2compile.errors import UsageError
from e2compile.runtime.datasets import Split, load
from tests.runtime.image_files import cifar_record, idx, write_cifar10, write_idx


def train_of(data: str, root: Path | None = None) -> Split:
    split = load(data, root).train
    assert isinstance(split, Split)
    return split


def test_reads_cifar10_batches_in_order(tmp_path: Path) -> None:
    dataset = load(str(write_cifar10(tmp_path)))
    train = train_of(str(tmp_path))
    assert train.labels.tolist() == [3, 9, 0]
    assert train.images.shape == (3, 3, 32, 32)
    assert train.images[:, :, 31, 31].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert np.argwhere(train.images == 255).tolist() == [[n, 0, 0, 1] for n in range(3)]
    assert (dataset.classes, dataset.crop, dataset.flip, len(dataset.test)) == (10, 4, True, 1)
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


def test_reads_the_fine_labels_of_cifar100(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(cifar_record((19, 99), 1, 2, 3))
    (tmp_path / "test.bin").write_bytes(cifar_record((4, 0), 1, 2, 3))
    dataset = load("cifar100", tmp_path)
    images, labels = dataset.train.take(np.array([0]))
    assert labels.tolist() == [99]
    assert images[0, :, 5, 5].tolist() == [1, 2, 3]
    assert dataset.classes == 100


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_idx_files(tmp_path: Path, zipped: bool) -> None:
    train = train_of("mnist", write_idx(tmp_path, zipped))
    assert train.images.shape == (3, 1, 4, 5)
    assert train.images[2, 0, 3, 4] == 59
    assert train.labels.tolist() == [2, 0, 1]
    assert load(str(tmp_path)).classes == 3


@pytest.mark.parametrize(("suffix", "mode", "channels"), [("png", "RGB", 3), ("jpg", "L", 1)])
def test_reads_a_folder_of_images(tmp_path: Path, suffix: str, mode: str, channels: int) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for half, name, value in [("train", "cat", 10), ("train", "dog", 200), ("test", "dog", 90)]:
        (tmp_path / half / name).mkdir(parents=True)
        colour = (value, value, value + 20) if mode == "RGB" else value
        pillow.new(mode, (6, 4), colour).save(tmp_path / half / name / f"1.{suffix}")
    dataset = load(str(tmp_path))
    images, labels = dataset.train.take(np.array([0, 1]))
    assert images.shape == (2, channels, 4, 6)
    assert images[:, -1, 0, 0].tolist() == ([30, 220] if mode == "RGB" else [10, 200])
    assert (labels.tolist(), dataset.classes) == ([0, 1], 2)
    assert dataset.test.take(np.array([0]))[1].tolist() == [1]


def test_refuses_a_damaged_image(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    for folder in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"cat/1\.png cannot be read as an image"):
        load(str(tmp_path))


def test_says_that_images_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UsageError, match="pip install pillow"):
        load(str(tmp_path))


DAMAGE = [
    ("test_batch.bin", None, "test_batch.bin is missing from"),
    ("test_batch.bin", b"", r"has 0 bytes, expected a whole number of 3,073-byte records"),
    ("data_batch_2.bin", cifar_record((1,), 1, 2, 3)[:-1], r"data_batch_2.bin has 3,072 bytes"),
    ("data_batch_1.bin", cifar_record((10,), 1, 2, 3), "damaged: record 0 has label 10, not 0 to 9"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_refuses_damaged_cifar(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = write_cifar10(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"(?s){message}.*had again from https"):
        load("cifar10", tmp_path)


def test_refuses_cifar_without_training_batches(tmp_path: Path) -> None:
    for path in write_cifar10(tmp_path).glob("data_batch_*"):
        path.unlink()
    with pytest.raises(UsageError, match=r"holds no data_batch_\*\.bin"):
        load("cifar10", tmp_path)


LABELS = idx(np.array([2, 0, 1], np.uint8))
IDX_DAMAGE = [
    ("train-labels-idx1-ubyte", None, "lacks train-labels-idx1-ubyte"),
    ("train-labels-idx1-ubyte", b"", "begins with nothing, expected 00000801"),
    ("train-labels-idx1-ubyte", LABELS[:6], "has 6 bytes"),
    ("train-labels-idx1-ubyte", LABELS[:-1], "has 10 bytes, expected 11"),
    ("train-labels-idx1-ubyte", idx(np.zeros(2, np.uint8)), "train-images has 3 rows, train-labels 2"),
    ("t10k-images-idx3-ubyte", LABELS, "begins with 00000801, expected 00000803"),
]


@pytest.mark.parametrize(("name", "content", "message"), IDX_DAMAGE)
def test_refuses_damaged_idx(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = write_idx(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load("mnist", tmp_path)


@pytest.mark.parametrize("keep", [5, 20, -3])
def test_refuses_a_gzip_cut_short(tmp_path: Path, keep: int) -> None:
    path = write_idx(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load("mnist", tmp_path)
