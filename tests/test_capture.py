"""Capture: golden texts, the user's lines on every node, draws by counter, what a model file may declare."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from e2compile.errors import CompileError, UsageError
from e2compile.graph import Kind, StepGraph, live_first, text, where
from e2compile.graph import verify as verify_graph
from e2compile.pipeline import TrainingGraph, capture, capture_task, forward_text
from e2compile.task import Task, load_task, make_task
from tests import models
from tests.conftest import Golden
from tests.steps import graph_steps, images, task_of

NET = """\
import torch
from torch import nn

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return torch.relu(y + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.block = Block()
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        y = torch.max_pool2d(self.block(self.stem(x)), 2)
        y = self.drop(y).flatten(1)
        return self.head(y)


def loss(output, target):
    return torch.nn.functional.cross_entropy(output, target)


model = Net()
batch = (torch.randn(2, 1, 4, 4), torch.tensor([0, 2]))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
"""


def loaded(folder: Path) -> Task:
    (folder / "net.py").write_text(NET)
    return load_task(str(folder / "net.py"))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return loaded(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def graph(net: Task) -> TrainingGraph:
    return capture_task(net)


def calls(graph: StepGraph) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function"]


def test_the_forward_graph_reads_as_written(graph: TrainingGraph, golden: Golden) -> None:
    golden.check(forward_text(graph.training))


def test_the_step_graph_reads_as_written(graph: TrainingGraph, golden: Golden) -> None:
    golden.check(text(graph.step))


def test_the_evaluation_graph_reads_as_written(graph: TrainingGraph, golden: Golden) -> None:
    golden.check(text(graph.evaluation_step))


def test_capturing_again_gives_the_same_text(net: Task, graph: TrainingGraph) -> None:
    again = capture_task(net)
    assert [s.text for s in again.stages] == [s.text for s in graph.stages]
    assert text(again.evaluation_step) == text(graph.evaluation_step)


def test_a_copy_reads_and_computes_the_same(net: Task, graph: TrainingGraph) -> None:
    step = graph.step
    copy = step.copy()
    assert text(copy) == text(step)
    for a, b in zip(graph_steps(step, net, [net.batch]), graph_steps(copy, net, [net.batch]), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_every_forward_and_backward_node_has_a_line_of_the_users_file(graph: TrainingGraph) -> None:
    step = graph.step
    theirs = live_first(
        [n for s, n in zip(step.outputs, step.results, strict=True) if s.kind is not Kind.METRIC]
    )
    nodes = [node for node in calls(step) if node.meta["phase"] != "update" and node in theirs]
    assert {node.meta["phase"] for node in nodes} == {"forward", "backward"}
    assert [str(node) for node in nodes if not where(node).startswith("net.py:")] == []


def test_a_backward_node_has_the_line_of_its_forward_one(graph: TrainingGraph) -> None:
    step = graph.step
    lines: dict[str, set[str]] = {}
    for node in calls(step):
        if node.target in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            lines.setdefault(node.meta["phase"], set()).add(f"{node.meta['module']} {node.meta['where']}")
    assert lines["backward"] == lines["forward"]
    assert len(lines["forward"]) == 2


def test_update_nodes_say_which_module_they_update(graph: TrainingGraph) -> None:
    step = graph.step
    update = [node for node in calls(step) if node.meta["phase"] == "update"]
    assert {node.meta["module"] for node in update} == {"stem", "block.conv", "block.norm", "head"}


@pytest.mark.parametrize("build", [models.functional_net, lambda: models.preact_resnet(8)])
def test_every_node_of_a_network_is_typed_and_placed(build: Any) -> None:
    graph = capture_task(task_of(build(), images((2, 3, 32, 32))))
    for step in (graph.step, graph.evaluation_step):
        verify_graph(step)
        assert all(node.meta["phase"] in ("forward", "backward", "update") for node in calls(step))


def test_no_state_is_computed_that_no_output_needs(graph: TrainingGraph) -> None:
    step = graph.step
    needed = live_first(step.results)
    assert [str(node) for node in calls(step) if node not in needed] == []


def test_capture_leaves_the_users_objects_alone(tmp_path: Path) -> None:
    net = loaded(tmp_path)
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    net.model.block.eval()
    modes = [module.training for module in net.model.modules()]
    _ = capture_task(net).step
    after = net.model.state_dict()
    assert [module.training for module in net.model.modules()] == modes
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert net.optimizer.state == {}
    assert all(parameter.grad is None for parameter in net.model.parameters())


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.conv(x)).mean((2, 3)))
        return logits


def test_draws_depend_on_seed_and_step_alone() -> None:
    task = task_of(Dropping(), images((4, 1, 6, 6), classes=3))
    graph = capture_task(task).step

    def loss(seed: int, step: int) -> float:
        return graph_steps(graph, task, [task.batch], seed, first=step)[0]["loss loss"].item()

    assert loss(3, 7) == loss(3, 7)
    assert len({loss(3, 7), loss(3, 8), loss(4, 7), loss(3 + 2**32, 7), loss(3, 7 + 2**32)}) == 5


def test_two_layers_of_a_step_draw_differently() -> None:
    class Twice(Dropping):
        def forward(self, x: Tensor) -> Tensor:
            kept = self.drop(torch.ones_like(x)), self.drop(torch.ones_like(x))
            return super().forward(kept[0] - kept[1])

    task = task_of(Twice(), images((4, 1, 6, 6), classes=3))
    draws = [n for n in calls(capture_task(task).step) if n.target is torch.ops.e2.uniform.default]
    assert [n.args[2] for n in draws] == [1, 2, 3]


def test_evaluation_draws_nothing() -> None:
    task = task_of(Dropping(), images((4, 1, 6, 6), classes=3))
    assert "uniform" not in text(capture_task(task).evaluation_step)


def test_evaluation_gives_each_samples_loss_and_correctness() -> None:
    task = task_of(models.small_resnet(), images((4, 1, 8, 8)), loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    graph = capture_task(task).evaluation_step
    found = graph_steps(graph, task, [task.batch])[0]
    model = models.small_resnet()
    model.load_state_dict(task.model.state_dict())
    output = model.double().eval()(task.batch[0].double())
    losses = nn.functional.cross_entropy(output, task.batch[1], label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(found["metric output"], output, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["metric loss"], losses, rtol=1e-9, atol=1e-9)
    assert found["metric correct"].tolist() == (output.argmax(1) == task.batch[1]).int().tolist()


def test_a_weighted_mean_of_a_loss_is_taken_sample_by_sample() -> None:
    weight = torch.tensor([0.5, 2.0, 1.0])
    task = task_of(Dropping(), images((4, 1, 6, 6), classes=3), loss=nn.CrossEntropyLoss(weight=weight))
    graph = capture_task(task).evaluation_step
    found = graph_steps(graph, task, [task.batch])[0]["metric loss"]
    output = task.model.double().eval()(task.batch[0].double())
    expected = [
        nn.functional.cross_entropy(o[None], t[None], weight=weight.double())
        for o, t in zip(output, task.batch[1], strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_control_flow_on_values_is_refused_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "branching.py"
    lines = ["        if y.sum() > 0:", "            y = -y", "        return self.head(y)"]
    source = NET.replace("        return self.head(y)", "\n".join(lines))
    path.write_text(source)
    with pytest.raises(CompileError, match="cannot be traced") as caught:
        capture_task(load_task(str(path)))
    assert caught.value.where == (f"branching.py:{1 + source.splitlines().index(lines[0])}",)


def test_a_function_of_a_file_makes_the_task(tmp_path: Path) -> None:
    path = tmp_path / "several.py"
    path.write_text(NET + "\ndef other():\n    return {'model': Net(), 'batch': batch, 'epochs': 3}\n")
    assert load_task(f"{path}:other").epochs == 3
    assert load_task(str(path)).epochs == 1


def test_the_defaults_are_cross_entropy_and_sgd() -> None:
    task = make_task(Dropping(), images((4, 1, 6, 6), classes=3))
    group = task.optimizer.param_groups[0]
    assert isinstance(task.loss, nn.CrossEntropyLoss)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)


def test_a_task_starts_from_a_given_state(tmp_path: Path) -> None:
    net = loaded(tmp_path)
    state = {
        name: torch.randn_like(t) if t.is_floating_point() else t
        for name, t in net.model.state_dict().items()
    }
    save_file(state, tmp_path / "state.safetensors")
    task = load_task(str(tmp_path / "net.py"), init=tmp_path / "state.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in task.model.state_dict().items())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "does not define model and batch"),
        ("model = 3\nbatch = ()\n", "not a torch.nn.Module"),
        (NET + "batch = (torch.randn(2, 1, 4, 4),)\n", "inputs of the model, then the target"),
        (NET + "batch = (batch[0], batch[1][:1])\n", "number of samples"),
        (NET + "epochs = 0\n", "epochs must be a positive integer"),
        (NET + "1 / 0\n", "division by zero"),
        (NET + "def (:\n", "SyntaxError"),
        (
            NET + "schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n",
            "ReduceLROnPlateau depends on measured losses",
        ),
        (
            NET + "schedule = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters()), 1)\n",
            "another optimizer",
        ),
    ],
)
def test_a_file_that_is_no_task_is_refused(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(source)
    with pytest.raises(UsageError, match=message):
        load_task(str(path))


def test_an_error_in_the_users_file_names_their_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import torch\n\nmodel = torch.nn.Linear('x', 2)\n")
    with pytest.raises(UsageError, match=r"broken.py:3"):
        load_task(str(path))


def test_a_missing_file_or_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        load_task(str(tmp_path / "nothing.py"))
    (tmp_path / "net.py").write_text(NET)
    with pytest.raises(UsageError, match="has no function 'absent'"):
        load_task(f"{tmp_path / 'net.py'}:absent")


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "state.safetensors")
    with pytest.raises(UsageError, match="does not fit the model"):
        load_task(str(tmp_path / "net.py"), init=tmp_path / "state.safetensors")
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_task(str(tmp_path / "net.py"), init=tmp_path / "state.safetensors")


def test_only_passes_can_be_applied(graph: TrainingGraph) -> None:
    with pytest.raises(CompileError, match="is not a pass"):
        graph.apply("smd")  # type: ignore[arg-type]


def test_stages_can_be_read_by_name() -> None:
    graph = capture(Dropping(), images((4, 1, 6, 6), classes=3))
    assert isinstance(graph, TrainingGraph)
    assert [s.name for s in graph.stages] == ["captured", "differentiated"]
    assert graph.text() == graph.text("differentiated")
    with pytest.raises(KeyError):
        graph.text("nothing")


def test_gradients_of_numpy_reference() -> None:
    """A linear model's step by hand, so that not everything is compared with autograd."""
    model = nn.Linear(3, 2)
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    task = make_task(model, (x, y), nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.5))
    found = graph_steps(capture_task(task).step, task, [task.batch])[0]
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    residual = x.double().numpy() @ weight.T + bias - y.double().numpy()
    np.testing.assert_allclose(found["loss loss"], (residual**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(
        found["parameter weight"],
        weight - 0.5 * 2 * residual.T @ x.double().numpy() / residual.size,
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        found["parameter bias"], bias - 0.5 * 2 * residual.sum(0) / residual.size, rtol=1e-9
    )
