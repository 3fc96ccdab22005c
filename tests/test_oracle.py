"""The oracle takes a program's decisions, and tells which of them rounding does not explain."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from e2compile.graph import Kind, Slot, StepGraph, conditional
from e2compile.ops import INTEGER_CONVOLUTION
from e2compile.passes import SignPredict
from e2compile.pipeline import capture
from e2compile.verification.oracle import Decision, Oracle, Stored
from e2compile.verification.replay import Start, Values, arguments_of
from e2compile.verification.verify import _decided, _is_safe_channels_last
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
    _, decisions = Oracle(step, begin, {node: Stored(change(value))}).judged()
    assert rows(decisions) == failed


@pytest.mark.parametrize(("by", "count", "failed"), [(1, 1, 0), (2, 1, 1), (1, 40, 1)])
def test_a_code_may_be_off_by_one_here_and_there(by: int, count: int, failed: int) -> None:
    step, begin = integers()
    is_code = [n for n in step.graph.nodes if n.kwargs.get("dtype") is torch.uint8]
    place = step.graph.find_nodes(op="call_function", target=aten._to_copy.default).index(is_code[0])
    node, value = own(step, begin, aten._to_copy.default, place)
    moved = value.flatten().clone()
    moved[:count] = torch.where(moved[:count] > 100, moved[:count] - by, moved[:count] + by)
    _, decisions = Oracle(step, begin, {node: Stored(moved.reshape(value.shape))}).judged()
    assert len(rows(decisions)) == failed


def test_a_flag_may_flip_only_where_its_sides_are_near_each_other() -> None:
    graph = guarded()
    step = graph.step
    begin = start(step, graph.task, batch(MASKS["odd"]))
    node, mask = own(step, begin, aten.gt.Scalar, 0)
    flipped = mask.clone()
    flipped[0] = ~flipped[0]
    result, decisions = Oracle(step, begin, {node: Stored(flipped)}).judged()
    assert rows(decisions) == ["decisions not explained by rounding"]
    plain = Oracle(step, begin, {})(torch.float64)
    assert any(not torch.equal(result[key], plain[key]) for key in plain)


def cut_gradient(flag: Tensor, x: Tensor) -> Tensor:
    """The gradient of a ReLU, 50 where it passes, less its mean, as codes."""
    cut = aten.where.self(flag, aten.mul.Scalar(x, 0.0), aten.full_like.default(x, 50.0))
    return aten._to_copy.default(aten.sub.Tensor(cut, aten.mean.default(cut)), dtype=torch.int8)


def in_one() -> fx.GraphModule:
    return fx.symbolic_trace(lambda x: [cut_gradient(aten.le.Scalar(x, 0.0), x)])


def in_conditionals() -> fx.GraphModule:
    """The comparison in the forward of a guarded block, the gradient in its backward."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(4)
    some = graph.call_function(aten.full.default, ([], True))
    (flag,) = conditional(graph, some, [x], [torch.empty(4)], ("first", "first"))
    (code,) = conditional(graph, some, [flag, x], [torch.empty(4)], ("last", "last"))
    graph.output([code])
    branches = {
        "first": fx.symbolic_trace(lambda x: [aten.le.Scalar(x, 0.0)]),
        "last": fx.symbolic_trace(lambda flag, x: [cut_gradient(flag, x)]),
    }
    return fx.GraphModule(branches, graph)


@pytest.mark.parametrize("made", [in_one, in_conditionals])
@pytest.mark.parametrize(
    ("at_the_kink", "program", "far"),
    [
        # passes: 50 twice, 25 less a mean of 37; cut: a mean of 25
        (1e-9, [25, -25, -25, 25], 0.0),
        (1e-9, [12, -38, 12, 12], 0.0),
        (1e-9, [25, -25, -35, 25], 0.25),
        (1e-9, [12, -38, 12, 1], 0.25),
        (0.1, [25, -25, -25, 25], 1.0),
    ],
)
def test_codes_behind_a_close_comparison_are_explained(
    made: Callable[[], fx.GraphModule], at_the_kink: float, program: list[int], far: float
) -> None:
    """The third gradient passed here and may have been cut in the program, whose kernel kept no mask. That
    moves its own code, and through the mean the others; but none of them further."""
    module = made()
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    (code,) = (
        node for g in graphs for node in g.find_nodes(op="call_function", target=aten._to_copy.default)
    )
    begin = Start({}, (torch.tensor([1.0, -1.0, at_the_kink, 2.0]),), 0, 0, [])
    step = StepGraph(module, (Slot(Kind.DATA, "0"),), (Slot(Kind.METRIC, "codes"),))
    _, (decision,) = Oracle(step, begin, {code: Stored(torch.tensor(program, dtype=torch.int8))}).judged()
    assert decision.far == far


def test_the_other_side_of_a_kink_is_taken_where_asked() -> None:
    values = torch.tensor([1.0, -1.0, 1e-9, -1e-9])

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        return aten.le.Scalar(aten.relu.default(x), 0.0), aten.gt.Scalar(x, 0.0)

    results = (Slot(Kind.METRIC, "cut"), Slot(Kind.METRIC, "positive"))
    step = StepGraph(fx.symbolic_trace(gradient), (Slot(Kind.DATA, "0"),), results)
    oracle = Oracle(step, Start({}, (values,), 0, 0, []), {})
    own, flipped = (oracle(torch.float64, flip=flip).values() for flip in (0.0, 1e-6))
    assert [t.tolist() for t in own] == [[False, True, False, True], [True, False, True, False]]
    assert [t.tolist() for t in flipped] == [[False, True, True, False], [True, False, False, True]]


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "safe"),
    [(4, 1, 2, False), (8, 1, 2, True), (4, 1, 1, True), (4, 3, 2, True)],
)
def test_channels_last_is_left_out_where_pytorch_writes_beyond_its_memory(
    channels: int, kernel: int, stride: int, safe: bool
) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, kernel, stride),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    )
    graph = capture(model, (torch.randn(2, channels, 8, 8), torch.tensor([0, 2])))
    assert _is_safe_channels_last(graph.captured) == safe
