"""Steps of a captured graph in PyTorch, and the same steps of the user's own modules, both in float64."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2compile.differentiate import differentiate
from e2compile.forward import capture_forward
from e2compile.graph import Kind, StepGraph, in_float64, verify
from e2compile.task import Task, make_task
from e2compile.verification.replay import CounterDraws

Batch = tuple[Tensor, ...]
Named = dict[str, Tensor]
MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


def images(shape: Sequence[int], classes: int = 10, seed: int = 0) -> Batch:
    """A batch of noise with class numbers."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=random), torch.randint(
        0, classes, (shape[0],), generator=random
    )


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def task_of(model: nn.Module, batch: Batch, make: MakeOptimizer = sgd, loss: Any = None) -> Task:
    return make_task(model, batch, loss, make(model.parameters()))


def state_of(task: Task, graph: StepGraph, added: Mapping[str, Tensor] | None = None) -> Named:
    """The state a run starts from, by the slots of a graph; what the optimizer has not made yet is zero.

    `added` are the parameters that passes brought.
    """
    known = dict(added or {})
    known |= {n: t.detach() for n, t in [*task.model.named_parameters(), *task.model.named_buffers()]}
    if isinstance(task.loss, nn.Module):
        known |= {
            f"loss.{n}": t.detach() for n, t in [*task.loss.named_parameters(), *task.loss.named_buffers()]
        }
    for name, parameter in task.model.named_parameters():
        for key, value in task.optimizer.state.get(parameter, {}).items():
            known[f"{name}.{key}"] = value
    result = {}
    for slot, node in zip(graph.inputs, graph.placeholders, strict=True):
        if slot.kind.is_state:
            value = known.get(slot.target)
            shape, dtype = node.meta["val"].shape, node.meta["val"].dtype
            result[str(slot)] = torch.zeros(shape, dtype=dtype) if value is None else value.clone()
    return result


def double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def graph_steps(
    graph: StepGraph,
    task: Task,
    batches: Sequence[Batch],
    seed: int = 0,
    first: int = 0,
    added: Mapping[str, Tensor] | None = None,
) -> list[Named]:
    """What each of several consecutive steps of a graph gives, by slot."""
    state, results, module = state_of(task, graph, added), [], in_float64(graph.module)
    rates = torch.tensor([float(g["lr"]) for g in task.optimizer.param_groups], dtype=torch.float64)
    for step, batch in enumerate(batches, first):
        plain = {Kind.SEED: torch.tensor(seed), Kind.STEP: torch.tensor(step), Kind.RATE: rates}
        arguments = []
        for slot in graph.inputs:
            value = state[str(slot)] if slot.kind.is_state else plain.get(slot.kind)
            arguments.append(double(batch[int(slot.target)] if value is None else value))
        with torch.no_grad():
            values = module(*arguments)
        named = {str(slot): value.clone() for slot, value in zip(graph.outputs, values, strict=True)}
        state |= {name: value for name, value in named.items() if name in state}
        results.append(state | named)
    return results


def eager_steps(task: Task, batches: Sequence[Batch], seed: int = 0) -> list[Named]:
    """The same of copies of the user's modules and optimizer."""
    model, loss, optimizer = copy.deepcopy((task.model, task.loss, task.optimizer))
    model.double().train()
    if isinstance(loss, nn.Module):
        loss.double()
    for state in optimizer.state.values():
        state |= {key: double(value) for key, value in state.items() if isinstance(value, Tensor)}
    results = []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        with CounterDraws(seed, step):
            value = loss(model(*map(double, batch[:-1])), double(batch[-1]))
        value.backward()
        optimizer.step()
        results.append({"loss loss": value.detach()} | _eager_state(model, optimizer))
    return results


def _eager_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Named:
    named = {f"buffer {name}": buffer.detach().clone() for name, buffer in model.named_buffers()}
    for name, parameter in model.named_parameters():
        named[f"parameter {name}"] = parameter.detach().clone()
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                named[f"optimizer state {name}.{key}"] = value.clone()
    return named


def assert_equal(found: Sequence[Named], expected: Sequence[Named], tolerance: float = 1e-9) -> None:
    """Every value of the graph that eager PyTorch has too is the same, and the graph leaves out no state."""
    assert len(found) == len(expected)
    for step, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        assert {name for name in wanted if name.startswith(("parameter", "optimizer"))} <= set(got)
        for name in sorted(set(got) & set(wanted)):
            error = (got[name].double() - wanted[name].double()).norm()
            assert error <= tolerance * (1 + wanted[name].double().norm()), (
                f"step {step}: {name} is off by {error}"
            )


def assert_captured_equals_eager(task: Task, steps: int = 3, seed: int = 5) -> StepGraph:
    """Differentiate a task and compare consecutive steps on batches of fresh noise."""
    batches = [task.batch, *(_noise_like(task.batch, step) for step in range(1, steps))]
    graph = differentiate(capture_forward(task, training=True), task)
    verify(graph)
    assert_equal(graph_steps(graph, task, batches, seed), eager_steps(task, batches, seed))
    return graph


def _noise_like(batch: Batch, seed: int) -> Batch:
    """Another batch of the same shapes: fresh noise, class numbers in another order."""
    random = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(t.shape, generator=random) if t.is_floating_point() else t.roll(seed) for t in batch
    )
