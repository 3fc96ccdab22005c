"""Batches depend on seed and step alone, and prefetching changes nothing but the time they take."""

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2compile.errors import UsageError
from e2compile.runtime.datasets import Dataset, Images, Indices, Items, Labels, Split, arrays
from e2compile.runtime.loader import AUGMENT, Augment, Loader, evaluation, random_bits, split_validation

PLAIN = Augment((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
FULL = Augment(PLAIN.mean, PLAIN.std, crop=2, flip=True)


def colours(count: int = 23) -> Split:
    """Random bytes; the label is the sample's own number."""
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 6, 5), np.uint8)
    return arrays(images, np.arange(count))


class Watched:
    """A source that notes what is taken, and breaks at one label."""

    def __init__(self, split: Split, breaks_at: int = -1) -> None:
        self.split, self.breaks_at = split, breaks_at
        self.taken: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.split)

    def take(self, indices: Indices) -> tuple[Images, Labels]:
        self.taken.append(indices.tolist())
        if self.breaks_at in indices:
            raise OSError("the disk is gone")
        return self.split.take(indices)

    def subset(self, indices: Indices) -> "Watched":
        return Watched(self.split.subset(indices), self.breaks_at)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("e2compile-loader")]


def test_an_epoch_takes_each_sample_once_at_most_and_epochs_differ() -> None:
    loader = Loader(colours(), 5, seed=1)
    assert loader.steps_per_epoch == 4
    epochs = [np.concatenate([loader.batch(4 * epoch + i)[1] for i in range(4)]) for epoch in range(3)]
    assert all(len(set(epoch.tolist())) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_whole_batches_cover_the_split() -> None:
    loader = Loader(colours(20), 5, seed=1)
    labels = np.concatenate([loader.batch(step)[1] for step in range(4, 8)])
    assert sorted(labels) == list(range(20))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), before=st.lists(st.integers(0, 200)), step=st.integers(0, 10**9))
def test_a_batch_does_not_depend_on_what_came_before(seed: int, before: list[int], step: int) -> None:
    used, fresh = Loader(colours(), 5, seed, FULL), Loader(colours(), 5, seed, FULL)
    for earlier in before:
        used.batch(earlier)
    assert used.batch(step)[0].tobytes() == fresh.batch(step)[0].tobytes()
    assert used.batch(step)[1].tobytes() == fresh.batch(step)[1].tobytes()


def test_seeds_and_steps_give_other_batches() -> None:
    batches = {Loader(colours(), 5, seed).batch(step)[0].tobytes() for seed in range(5) for step in range(5)}
    assert len(batches) == 25


def test_random_bits_never_change_between_versions() -> None:
    assert random_bits(1, 2, AUGMENT, 2).tolist() == [10612419859462301991, 7774404274552179346]


def slow_augmented(images: Images, bits: np.ndarray, augment: Augment) -> np.ndarray:
    """Pixel by pixel in double precision: where each output pixel comes from, or zero outside."""
    count, channels, height, width = images.shape
    out = np.zeros(images.shape)
    for n, c, row, column in itertools.product(range(count), range(channels), range(height), range(width)):
        down, right = (int(word) % (2 * augment.crop + 1) - augment.crop for word in bits[n, :2])
        mirrored = augment.flip and int(bits[n, 2]) >= 2**63
        y, x = row + down, (width - 1 - column if mirrored else column) + right
        if 0 <= y < height and 0 <= x < width:
            out[n, c, row, column] = (images[n, c, y, x] / 255 - augment.mean[c]) / augment.std[c]
    return out


