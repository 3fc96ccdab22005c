"""Counted work against counts by hand: contractions, norms, updates, guards."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from e2compile.energy.arithmetic import RULES
from e2compile.energy.count import count, count_evaluation
from e2compile.energy.work import STEP, Amounts, Condition, Work, from_rows, to_rows
from e2compile.errors import UsageError
from e2compile.lower.kinds import CONSTANTS, OPERATORS
from e2compile.lower.views import VIEWS
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import TrainingGraph, capture
from tests import models
from tests.guarded import SAMPLES, guarded
from tests.steps import images, sgd

# Million products of the two shortcuts' convolutions, 16 to 32 and 32 to 64 channels.
SHORTCUTS = 2 * 32 * 16 * 16 * 16 / 1e6
CONTRACTIONS = ("aten.convolution", "aten.convolution_backward", "aten.mm")


def captured(model: nn.Module, shape: Sequence[int], make: object = sgd) -> TrainingGraph:
    return capture(model, images(shape), nn.CrossEntropyLoss(), make(model.parameters()))  # type: ignore[operator]


def part(work: Work, phase: str, *operators: str, module: str | None = None) -> Amounts:
    chosen = [
        i
        for i in work.items
        if i.phase == phase
        and (not operators or i.operator in operators)
        and (module is None or i.module == module)
    ]
    return Work(tuple(chosen)).totals()


def test_every_operator_that_has_a_lowering_has_a_rule() -> None:
    free = {*VIEWS, *CONSTANTS}
    assert {str(op) for op in OPERATORS} - {str(op) for op in (*RULES, *free)} == {
        "<built-in function getitem>"
    }


def test_a_convolution() -> None:
    """Two images, 3 to 4 channels, 3 x 3 at stride 2 on 8 x 8 pixels: 4 x 4 results of 27 products each."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 10)
    )
    work = count(captured(model, (2, 3, 8, 8)).step)
    results, weights = 2 * 4 * 16, 4 * 27
    first = part(work, "forward", "aten.convolution", module="0")
    assert first == {
        "mac.float32": results * 27,
        "add.float32": results,
        "read.dram": 4 * (2 * 3 * 64 + weights + 4),
        "write.dram": 4 * results,
    }
    gradient = part(work, "backward", "aten.convolution_backward", module="0")
    assert gradient["mac.float32"] == results * 27  # of the weight alone: nobody asks for that of the images
    grouped = 2 * 4 * 4 * 18
    assert part(work, "forward", "aten.convolution", module="1")["mac.float32"] == grouped
    assert part(work, "backward", "aten.convolution_backward", module="1")["mac.float32"] == 2 * grouped


def test_a_linear_layer_and_its_update() -> None:
    """Five rows of 6 values to 10: the loss's gradient is the weight's alone."""
    work = count(captured(nn.Sequential(nn.Flatten(), nn.Linear(6, 10)), (5, 1, 2, 3)).step)
    forward = part(work, "forward", "aten.mm")
    assert forward == {"mac.float32": 300, "read.dram": 4 * (30 + 60), "write.dram": 4 * 50}
    assert part(work, "backward", "aten.mm")["mac.float32"] == 300
    update = part(work, "update")
    values = 60 + 10
    # decay, momentum and rate: three products and three sums; the rate is read by each of the two tensors
    assert (update["multiply.float32"], update["add.float32"]) == (3 * values, 3 * values)
    assert update["write.dram"] % (4 * values) == 0


def test_a_batch_norm() -> None:
    """Variance and mean of 2 x 16 values in each of 4 channels."""
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 10))
    work = count(captured(model, (2, 4, 4, 4)).step)
    moments = part(work, "forward", "aten.var_mean", "aten.var_mean.correction")
    values = 2 * 4 * 16
    assert moments["add.float32"] == 3 * values
    assert (moments["multiply.float32"], moments["special.float32"]) == (values, 2 * 4)
    assert moments["read.dram"] == 4 * values
    assert part(work, "forward", "aten.rsqrt")["special.float32"] == 4


