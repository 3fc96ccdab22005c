"""Quantise against the same arithmetic written by hand around PyTorch's autograd, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from e2compile.errors import UsageError
from e2compile.passes import LayerGate, Quantise, SignPredict
from e2compile.pipeline import capture
from tests.models import small_resnet
from tests.steps import graph_steps, images, sgd, task_of

LARGEST_GRADIENT = 127 * 256 + 127


def rounded(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    return (x / step + 0.5).floor().clamp(low, high)


def codes(x: Tensor, is_weight: bool) -> tuple[Tensor, Tensor]:
    """Eight bits, signed unless no element is negative, and the value of one."""
    signed = is_weight or bool((x < 0).any())
    levels, low, high = (128, -128, 127) if signed else (256, 0, 255)
    step = x.abs().max() / levels
    return rounded(x, step, low, high), step


def gradient_codes(g: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    step = g.abs().max() / 2**15
    code = rounded(g, step, -LARGEST_GRADIENT, LARGEST_GRADIENT)
    return (code if bits == 16 else ((code + 128) / 256).floor() * 256), step


class Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bits: int) -> Tensor:
        (qx, sx), (qw, sw) = codes(x, False), codes(w, True)
        ctx.save_for_backward(qx, sx, qw, sw)
        ctx.bits = bits
        return torch.nn.functional.conv2d(qx, qw, padding=1) * (sx * sw)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        qx, sx, qw, sw = ctx.saved_tensors
        qg, sg = gradient_codes(g, ctx.bits)
        dx = conv2d_input(qx.shape, qw, qg, padding=1) * (sg * sw)  # type: ignore[no-untyped-call]
        return dx, conv2d_weight(qx, qw.shape, qg, padding=1) * (sg * sx), None  # type: ignore[no-untyped-call]


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bits: int) -> Tensor:
        (qx, sx), (qw, sw) = codes(x, False), codes(w, True)
        ctx.save_for_backward(qx, sx, qw, sw)
        ctx.bits = bits
        return qx @ qw.T * (sx * sw)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        qx, sx, qw, sw = ctx.saved_tensors
        qg, sg = gradient_codes(g, ctx.bits)
        return qg @ qw * (sg * sw), qg.T @ qx * (sg * sx), None


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 10),
    )


@pytest.mark.parametrize("bits", [16, 8])
def test_a_step_is_that_of_quantised_products(bits: Any) -> None:
    model, batch = net(), images((4, 2, 6, 6))
    task = task_of(model, batch)
    item = Quantise(scale="max", scales="current", gradient_bits=bits)
    graph = capture(task.model, task.batch, optimizer=task.optimizer).apply(item)
    assert graph.stages[-1].changed == 5  # two convolutions, a linear layer and its gradients
    (found,) = graph_steps(graph.step, task, [batch])

    by_hand = net().double()
    first, second, linear = by_hand[0], by_hand[2], by_hand[6]
    x = torch.relu(Convolution.apply(batch[0].double(), first.weight, bits))  # type: ignore[no-untyped-call]
    x = Convolution.apply(x, second.weight, bits) + second.bias.reshape(-1, 1, 1)  # type: ignore[no-untyped-call]
    x = torch.relu(x).mean((2, 3))
    logits = Linear.apply(x, linear.weight, bits) + linear.bias  # type: ignore[no-untyped-call]
    loss = torch.nn.functional.cross_entropy(logits, batch[1])
    optimizer = sgd(by_hand.parameters())
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, parameter in by_hand.named_parameters():
        # both are float64; a code on a rounding boundary would differ by a whole step, far more
        torch.testing.assert_close(found[f"parameter {name}"], parameter.detach(), rtol=1e-9, atol=1e-12)


def test_what_signs_have_taken_is_left_to_them() -> None:
    batch = images((4, 1, 8, 8))
    graph = capture(small_resnet(4), batch).apply(SignPredict(stem=False), Quantise())
    changed = {stage.name: stage.changed for stage in graph.stages}
    # the stem, and the linear layer with its two gradients
    assert changed["int8"] == 1 + 3
    names = {s.target for s in graph.step.inputs if s.kind.is_state}
    assert "int8.0.x" in names
    assert "psg.0.x" not in names


def test_gates_keep_their_precision() -> None:
    graph = capture(small_resnet(4), images((4, 1, 8, 8))).apply(LayerGate(first=True), Quantise())
    names = {s.target for s in graph.step.inputs if s.target.startswith("int8.")}
    assert names
    assert not any("slu" in name for name in names)


@pytest.mark.parametrize(
    "options",
    [{"scale": "min"}, {"scales": "next"}, {"activation_bits": 9}, {"weight_bits": 1}, {"gradient_bits": 12}],
)
def test_options_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(UsageError, match=f"int8.{next(iter(options))}"):
        Quantise(**options)
