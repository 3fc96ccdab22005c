"""e2.batch_norm: PyTorch's own on the live samples, forward, backward and running statistics."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2compile.graph import text
from e2compile.ops import batch_norm
from e2compile.passes import LayerGate
from e2compile.pipeline import capture
from tests.decisions import Decisions
from tests.steps import graph_steps, images

SHAPE = (5, 3, 4, 2)


def tensors(affine: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    random = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=random, dtype=torch.float64) for s in (SHAPE, (3,), (3,)))
    return x.requires_grad_(), w.requires_grad_() if affine else None, b.requires_grad_() if affine else None


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("live", [[0, 3, 4], [2], [0, 1, 2, 3, 4]])
def test_is_the_norm_of_the_live_part(affine: bool, live: list[int]) -> None:
    mask = torch.zeros(5, dtype=torch.bool)
    mask[live] = True
    grad = torch.randn(SHAPE, dtype=torch.float64) * mask.reshape(-1, 1, 1, 1)
    x, w, b = tensors(affine)
    y, variance, mean, rstd = batch_norm(x, mask, w, b, 1e-3)
    other, v, c = tensors(affine)
    expected = F.batch_norm(other[live], None, None, v, c, training=True, eps=1e-3)
    torch.testing.assert_close(y[live], expected)
    torch.testing.assert_close(variance, other[live].transpose(0, 1).flatten(1).var(1, correction=0))
    torch.testing.assert_close(rstd, (variance + 1e-3) ** -0.5)
    wanted = [t for t in (other, v, c) if t is not None]
    expected_grads = torch.autograd.grad(expected, wanted, grad[live])
    grads = torch.autograd.grad(y, [t for t in (x, w, b) if t is not None], grad)
    for found, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(found, reference)
    assert mean.shape == (3,)


def test_without_a_live_sample_all_is_finite_and_no_gradient_leaves() -> None:
    x, w, b = tensors(True)
    y, variance, mean, _ = batch_norm(x, torch.zeros(5, dtype=torch.bool), w, b, 1e-3)
    assert y.isfinite().all()
    assert not variance.any()
    assert not mean.any()
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert not dx.any()


class Net(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(2, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return (x + self.norm(self.conv(x))).mean((2, 3))


@pytest.mark.parametrize(("width", "live"), [(1, 0), (1, 1), (1, 2), (3, 1), (3, 0)])
def test_fewer_than_two_values_leave_running_statistics_as_they_were(width: int, live: int) -> None:
    torch.manual_seed(0)
    model = Net()
    graph = capture(model, images((4, 1, width, width), classes=2)).apply(LayerGate(first=True))
    step, added = graph.step, graph.forward.added
    with Decisions({"slu.0": torch.arange(4) < live}):
        (found,) = graph_steps(step, graph.task, [graph.task.batch], added=added)
    model.double().train()
    if live * width * width >= 2:
        with torch.no_grad():
            model.norm(model.conv(model.stem(graph.task.batch[0].double()))[:live])
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(found[f"buffer {name}"], buffer)
    assert int(found["buffer norm.num_batches_tracked"]) == int(live * width * width >= 2)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_norms_without_parameters_or_statistics_are_masked_too(options: dict[str, bool]) -> None:
    graph = capture(Net(**options), images((4, 1, 3, 3), classes=2)).apply(LayerGate(first=True))
    assert "e2.batch_norm" in graph.text("slu")
    assert "e2.moments" in graph.text("differentiated")
    step, added = graph.step, graph.forward.added
    (found,) = graph_steps(step, graph.task, [graph.task.batch], added=added)
    assert found["loss loss"].isfinite()
    assert ("e2.moments" in text(graph.evaluation_step)) == ("track_running_stats" in options)