def test_resnet20_has_its_known_products() -> None:
    """40.81 million an image: 40.55 with shortcuts without weights, and two 1 x 1 convolutions."""
    graph = captured(models.resnet_cifar(20), (2, 3, 32, 32))
    work, shortcuts = count(graph.captured), 2 * 16 * 32 * 16 * 16
    forward = part(work, "forward", *CONTRACTIONS)["mac.float32"] / 2
    assert forward - shortcuts == pytest.approx(40.55e6, rel=1e-3)
    stem = 32 * 32 * 16 * 27
    assert part(work, "backward", *CONTRACTIONS)["mac.float32"] / 2 == 2 * forward - stem
    evaluation = part(count_evaluation(graph.evaluation_step), "evaluation")
    assert evaluation["mac.float32"] / 2 == forward
    assert work.totals()["mac.float32"] == 2 * (3 * forward - stem)


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [("vgg16_bn", (1, 3, 32, 32), 313.2), ("resnet18", (1, 3, 224, 224), 1814.1)],
)
def test_networks_have_their_published_products(name: str, shape: Sequence[int], millions: float) -> None:
    graph = captured(getattr(models, name)(), (2, *shape[1:]))
    forward = part(count(graph.captured), "forward", *CONTRACTIONS)["mac.float32"] / 2
    assert forward / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (lambda: models.resnet_cifar(20), 40.55 + SHORTCUTS),
        (lambda: models.resnet_cifar(74), 40.55 + (252.89 - 40.55) * 9 / 15 + SHORTCUTS),
        (lambda: models.resnet_cifar(110), 252.89 + SHORTCUTS),
        (models.mobilenet_v2, 87.98),
        (models.vgg16_bn, 313.2),
    ],
    ids=["resnet20", "resnet74", "resnet110", "mobilenet_v2", "vgg16_bn"],
)
def test_products_are_those_that_pytorch_counts(make: Callable[[], nn.Module], millions: float) -> None:
    """And the published ones, with two shortcuts of 1 x 1 where those have none with weights.

    ResNet-20 and -110: He et al., Soft filter pruning, IJCAI 2018 (4.06e7, 2.53e8). VGG-16: Li et al.,
    Pruning filters for efficient ConvNets, ICLR 2017 (3.13e8). ResNet-74 is not tabulated: 9 of the 15 blocks
    a stage by which the other two differ. MobileNetV2 with strides for 32 x 32: the table of the repository
    chenyaofo/pytorch-cifar-models, recalled.
    """
    model, (x, y) = make(), images((2, 3, 32, 32))
    evaluation = count_evaluation(capture(model, (x, y)).evaluation_step)
    counted = part(evaluation, "evaluation")["mac.float32"]
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model.eval()(x)
    assert counted == flops.get_total_flops() / 2
    assert counted / 2e6 == pytest.approx(millions, rel=2e-3)


def test_a_dropped_step_does_nothing_but_ask() -> None:
    graph = captured(models.small_resnet(), (2, 1, 8, 8)).apply(BatchDrop(p=0.25))
    work, plain = count(graph.step), count(graph.captured)
    assert work.symbols == {STEP}
    draw = work.at({STEP: 0}).totals()
    assert "mac.float32" not in {q for q, amount in draw.items() if amount}
    assert sum(draw.values()) < 200
    assert work.at({STEP: 0.75}).totals()["mac.float32"] == 0.75 * plain.totals()["mac.float32"]


def test_a_blocks_work_follows_its_live_samples() -> None:
    work = count(guarded().step)
    both = frozenset({"block.0", "block.1"})
    assert work.symbols == both
    full, none, half = (work.at(dict.fromkeys(both, share)).totals() for share in (1, 0, 0.5))
    assert half["mac.float32"] == pytest.approx((full["mac.float32"] + none["mac.float32"]) / 2)
    assert none["mac.float32"] < full["mac.float32"] / 2
    whole = {c for item in work.items for c in item.when if c.samples}
    assert whole == {Condition(name, SAMPLES) for name in both}
    assert Condition("block.0", 2).probability(0.5) == 0.75


def test_gates_and_predicted_signs_are_symbols() -> None:
    graph = captured(models.small_resnet(), (2, 1, 8, 8)).apply(
        LayerGate(), SignPredict(fallback="layer"), BatchDrop()
    )
    work = count(graph.step)
    assert {STEP, "slu.0", "psg.0"} <= work.symbols
    known = dict.fromkeys(work.symbols, 1.0)
    with_fallback, without = (
        work.at(known | {name: share for name in known if name.startswith("psg")}).totals()["mac.int8"]
        for share in (1.0, 0.0)
    )
    assert with_fallback > without > 0


def test_what_is_not_known_is_no_zero() -> None:
    work = count(guarded().step)
    with pytest.raises(UsageError, match="executed of block"):
        work.totals()
    with pytest.raises(UsageError, match="not between 0 and 1"):
        work.at({"block.0": 1.5})


def test_work_reads_back() -> None:
    work = count(guarded().step)
    assert from_rows(to_rows(work)) == work
