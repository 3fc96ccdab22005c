"""Places: where the maxima of a pooling lie, in memory each as a byte where that can say it.

ATen counts pixels of an image's plane, in int64. What only the pooling's gradient reads is the number of the
pixel in its window instead.
"""

import operator
from typing import Any

import torch
from torch import fx

from e2compile.lower.views import shape_of
from e2compile.lower.workload import pair

aten = torch.ops.aten

_MOST = 256


def is_place(node: fx.Node) -> bool:
    """Whether a value says where the maxima of a pooling lie."""
    call = node.args[0] if node.target is operator.getitem else None
    is_pool = isinstance(call, fx.Node) and call.target is aten.max_pool2d_with_indices.default
    return bool(is_pool and node.args[1] == 1)


def place_dtype(places: fx.Node | None) -> str:
    """The type in which places lie in memory, None being what nothing reads: uint8 for numbers in windows, or
    int64."""
    if places is None:
        return "uint8"
    if not is_place(places):
        return "int64"
    (height, width), _, _, dilation = window(places)
    is_alone = all(user.target is aten.max_pool2d_with_indices_backward.default for user in places.users)
    return "uint8" if is_alone and height * width <= _MOST and dilation == (1, 1) else "int64"


def window(places: fx.Node) -> tuple[tuple[int, int], ...]:
    """Kernel, stride, padding and dilation of the pooling, each of height and width."""
    pool: Any = places.args[0]
    options: list[Any] = [*pool.args[1:], None, None, None]
    kernel, stride, padding, dilation = options[:4]
    return pair(kernel), pair(stride, kernel), pair(padding, 0), pair(dilation, 1)


def pixels(places: fx.Node, numbers: torch.Tensor) -> torch.Tensor:
    """The places [N, C, OH, OW] as ATen has them, from numbers in windows."""
    pool: Any = places.args[0]
    width = shape_of(pool.args[0])[-1]
    (_, kernel), stride, padding, _ = window(places)
    rows, columns = (
        torch.arange(size) * step - pad
        for size, step, pad in zip(numbers.shape[-2:], stride, padding, strict=True)
    )
    down, across = numbers.long() // kernel, numbers.long() % kernel
    return (rows.view(-1, 1) + down) * width + columns + across
