"""Sets are found by name or folder, and a user's own data serves as well."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from e2compile.errors import UsageError
from e2compile.runtime.datasets import Items, arrays, load, statistics
from tests.runtime.image_files import write_cifar10, write_idx


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2COMPILE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_finds_a_named_set_in_root_then_environment_then_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "cache/e2compile/data/cifar10")
    (tmp_path / "cache/e2compile/data/cifar10/data_batch_1.bin").unlink()
    assert len(load("cifar10").train) == 1
    write_cifar10(tmp_path / "named/cifar-10-batches-bin")
    monkeypatch.setenv("E2COMPILE_DATA", str(tmp_path / "named"))
    assert len(load("cifar10").train) == 3
    write_cifar10(tmp_path / "root")
    (tmp_path / "root/data_batch_2.bin").unlink()
    assert len(load("cifar10", tmp_path / "root").train) == 2


def test_tells_mnist_from_fashion_by_torchvisions_folders(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST/raw")
    assert load("fashion-mnist", tmp_path).mean == (0.2860,)
    with pytest.raises(UsageError, match="mnist not found"):
        load("mnist", tmp_path)


def test_a_missing_set_names_the_places_searched_and_the_origin(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load("cifar10", tmp_path / "empty")
    for part in (
        "cifar10 not found",
        f"{tmp_path}/empty/cifar-10-batches-bin",
        "cache/e2compile/data/cifar10",
    ):
        assert part in str(caught.value)
    assert "https://www.cs.toronto.edu" in str(caught.value)
    assert "E2COMPILE_DATA" in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"no data 'imagenet': .*digits, cifar10, cifar100, mnist, fashion-mnist"
    ):
        load("imagenet")


def test_a_folder_of_something_else_lists_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"none of the layouts known:\n  CIFAR-10 binaries"):
        load(str(tmp_path))


def test_digits_are_all_there_each_once_and_the_same_each_time() -> None:
    from sklearn.datasets import load_digits

    dataset, again = load("digits"), load("digits")
    halves = [half.take(np.arange(len(half))) for half in (dataset.train, dataset.test)]
    pixels = np.concatenate([images for images, _ in halves]).reshape(-1, 64)
    assert sorted(map(tuple, pixels * 16)) == sorted(map(tuple, load_digits().data))
    assert all(abs(np.bincount(labels) / len(labels) - 0.1).max() < 0.01 for _, labels in halves)
    assert np.array_equal(halves[1][0], again.test.take(np.arange(len(again.test)))[0])
    assert len(dataset.test) / len(pixels) == pytest.approx(0.2, abs=0.005)


def test_statistics_of_bytes_count_from_0_to_1() -> None:
    images = np.zeros((2, 2, 1, 2), np.uint8)
    images[:, 0] = [[[0, 255]], [[255, 0]]]
    assert statistics(images) == ((0.5, 0.0), (0.5, 1.0))


def test_arrays_keep_bytes_and_make_the_rest_float32() -> None:
    assert arrays(np.zeros((2, 1, 3, 3), np.uint8), [0, 1]).images.dtype == np.uint8
    split = arrays(np.zeros((2, 1, 3, 3)), np.array([0, 1], np.int32))
    assert split.images.dtype == np.float32
    assert split.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 3, 3), [0, 1]), ((2, 1, 3, 3), [0]), ((2, 1, 3, 3), [0.5, 1])]
)
def test_arrays_refuses_other_shapes_and_kinds(shape: tuple[int, ...], labels: list[float]) -> None:
    with pytest.raises(UsageError, match=r"labels"):
        arrays(np.zeros(shape), labels)


def test_items_takes_tensors_from_a_torch_dataset() -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([4, 3, 2, 1, 0])
    items = Items(torch.utils.data.TensorDataset(x, y))
    images, labels = items.subset(np.array([4, 2, 0])).take(np.array([1, 2]))
    assert np.array_equal(images, x[[2, 0]].numpy())
    assert labels.tolist() == [2, 4]
    assert images.dtype == np.float32


@pytest.mark.parametrize("sample", [3, (1, 2, 3), ("cat", 1), (np.zeros(2), "cat")])
def test_items_names_a_sample_that_is_no_pair(sample: object) -> None:
    with pytest.raises(UsageError, match="sample 1 of the dataset is not"):
        Items([(np.zeros(2), 0), sample]).take(np.array([0, 1]))


def test_items_refuses_samples_of_two_shapes() -> None:
    with pytest.raises(UsageError, match="differ in shape"):
        Items([(np.zeros((1, 2, 2)), 0), (np.zeros((1, 3, 3)), 0)]).take(np.array([0, 1]))


def test_loads_without_torch() -> None:
    code = (
        "import sys\n"
        "from e2compile.runtime import datasets, loader\n"
        "data = datasets.load('digits')\n"
        "loader.Loader(data.train, 8, 0, loader.Augment.of(data)).batch(3)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
