"""LayerGate's insertion: the masked graph computes what a network computes that really leaves blocks out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from e2compile.blocks import find_blocks
from e2compile.passes import LayerGate
from e2compile.pipeline import TrainingGraph, capture
from tests import models
from tests.decisions import Decisions
from tests.passes.gated import Oracle, Outcome
from tests.steps import Named, graph_steps, images

N = 6

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "basic and projected": (lambda: models.resnet_cifar(8), (N, 3, 16, 16)),
    "pre-activation": (lambda: models.preact_resnet(8), (N, 3, 16, 16)),
    "functional, in place": (models.functional_net, (N, 3, 32, 32)),
    "MobileNetV2": (lambda: nn.Sequential(*list(models.mobilenet_v2())[:9], *models._head(32, 10)), (N, 3, 16, 16)),
}

MASKS: dict[str, Callable[[int], Tensor]] = {
    "mixed": lambda i: torch.arange(N) % (i + 2) == 0,
    "all": lambda _: torch.ones(N, dtype=torch.bool),
    "none": lambda _: torch.zeros(N, dtype=torch.bool),
    "one": lambda i: torch.arange(N) == i % N,
}


def gated(name: str, first: bool = True, **options: object) -> TrainingGraph:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    # So that a new parameter is the old one less its gradient.
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return capture(model, images(shape), optimizer=optimizer).apply(LayerGate(first=first, **options))


def step_of(graph: TrainingGraph, masks: list[Tensor] | None = None, seed: int = 3) -> Named:
    step, added = graph.step, graph.forward.added
    with Decisions({f"slu.{i}": mask for i, mask in enumerate(masks or [])}):
        (result,) = graph_steps(step, graph.task, [graph.task.batch], seed, added=added)
    return result


def oracle_of(graph: TrainingGraph, **options: object) -> Oracle:
    blocks = find_blocks(graph.training.graph)[0]
    return Oracle(graph.task.model, graph.forward.added, [b.macs / sum(b.macs for b in blocks) for b in blocks], **options)


def assert_same(found: Named, expected: Outcome, graph: TrainingGraph) -> None:
    old = {n: p.detach() for n, p in [*graph.task.model.named_parameters(), *graph.forward.added.items()]}
    torch.testing.assert_close(found["loss loss"], expected.loss, rtol=1e-10, atol=1e-12)
    for name, buffer in expected.buffers.items():
        torch.testing.assert_close(found[f"buffer {name}"], buffer, rtol=1e-10, atol=1e-12, msg=name)
    for name, gradient in expected.gradients.items():
        got = old[name].double() - found[f"parameter {name}"]
        error = (got - gradient).norm() / (1 + gradient.norm())
        assert error < 1e-10, f"{name}: {error}"


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_that_of_a_network_that_leaves_samples_out(name: str, masks: str) -> None:
    graph = GRAPHS(name)
    count = len(find_blocks(graph.training.graph)[0])
    decided = [MASKS[masks](i) for i in range(count)]
    found = step_of(graph, decided)
    assert_same(found, oracle_of(graph, skip=0).step(graph.task.batch, decided), graph)
    assert [int(found[f"counter slu.{i}.executed"]) for i in range(count)] == [int(m.sum()) for m in decided]


_MADE: dict[str, TrainingGraph] = {}


def GRAPHS(name: str) -> TrainingGraph:
    return _MADE.setdefault(name, gated(name)) if name not in _MADE else _MADE[name]
