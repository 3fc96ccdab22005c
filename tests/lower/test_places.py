"""Places of maxima: as bytes where only a pooling's gradient reads them, and what ATen has from those."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from e2compile.lower.places import is_place, pixels, place_dtype

aten = torch.ops.aten

# Kernel, stride, padding, dilation as ATen takes them.
OPTIONS = [([2, 2],), ([3, 3], [2, 2], [1, 1]), ([2, 3], [1, 2], [0, 1], [1, 1]), ([3], [2], [1])]


def places_of(x: Tensor, *options: Any) -> tuple[fx.Graph, fx.Node]:
    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta["val"] = x
    pool = graph.call_function(aten.max_pool2d_with_indices.default, (source, *options))
    places = graph.call_function(operator.getitem, (pool, 1))
    gradient = (source, source, *options, *([1],) * (4 - len(options)), False, places)
    graph.call_function(aten.max_pool2d_with_indices_backward.default, gradient)
    return graph, places


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_numbers_in_windows_say_which_pixel(options: tuple[list[int], ...]) -> None:
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    _, places = places_of(x, *options)
    expected = aten.max_pool2d_with_indices(x, *options)[1]
    kernel, stride, padding = ([*each, *each][:2] for each in (*options, [0], [0])[:3])
    stride = stride if len(options) > 1 else kernel
    padding = padding if len(options) > 2 else [0, 0]
    rows, columns = (torch.arange(size) for size in expected.shape[2:])
    down = expected // x.shape[3] - (rows * stride[0] - padding[0]).view(-1, 1)
    across = expected % x.shape[3] - (columns * stride[1] - padding[1])
    numbers = (down * kernel[1] + across).to(torch.uint8)
    assert place_dtype(places) == "uint8"
    assert torch.equal(pixels(places, numbers), expected)


def test_what_another_call_reads_stays_a_pixel() -> None:
    graph, places = places_of(torch.randn(2, 3, 8, 8), [2, 2])
    assert is_place(places)
    graph.call_function(aten.add.Scalar, (places, 1))
    assert place_dtype(places) == "int64"


def test_a_window_that_skips_pixels_or_is_too_large_has_pixels() -> None:
    x = torch.randn(2, 3, 32, 32)
    for options in (([2, 2], [2, 2], [0, 0], [2, 2]), ([17, 17],)):
        assert place_dtype(places_of(x, *options)[1]) == "int64"