@pytest.mark.parametrize("crop", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_augments_as_a_loop_over_pixels_does(crop: int, flip: bool) -> None:
    split = colours()
    augment = Augment(PLAIN.mean, PLAIN.std, crop, flip)
    x, y = Loader(split, 20, 7, augment).batch(11)
    expected = slow_augmented(split.images[y], random_bits(7, 11, AUGMENT, 60).reshape(-1, 3), augment)
    np.testing.assert_allclose(x, expected, rtol=0, atol=2e-6)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous


def test_every_shift_and_both_mirrorings_happen() -> None:
    bits = np.concatenate([random_bits(0, step, AUGMENT, 3 * 64).reshape(-1, 3) for step in range(8)])
    shifts = np.bincount((bits[:, 0] % np.uint64(9)).astype(np.int64), minlength=9)
    assert shifts.min() > 30
    assert 200 < (bits[:, 2] >= 2**63).sum() < 312


def test_without_augment_pixels_stay_as_they_are() -> None:
    split = colours()
    x, y = Loader(split, 5, 0).batch(0)
    assert np.array_equal(x, split.images[y])
    assert x.dtype == np.float32


def test_takes_a_users_dataset() -> None:
    split = colours()
    items = Items(list(zip(split.images / 255, split.labels, strict=True)))
    x, y = Loader(items, 5, 3).batch(2)
    np.testing.assert_array_equal(x, (split.images[y] / 255).astype(np.float32))


def test_augment_of_a_dataset_is_its_own() -> None:
    dataset = Dataset("own", 2, colours(), colours(), PLAIN.mean, PLAIN.std, crop=2, flip=True)
    assert Augment.of(dataset) == FULL


@pytest.mark.parametrize(
    ("batch_size", "seed", "message"),
    [(24, 0, "use a batch of 1 to 23, or more data"), (0, 0, "batch of 0"), (5, -1, "seed -1")],
)
def test_refuses_what_cannot_be_drawn(batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Loader(colours(), batch_size, seed)


def test_refuses_means_of_other_channels() -> None:
    with pytest.raises(UsageError, match="images of 3 channels, but 2 means"):
        Loader(colours(), 5, 0, Augment((0.1, 0.2), (1.0, 1.0))).batch(0)


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
def test_prefetch_loads_the_steps_asked_for_in_order_and_no_other(depth: int) -> None:
    source = Watched(colours())
    loader, steps = Loader(source, 5, 0, FULL), [0, 2, 3, 7, 11, 5]
    got = list(loader.prefetch(steps, depth))
    assert [step for step, _ in got] == steps
    assert len(source.taken) == len(steps)
    for step, (x, y) in got:
        assert x.tobytes() == loader.batch(step)[0].tobytes()
        assert y.tobytes() == loader.batch(step)[1].tobytes()
    assert not loader_threads()


def test_prefetch_runs_ahead_by_its_depth_only() -> None:
    source = Watched(colours())
    asked: list[int] = []

    def steps() -> Iterator[int]:
        for step in itertools.count():
            asked.append(step)
            yield step

    batches = Loader(source, 5, 0).prefetch(steps(), depth=3)
    next(batches)
    assert asked == [0, 1, 2, 3]
    batches.close()
    assert len(source.taken) <= 4
    assert not loader_threads()


def test_prefetch_raises_where_the_bad_batch_would_come() -> None:
    split = colours()
    order = [Loader(split, 5, 0).batch(step)[1].tolist() for step in range(4)]
    batches = Loader(Watched(split, breaks_at=order[2][0]), 5, 0).prefetch(range(4))
    assert [next(batches)[0], next(batches)[0]] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not loader_threads()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_leaving_a_prefetch_loop_ends_its_thread(stop: type[BaseException]) -> None:
    def consume() -> None:
        for step, _ in Loader(colours(), 5, 0).prefetch(itertools.count()):
            if step == 3:
                raise stop

    with pytest.raises(stop):
        consume()
    assert not loader_threads()


def test_evaluation_is_in_order_and_pads_the_last_batch() -> None:
    split = colours(7)
    batches = list(evaluation(split, 3, FULL))
    assert [valid for _, _, valid in batches] == [3, 3, 1]
    assert [labels.tolist() for _, labels, _ in batches] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    pixels = np.concatenate([x[:valid] for x, _, valid in batches])
    mean, std = (np.array(value).reshape(1, 3, 1, 1) for value in (PLAIN.mean, PLAIN.std))
    np.testing.assert_allclose(pixels, (split.images / 255 - mean) / std, atol=2e-6)
    assert all(x.shape == (3, 3, 6, 5) for x, _, _ in batches)


def test_validation_is_taken_out_of_the_split_the_same_each_time() -> None:
    split = colours()
    train, validation = split_validation(split, 0.25, seed=4)
    assert len(validation) == 6
    assert sorted([*train.labels, *validation.labels]) == list(range(23))
    assert np.array_equal(split_validation(split, 0.25, seed=4)[1].images, validation.images)
    assert set(split_validation(split, 0.25, seed=5)[1].labels) != set(validation.labels)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 0.001])
def test_refuses_a_validation_that_leaves_a_side_empty(fraction: float) -> None:
    with pytest.raises(UsageError, match="leaves one side empty"):
        split_validation(colours(), fraction, 0)
