"""What has no lowering is named all at once, with the user's lines."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from e2compile.differentiate import differentiate, evaluation_graph
from e2compile.errors import CompileError
from e2compile.forward import capture_forward
from e2compile.graph import StepGraph
from e2compile.lower.flat import fused
from e2compile.lower.kinds import check
from e2compile.task import Task, make_task
from tests.lower.compiling import called, traced

aten = torch.ops.aten


class Unsupported(nn.Module):
    """Three operators without a lowering, one of them on two lines."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 3, 3))
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv_transpose2d(x, self.weight)
        x = torch.cumsum(x, 2)
        x = torch.cumsum(x, 3)
        x = torch.sort(x.mean((2, 3)), 1).values
        return self.linear(x)


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task(Unsupported(), (torch.randn(2, 3, 8, 8), torch.tensor([1, 2])))


def complaint(graph: StepGraph) -> CompileError:
    with pytest.raises(CompileError) as caught:
        check(graph.graph)
    return caught.value


@pytest.fixture(scope="module")
def evaluated(task: Task) -> StepGraph:
    return evaluation_graph(capture_forward(task, training=False), task)


def test_every_operator_is_named_once(evaluated: StepGraph) -> None:
    error = complaint(evaluated)
    assert "3 operators have no lowering" in str(error)
    assert [line.split(":")[0] for line in error.where] == [
        "aten.convolution transposed",
        "aten.cumsum",
        "aten.sort",
    ]


def test_all_of_the_users_lines_are_given(evaluated: StepGraph) -> None:
    convolution, cumsum, sort = complaint(evaluated).where
    assert "x = functional.conv_transpose2d(x, self.weight)" in convolution
    assert "x = torch.cumsum(x, 2)" in cumsum
    assert "x = torch.cumsum(x, 3)" in cumsum
    assert "x = torch.sort(x.mean((2, 3)), 1).values" in sort
    assert all("test_unsupported.py:" in line for line in (convolution, cumsum, sort))


def test_a_training_step_names_its_backward_too(task: Task) -> None:
    error = complaint(differentiate(capture_forward(task, training=True), task))
    named = {line.split(":")[0] for line in error.where}
    assert {"aten.convolution transposed", "aten.convolution_backward transposed", "aten.cumsum"} <= named
    assert all("test_unsupported.py:" in line for line in error.where)


def test_what_has_no_lowering_is_refused_before_calls_are_fused(evaluated: StepGraph) -> None:
    with pytest.raises(CompileError, match="no lowering"):
        fused(evaluated)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "aten.div.Tensor_mode"),
        (lambda x: x.argmax(), "aten.argmax over several dimensions"),
        (lambda x: x[:1].argmax(0), "aten.argmax over a single value"),
        (lambda x: torch.var_mean(x[:1], 0, correction=0)[0], "aten.var_mean.correction over a single value"),
        (
            lambda x: torch.scatter(x, 1, torch.zeros(5, 2, dtype=torch.int64), 1.0),
            "aten.scatter.value of several",
        ),
        (lambda x: torch.erf(x.double()), "aten.erf in torch.float64"),
        (lambda x: functional.conv1d(x[None], torch.ones(2, 5, 3)), "aten.convolution of 1 dimensions"),
        (lambda x: functional.adaptive_avg_pool2d(x[None], (2, 3)), "windows of different sizes"),
        (lambda x: torch.complex(x, x), "aten.complex"),
    ],
)
def test_an_option_without_a_lowering_is_named(function: object, name: str) -> None:
    assert name in str(complaint(traced(function, torch.randn(5, 4)).graph))  # type: ignore[arg-type]


def test_what_can_be_lowered_passes() -> None:
    check(called(aten.relu.default, [torch.randn(3)], {}).graph.graph)
