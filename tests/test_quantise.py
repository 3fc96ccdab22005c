"""Codes at the edges of their ranges, and what a graph shows about signs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode

from e2compile.integers import quantise
from e2compile.integers.quantise import Writer
from e2compile.integers.ranges import is_non_negative
from e2compile.ops import POWER_OF_TWO_ABOVE
from e2compile.pipeline import capture
from tests import integers
from tests.steps import images

aten = torch.ops.aten

COUNT = 8


def module(write_all: Callable[..., list[fx.Node]]) -> fx.GraphModule:
    """A graph over x [COUNT, 1, 1, 1] and a maximum []."""
    graph = fx.Graph()
    with FakeTensorMode() as mode:
        for name, example in (("x", torch.zeros(COUNT, 1, 1, 1)), ("maximum", torch.zeros(()))):
            node = graph.placeholder(name)
            node.meta = {"val": mode.from_tensor(example), "phase": "forward", "where": "", "module": ""}
    places = list(graph.nodes)
    graph.output(write_all(Writer(graph, places[0]), *places))
    return fx.GraphModule({}, graph)


def gradients(scale: Any) -> fx.GraphModule:
    def write_all(write: Writer, g: fx.Node, maximum: fx.Node) -> list[fx.Node]:
        planes = quantise.gradient(write, g, maximum, scale, needs_low=True)
        assert planes.low is not None
        return [planes.rounded, planes.high, planes.low, planes.step]

    return module(write_all)


def activations(scale: Any, bits: int) -> fx.GraphModule:
    def write_all(write: Writer, x: fx.Node, maximum: fx.Node) -> list[fx.Node]:
        codes = quantise.activation(write, x, maximum, bits, scale)
        return [codes.code, codes.step]

    return module(write_all)


GRADIENTS = {scale: gradients(scale) for scale in ("max", "power")}
ACTIVATIONS = {(scale, bits): activations(scale, bits) for scale in ("max", "power") for bits in (2, 8)}

# Shares of the maximum: the ends, halves of a code, beyond the range.
SHARES = st.floats(-1.5, 1.5, width=32) | st.sampled_from(
    [-0.0, 1e-30, *(code / 32768 for code in (0, 0.5, -0.5, 128.5, -128.5, 32639, 32639.5, -32639.5, 32768))]
)
MAXIMA = st.floats(2.0**-90, 2.0**90, width=32) | st.sampled_from([0.0, 1.0, 2.0**-120, 3.0, 0.75])


@given(shares=st.lists(SHARES, min_size=COUNT, max_size=COUNT), maximum=MAXIMA)
def test_gradient_planes(shares: list[float], maximum: float) -> None:
    g = (np.array(shares, np.float32) * np.float32(maximum)).reshape(COUNT, 1, 1, 1)
    for scale, graph in GRADIENTS.items():
        q, high, low, step = graph(torch.from_numpy(g), torch.tensor(maximum))
        unit = integers.unit(maximum, 2**15, scale)
        expected = integers.codes(g, unit, -32639, 32639)
        assert float(step) == float(unit)
        assert np.array_equal(q.numpy().astype(np.int64), expected)
        assert np.array_equal(256 * high.numpy().astype(np.int64) + low.numpy(), expected)
        assert (high.dtype, low.dtype) == (torch.int8, torch.int8)


@given(shares=st.lists(SHARES, min_size=COUNT, max_size=COUNT), maximum=MAXIMA)
def test_signed_codes(shares: list[float], maximum: float) -> None:
    x = (np.array(shares, np.float32) * np.float32(maximum)).reshape(COUNT, 1, 1, 1)
    for (scale, bits), graph in ACTIVATIONS.items():
        code, step = graph(torch.from_numpy(x), torch.tensor(maximum))
        levels = 2 ** (bits - 1)
        unit = integers.unit(maximum, levels, scale)
        assert code.dtype == torch.int8
        assert np.array_equal(code.numpy(), integers.codes(x, unit, -levels, levels - 1))
        assert float(step) == float(unit)


@given(x=st.floats(2.0**-126, float(torch.finfo(torch.float32).max), width=32))
def test_the_power_of_two_above(x: float) -> None:
    mantissa, exponent = math.frexp(x)
    expected = math.ldexp(1.0, exponent - (mantissa == 0.5))
    assert float(POWER_OF_TWO_ABOVE(torch.tensor(x, dtype=torch.float64))) == expected
    found = float(POWER_OF_TWO_ABOVE(torch.tensor(x)))
    assert found == (expected if expected < 2.0**128 else math.inf)


def test_the_power_of_two_above_passes_what_is_not_finite() -> None:
    found = POWER_OF_TWO_ABOVE(torch.tensor([math.inf, math.nan, 2.0**-100]))
    assert torch.equal(found[::2], torch.tensor([math.inf, 2.0**-100]))
    assert found[1].isnan()


CHAINS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (torch.relu, True),
    "relu6": (nn.functional.relu6, True),
    "sigmoid": (torch.sigmoid, True),
    "max pool": (lambda x: nn.functional.max_pool2d(torch.relu(x), 2), True),
    "average pool": (lambda x: nn.functional.avg_pool2d(torch.relu(x), 2), True),
    "view": (lambda x: torch.relu(x).view(4, 1, 12, 3).transpose(2, 3), True),
    "sum": (lambda x: torch.relu(x) + torch.sigmoid(x), True),
    "concatenation": (lambda x: torch.cat([torch.relu(x), x * 0 + x.abs()], 1), False),
    "two positive parts": (lambda x: torch.cat([torch.relu(x), x.abs()], 1), True),
    "dropout": (lambda x: nn.functional.dropout(torch.relu(x), 0.5), True),
    "negative sum": (lambda x: torch.relu(x) - 1, False),
    "negative factor": (lambda x: torch.relu(x) * -0.5, False),
    "residual sum": (lambda x: torch.relu(x) + x, False),
    "leaky": (lambda x: nn.functional.leaky_relu(x), False),
    "hardtanh": (lambda x: nn.functional.hardtanh(x), False),
    "as it is": (lambda x: x * 1.5, False),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_a_graph_shows_about_signs(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 1), nn.LazyConv2d(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(CHAINS[name][0](self.first(x)))
            return y.mean((2, 3))

    model = Net()
    batch = images((4, 1, 6, 6), classes=2)
    model(batch[0])
    step = capture(model, batch).step
    second = list(step.graph.find_nodes(op="call_function", target=aten.convolution.default))[-1]
    assert is_non_negative(second.args[0]) is CHAINS[name][1]
