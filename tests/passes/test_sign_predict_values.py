"""SignPredict: every number of the rewritten graph is what NumPy's integers say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from e2compile.graph import StepGraph, verify
from e2compile.ops import INTEGER_CONVOLUTION, INTEGER_INPUT_GRADIENT, INTEGER_WEIGHT_GRADIENT
from e2compile.passes import SignPredict
from e2compile.pipeline import TrainingGraph, capture
from tests.integers import Oracle, as_array, planes, run, steps, uncoded
from tests.steps import Named, images

aten = torch.ops.aten


class Net(nn.Module):
    """Signed and unsigned inputs, a bias, a stride, padding; weights of several tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 20, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(20)
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        x = torch.relu(self.norm2(self.second(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


BATCH = images((4, 3, 9, 9), classes=3)
GEOMETRY = {"first": (1, 1), "second": (2, 1)}  # stride, padding
VARIANTS: dict[str, dict[str, Any]] = {
    "hardware": {},
    "current": {"scales": "current"},
    "never": {"fallback": "never", "scales": "current", "measure": True},
    "layer runs": {"fallback": "layer", "unsure_limit": 0.0, "scales": "current"},
    "layer runs not": {"fallback": "layer", "unsure_limit": 1.0, "scales": "current", "measure": True},
    "tile": {"fallback": "tile", "unsure_limit": 0.2, "scales": "current", "beta": 0.1},
    "element": {"fallback": "element", "scales": "current", "beta": 0.3},
    "paper": {"preset": "paper", "measure": True},
    "paper by layer": {"preset": "paper", "fallback": "layer", "unsure_limit": 0.01},
    "paper in powers": {"preset": "paper", "scale": "power", "predictor_activation_bits": 3},
    "paper, short predictor": {"preset": "paper", "predictor_gradient_bits": 4, "beta": 0.2},
    "eight bits": {"gradient_bits": 8, "scales": "current"},
    "few bits": {
        "activation_bits": 5, "weight_bits": 4, "predictor_activation_bits": 5, "scales": "current"
    },
    "by channel": {"by_channel": True, "scales": "current"},
    "paper by channel": {"preset": "paper", "by_channel": True},
}  # fmt: skip


def plain() -> TrainingGraph:
    torch.manual_seed(0)
    model = Net()
    # no decay, so that the first momentum is the gradient
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    return capture(model, BATCH, optimizer=optimizer)


GRAPH = plain()
STEP = GRAPH.step


def rewritten(options: SignPredict) -> StepGraph:
    step: StepGraph = options(STEP).graph
    verify(step)
    return step


class Case:
    """One step of a variant, run, with its oracles."""

    def __init__(self, name: str) -> None:
        self.options = SignPredict(**VARIANTS[name])
        self.step = rewritten(self.options)
        self.given: Named
        self.given, self.values = run(self.step, GRAPH.task, BATCH)

    def call(self, target: Any, module: str) -> fx.Node:
        nodes = self.step.graph.find_nodes(op="call_function", target=target)
        return next(node for node in nodes if node.meta["module"] == module)

    def value(self, node: Any) -> Any:
        return as_array(self.values.env[node])

    def oracle(self, module: str) -> Oracle:
        forward, backward = (self.call(t, module) for t in (INTEGER_CONVOLUTION, INTEGER_WEIGHT_GRADIENT))
        g = uncoded(backward.args[1])
        g = g.args[0] if self.options.by_channel else g
        arrays = (*(self.value(uncoded(code)) for code in forward.args[:2]), self.value(g))
        is_first_step = self.options.settings().scales == "previous"
        maxima = (8.0, 1 / 4) if is_first_step else (None, None)
        return Oracle(self.options, arrays, maxima, module == "second", GEOMETRY[module])


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def scaled(node: fx.Node) -> fx.Node:
    """What the float32 sum of integer results is multiplied to."""
    while node.target is not aten.mul.Tensor:
        (node,) = node.users
    return node


def both(case: Case) -> Iterator[tuple[str, Oracle]]:
    return ((module, case.oracle(module)) for module in GEOMETRY)


def test_codes_of_activations_and_weights(case: Case) -> None:
    for module, oracle in both(case):
        x, w = case.call(INTEGER_CONVOLUTION, module).args[:2]
        assert case.value(x).dtype == (np.uint8 if oracle.unsigned else np.int8)
        assert case.value(w).dtype == np.int8
        assert np.array_equal(case.value(x), oracle.xq)
        assert np.array_equal(case.value(w), oracle.wq)


def test_byte_planes_of_gradients(case: Case) -> None:
    nodes = case.step.graph.find_nodes(op="call_function", target=INTEGER_INPUT_GRADIENT)
    oracle = case.oracle("second")
    found = [case.value(node.args[0]) for node in nodes]
    assert len(found) == case.options.settings().gradient_bits // 8
    for plane, expected in zip(found, oracle.planes, strict=False):
        assert plane.dtype == np.int8
        assert np.array_equal(plane, expected)


def test_the_output_is_the_integer_product_scaled_back(case: Case) -> None:
    for module, oracle in both(case):
        assert np.array_equal(case.value(scaled(case.call(INTEGER_CONVOLUTION, module))), oracle.y)


def test_the_input_gradient_is_the_integer_product_of_both_planes(case: Case) -> None:
    last = list(case.step.graph.find_nodes(op="call_function", target=INTEGER_INPUT_GRADIENT))[-1]
    assert np.array_equal(case.value(scaled(last)), case.oracle("second").dx)


def test_the_optimizer_takes_the_sign(case: Case) -> None:
    for module, oracle in both(case):
        found = as_array(case.given[f"optimizer state {module}.weight.momentum_buffer"])
        assert np.array_equal(found, oracle.signs)


def test_counters_say_how_signs_were_found(case: Case) -> None:
    for module, oracle in both(case):
        counters = {
            n.rpartition(".")[2]: v for n, v in case.given.items() if n.startswith(f"counter psg.{module}.")
        }
        assert counters["sure"].dtype == torch.float32
        assert float(counters["sure"]) == pytest.approx(oracle.sure.mean(), rel=1e-6)
        assert counters["fallback"].dtype == torch.int64
        ran = np.any(oracle.fallback) if case.options.settings().fallback in ("layer", "never") else True
        assert int(counters["fallback"]) == ran
        assert ("errors" in counters) == case.options.measure
        if case.options.measure:
            wrong = (oracle.signs != np.sign(oracle.full)).mean()
            assert float(counters["errors"]) == pytest.approx(wrong, rel=1e-6)


def test_every_other_gradient_is_no_sign(case: Case) -> None:
    momenta = [v for n, v in case.given.items() if n.startswith("optimizer state") and v.dim() != 4]
    assert len(momenta) == 7
    assert not any(bool((v == v.sign()).all()) for v in momenta)


def test_variants_do_what_they_are_named_for() -> None:
    """The cases above hold both outcomes of every decision."""
    cases = {name: Case(name) for name in VARIANTS}
    for name in ("tile", "element", "paper"):
        assert 0 < np.mean(cases[name].oracle("second").fallback) < 1, name
    assert cases["layer runs"].oracle("second").fallback is True
    assert cases["layer runs not"].oracle("second").fallback is False
    for name in ("tile", "element", "paper", "layer runs"):
        oracle = cases[name].oracle("second")
        assert not np.array_equal(np.sign(oracle.predicted), np.sign(oracle.full)), name


def test_the_planes_of_a_code_are_its_bytes_read_as_signed() -> None:
    q = np.arange(-32639, 32640)
    high, low = planes(q)
    assert np.array_equal(256 * high + low, q)
    assert np.array_equal(low.astype(np.int8).view(np.uint8), (q & 255).astype(np.uint8))
    assert high.min() == -127
    assert high.max() == 127


def test_the_second_step_scales_by_the_maxima_of_the_first() -> None:
    options = SignPredict()
    step = rewritten(options)
    first, second = steps(step, GRAPH.task, [BATCH, BATCH])
    maxima = {name: float(v) for name, v in first.items() if name.startswith("pass state psg.")}
    assert sorted(maxima) == [
        f"pass state psg.{module}.{kind}" for module in ("first", "second") for kind in "gx"
    ]
    assert maxima["pass state psg.first.x"] == float(BATCH[0].abs().max())
    given, values = run(step, GRAPH.task, BATCH, first)
    assert all(torch.equal(given[name], second[name]) for name in given)
    case = Case("hardware")
    case.given, case.values, case.step = given, values, step
    for module in GEOMETRY:
        forward, backward = (case.call(t, module) for t in (INTEGER_CONVOLUTION, INTEGER_WEIGHT_GRADIENT))
        nodes = (*forward.args[:2], backward.args[1])
        arrays = tuple(case.value(uncoded(code)) for code in nodes)
        held = tuple(maxima[f"pass state psg.{module}.{kind}"] for kind in "xg")
        oracle = Oracle(options, arrays, held, module == "second", GEOMETRY[module])  # type: ignore[arg-type]
        assert np.array_equal(case.value(forward.args[0]), oracle.xq)
        assert np.array_equal(case.value(backward.args[1]), oracle.planes[0])
