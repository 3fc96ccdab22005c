"""The public image sets known by name: where they are found and how they are prepared."""

from dataclasses import dataclass

from e2compile.runtime.layouts import CIFAR10, CIFAR100, IDX, Layout


@dataclass(frozen=True)
class Known:
    """A public set: its layout, the folders it comes in, where to get it, how to prepare it."""

    layout: Layout
    folders: tuple[str, ...]
    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    flip: bool
    classes: int = 10


KNOWN = {
    "cifar10": Known(
        layout=CIFAR10,
        folders=("cifar10", "cifar-10-batches-bin"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        crop=4,
        flip=True,
    ),
    "cifar100": Known(
        layout=CIFAR100,
        folders=("cifar100", "cifar-100-binary"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        crop=4,
        flip=True,
        classes=100,
    ),
    "mnist": Known(
        layout=IDX,
        folders=("mnist", "MNIST/raw"),
        origin="https://ossci-datasets.s3.amazonaws.com/mnist/ (four .gz files)",
        mean=(0.1307,),
        std=(0.3081,),
        crop=2,
        flip=False,
    ),
    "fashion-mnist": Known(
        layout=IDX,
        folders=("fashion-mnist", "FashionMNIST/raw"),
        origin="https://github.com/zalandoresearch/fashion-mnist (data/fashion, four .gz files)",
        mean=(0.2860,),
        std=(0.3530,),
        crop=2,
        flip=True,
    ),
}
