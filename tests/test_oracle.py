"""The oracle takes a program's decisions, and tells which of them rounding does not explain."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from e2compile.graph import StepGraph, conditional
from e2compile.ops import INTEGER_CONVOLUTION
from e2compile.passes import SignPredict
from e2compile.pipeline import capture
from e2compile.verification.oracle import Decision, Oracle, Stored, _Interpreter
from e2compile.verification.replay import Start, Values, arguments_of
from e2compile.verification.verify import _decided
from tests.guarded import MASKS, batch, guarded
from tests.models import small_resnet
from tests.steps import images, state_of, task_of

aten = torch.ops.aten


def integers() -> tuple[StepGraph, Start]:
    task = task_of(small_resnet(4), images((4, 1, 8, 8)))
    step = capture(task.model, task.batch, optimizer=task.optimizer).apply(SignPredict()).step
    return step, start(step, task, task.batch)


def start(step: StepGraph, task: object, data: tuple[Tensor, ...]) -> Start:
    named = state_of(task, step)  # type: ignore[arg-type]
    state: Values = {(s.kind, s.target): named[str(s)] for s in step.inputs if s.kind.is_state}
    return Start(state, data, 0, 0, [0.1])


def own(step: StepGraph, begin: Start, target: object, number: int) -> tuple[fx.Node, Tensor]:
    """The `number`-th call of an operator, and its value in a run that nobody disturbs."""
    node = step.graph.find_nodes(op="call_function", target=target)[number]
    seen: list[Tensor] = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n is node:
                seen.append(value)
            return value

    with torch.no_grad():
        Watch(step.module).run(*arguments_of(step, begin, torch.float32))
    return node, seen[0]


def rows(decisions: list[Decision]) -> list[str]:
    return [row.check for row in _decided(decisions) if not row.passed]


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda v: v, []),
        (lambda v: v + (torch.arange(v.numel()).reshape(v.shape) == 0), ["integer products"]),
    ],
)
def test_a_product_must_be_the_same(change: Callable[[Tensor], Tensor], failed: list[str]) -> None:
    step, begin = integers()
    node, value = own(step, begin, INTEGER_CONVOLUTION, 1)
    oracle = Oracle(step, begin, {node: Stored(change(value))})
    oracle(torch.float32)
    assert rows(oracle.record) == failed


@pytest.mark.parametrize(("by", "count", "failed"), [(1, 1, 0), (2, 1, 1), (1, 40, 1)])
def test_a_code_may_be_off_by_one_here_and_there(by: int, count: int, failed: int) -> None:
    step, begin = integers()
    is_code = [n for n in step.graph.nodes if n.kwargs.get("dtype") is torch.uint8]
    place = step.graph.find_nodes(op="call_function", target=aten._to_copy.default).index(is_code[0])
    node, value = own(step, begin, aten._to_copy.default, place)
    moved = value.flatten().clone()
    moved[:count] = torch.where(moved[:count] > 100, moved[:count] - by, moved[:count] + by)
    oracle = Oracle(step, begin, {node: Stored(moved.reshape(value.shape))})
    oracle(torch.float32)
    assert len(rows(oracle.record)) == failed


def test_a_flag_may_flip_only_where_its_sides_are_near_each_other() -> None:
    graph = guarded()
    step = graph.step
    begin = start(step, graph.task, batch(MASKS["odd"]))
    node, mask = own(step, begin, aten.gt.Scalar, 0)
    flipped = mask.clone()
    flipped[0] = ~flipped[0]
    oracle = Oracle(step, begin, {node: Stored(flipped)})
    result = oracle(torch.float64)
    assert rows(oracle.record) == ["decisions not explained by rounding"]
    plain = Oracle(step, begin, {})(torch.float64)
    assert any(not torch.equal(result[key], plain[key]) for key in plain)


def cut_gradient(flag: Tensor, x: Tensor) -> Tensor:
    """The gradient of a ReLU, 50 where it passes, as codes."""
    cut = aten.where.self(flag, aten.mul.Scalar(x, 0.0), aten.full_like.default(x, 50.0))
    return aten._to_copy.default(cut, dtype=torch.int8)


def typed(function: Callable[..., object]) -> fx.GraphModule:
    graph = fx.symbolic_trace(function)
    for node in graph.graph.nodes:
        node.meta["val"] = torch.empty(4)
    return graph


def in_one() -> fx.GraphModule:
    return typed(lambda x: cut_gradient(aten.le.Scalar(x, 0.0), x))


def in_conditionals() -> fx.GraphModule:
    """The comparison in the forward of a guarded block, the gradient in its backward."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(4)
    some = graph.call_function(aten.full.default, ([], True))
    (flag,) = conditional(graph, some, [x], [torch.empty(4)], ("first", "first"))
    (code,) = conditional(graph, some, [flag, x], [torch.empty(4)], ("last", "last"))
    graph.output(code)
    branches = {
        "first": typed(lambda x: [aten.le.Scalar(x, 0.0)]),
        "last": typed(lambda flag, x: [cut_gradient(flag, x)]),
    }
    return fx.GraphModule(branches, graph)


@pytest.mark.parametrize("made", [in_one, in_conditionals])
@pytest.mark.parametrize(("at_the_kink", "far"), [(1e-9, 0.0), (0.1, 0.25)])
def test_a_code_behind_a_close_comparison_is_explained(
    made: Callable[[], fx.GraphModule], at_the_kink: float, far: float
) -> None:
    """A ReLU's gradient passed here and was cut in the program, whose kernel kept no mask."""
    module = made()
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    (code,) = (
        node for g in graphs for node in g.find_nodes(op="call_function", target=aten._to_copy.default)
    )
    stored = Stored(torch.tensor([50, 0, 0, 50], dtype=torch.int8))
    record: list[Decision] = []
    values = torch.tensor([1.0, -1.0, at_the_kink, 2.0])
    _Interpreter(module, {code: stored}, torch.float64, record).run(values)
    assert [(d.flipped, d.far) for d in record] == [(0.25, far)]


def test_the_other_side_of_a_kink_is_taken_where_asked() -> None:
    values = torch.tensor([1.0, -1.0, 1e-9, -1e-9])

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        return aten.le.Scalar(aten.relu.default(x), 0.0), aten.gt.Scalar(x, 0.0)

    graph = fx.symbolic_trace(gradient)
    own, flipped = (
        _Interpreter(graph, {}, torch.float64, [], is_flipped).run(values) for is_flipped in (False, True)
    )
    assert [t.tolist() for t in own] == [[False, True, False, True], [True, False, True, False]]
    assert [t.tolist() for t in flipped] == [[False, True, True, False], [True, False, False, True]]
