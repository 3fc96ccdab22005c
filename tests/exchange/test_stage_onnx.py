"""Stages as ONNX: each operator, and whole steps with conditionals, compute what PyTorch does."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch._ops import OpOverload

from e2compile.errors import UsageError
from e2compile.exchange.dot import dot
from e2compile.exchange.model import inference_model, stage_model
from e2compile.exchange.values import ATEN, E2, Type, types
from e2compile.graph import Kind, StepGraph
from e2compile.ops import SCALED
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import TrainingGraph, capture, capture_task
from tests import models
from tests.exchange.opaque import IMPLEMENTATIONS
from tests.exchange.stages import saved
from tests.lower.compiling import assert_same, called
from tests.lower.test_operators import SAMPLES, named_samples
from tests.steps import images, sgd, state_of, task_of

# What ONNX has no operator for, or, as of a pooling that counts its own divisor, none for some options.
FOREIGN = {
    "aten.convolution_backward.default",
    "aten.avg_pool2d.default",
    "aten.avg_pool2d_backward.default",
    "aten.max_pool2d_with_indices_backward.default",
    "aten._adaptive_avg_pool2d_backward.default",
    "aten.slice_scatter.default",
}
FUNCTIONS = {"guard", "integer_convolution"}
# ONNX has no expm1 and no log1p: what a sum with one loses is one epsilon of that one
LOSSY = ("aten.expm1.default", "aten.log1p.default")
EPSILON = 2**-22


def run(model: onnx.ModelProto, inputs: list[Any]) -> list[Tensor]:
    """By ONNX Runtime, or by the reference evaluator where that has no kernel for a type."""
    feeds = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        found = session.run(None, feeds)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        found = ReferenceEvaluator(model).run(None, feeds)
    return [torch.from_numpy(np.array(array)) for array in found]


@pytest.mark.parametrize("target", [target for target in SAMPLES if target not in SCALED], ids=str)
def test_an_operator_computes_what_aten_computes(target: OpOverload) -> None:
    """Infinities and NaN apart, which ONNX leaves to what runs it."""
    for name, other, sample in named_samples():
        if other is not target:
            continue
        case = called(target, sample.args, sample.kwargs)
        model = stage_model(saved(case.graph))
        foreign = {node.domain for node in model.graph.node} - {"", E2}
        own = {node.op_type for node in model.graph.node if node.domain == E2} - FUNCTIONS
        assert not foreign or str(target) in FOREIGN, name
        assert not own or str(target).startswith("e2."), name
        is_finite = all(bool(t.isfinite().all()) for t in case.inputs if t.is_floating_point())
        if is_finite and not foreign and not own:
            atol = EPSILON if str(target) in LOSSY else sample.atol
            assert_same(run(model, [t.numpy() for t in case.inputs]), case.expected(), sample.rtol, atol)


PASSES = {
    "none": (),
    "slu": (LayerGate(first=True),),
    "psg": (SignPredict(fallback="layer", unsure_limit=0.2),),
    "all": (BatchDrop(), LayerGate(first=True), SignPredict(fallback="layer", unsure_limit=0.2)),
}


BATCH = images((4, 3, 16, 16))


@cache
def step_of(names: str) -> tuple[TrainingGraph, onnx.ModelProto]:
    torch.manual_seed(0)
    graph = capture_task(task_of(models.functional_net(4), BATCH)).apply(*PASSES[names])
    return graph, stage_model(saved(graph.step))


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("names", PASSES)
def test_a_whole_step_computes_what_pytorch_computes(names: str, step: int) -> None:
    """Steps of seed 0 that are kept and one that is dropped; conditionals whose branches are both taken."""
    graph, model = step_of(names)
    state = state_of(graph.task, graph.step, graph.forward.added)
    inputs = step_inputs(graph.step, state, BATCH, step)
    evaluator = ReferenceEvaluator(model, new_ops=IMPLEMENTATIONS)
    found = evaluator.run(None, dict(zip((v.name for v in model.graph.input), inputs, strict=True)))
    with torch.no_grad():
        expected = graph.step.module(*map(torch.from_numpy, inputs))
    for slot, a, b in zip(graph.step.outputs, found, expected, strict=True):
        scale = max(1.0, float(b.double().abs().max()))
        difference = np.abs(np.asarray(a, np.float64) - b.numpy().astype(np.float64)).max()
        assert difference <= 1e-4 * scale, str(slot)


def step_inputs(graph: StepGraph, state: Any, batch: Any, step: int) -> list[Any]:
    plain = {Kind.SEED: torch.tensor(0), Kind.STEP: torch.tensor(step), Kind.RATE: torch.tensor([0.1])}
    values = [
        state[str(s)] if s.kind.is_state else plain[s.kind] if s.kind in plain else batch[int(s.target)]
        for s in graph.inputs
    ]
    return [value.detach().numpy() for value in values]


def test_conditionals_are_if_and_the_users_line_is_kept() -> None:
    graph, _ = step_of("slu")
    stages = {stage.name: stage for stage in graph.stages}
    assert isinstance(stages["outlined"].graph, StepGraph)
    model = stage_model(saved(stages["outlined"].graph))
    branches = [node for node in model.graph.node if node.op_type == "If"]
    assert len(branches) == stages["outlined"].changed
    assert {attribute.name for node in branches for attribute in node.attribute} == {
        "then_branch",
        "else_branch",
    }
    assert {function.name for function in model.functions} == FUNCTIONS
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all("models.py:" in node.doc_string for node in convolutions)
    assert "cluster_" in dot(saved(stages["outlined"].graph))


def test_a_forward_stage_is_a_checked_model_too() -> None:
    graph, _ = step_of("none")
    first = graph.stages[0].graph.module
    model = stage_model(saved(StepGraph(first, (), ())))
    assert {node.domain for node in model.graph.node} == {"", E2, ATEN}


def test_inference_refuses_what_onnx_cannot_say() -> None:
    module = nn.Sequential(nn.AvgPool2d(2, divisor_override=3), nn.Flatten(), nn.Linear(12, 10))
    graph = capture(module, images((4, 3, 4, 4)), optimizer=sgd(module.parameters()))
    evaluation = saved(graph.evaluation_step)
    weights = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    with pytest.raises(UsageError, match=r"avg_pool2d \(forward"):
        inference_model(evaluation, weights)


def test_types_are_read_from_their_text() -> None:
    assert types("f32[64, 16]") == [Type("float32", (64, 16))]
    assert types("(f32[], NoneType, i64[3])") == [Type("float32", ()), None, Type("int64", (3,))]
    assert types("NoneType") == [None]
