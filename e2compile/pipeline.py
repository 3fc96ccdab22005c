"""The pass runner: forward passes, differentiation, joint passes; every stage verified and kept."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, fx, nn

from e2compile.collector import paused
from e2compile.differentiate import differentiate, evaluation_graph
from e2compile.errors import CompileError
from e2compile.forward import ForwardGraph, capture_forward
from e2compile.graph import StepGraph, body_lines, text, type_text, verify
from e2compile.guards.outline import has_guards, outline
from e2compile.task import Task, make_task


class Level(Enum):
    """Which graph a pass rewrites: before differentiation, the step after it, or the step as a whole last."""

    FORWARD = "forward"
    JOINT = "joint"
    STEP = "step"


@dataclass(frozen=True)
class Change:
    """What a pass made: the new graph, how many places it changed, and a line for each place left alone."""

    graph: Any
    changed: int
    notes: tuple[str, ...] = ()


@runtime_checkable
class Pass(Protocol):
    """A rewrite. Its options are its dataclass fields; it holds no state and leaves its argument as it was.

    A forward pass maps ForwardGraph to ForwardGraph, for training and evaluation alike; a joint pass maps
    StepGraph to StepGraph, and so does a step pass, which guards the step as a whole.
    """

    name: ClassVar[str]
    level: ClassVar[Level]

    def __call__(self, graph: Any, /) -> Change: ...


def settings_text(item: Pass) -> str:
    """A pass with those of its options that are not the default: `smd`, `slu(target_skip=0.2)`."""
    options = dataclasses.fields(item)  # type: ignore[arg-type]
    given = [f"{f.name}={getattr(item, f.name)}" for f in options if getattr(item, f.name) != f.default]
    return f"{item.name}({', '.join(given)})" if given else item.name


@dataclass(frozen=True)
class Stage:
    """A graph on its way: the name of what made it, its text, and what changed."""

    name: str
    graph: ForwardGraph | StepGraph
    changed: int
    notes: tuple[str, ...]
    seconds: float

    @property
    def text(self) -> str:
        return text(self.graph) if isinstance(self.graph, StepGraph) else forward_text(self.graph)


@dataclass(frozen=True)
class TrainingGraph:
    """A captured task with the passes to apply; graphs are made when first asked for."""

    task: Task
    training: ForwardGraph
    evaluation: ForwardGraph
    passes: tuple[Pass, ...] = ()

    def apply(self, *passes: Pass) -> "TrainingGraph":
        """The same task with more passes.

        Forward passes run before joint ones and these before step passes, else in the order given.
        """
        for item in passes:
            if not isinstance(item, Pass):
                raise CompileError(f"{item!r} is not a pass: it needs name, level and __call__")
        return replace(self, passes=self.passes + passes)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Every graph from capture to the last pass."""
        return (*self.forward_stages, *_step_stages(self.task, self.forward, self.passes))

    @cached_property
    def forward_stages(self) -> tuple[Stage, ...]:
        """The forward graphs from capture to the last forward pass."""
        return tuple(_forward_stages(self.training, self.passes))

    @property
    def has_forward_passes(self) -> bool:
        """Whether the step computes another function than the user's module."""
        return any(item.level is Level.FORWARD for item in self.passes)

    @cached_property
    def captured(self) -> StepGraph:
        """The training step as the user wrote it, before any pass."""
        if self.has_forward_passes:
            return differentiate(self.training, self.task)
        graph = next(s.graph for s in self.stages if s.name == "differentiated")
        assert isinstance(graph, StepGraph)
        return graph

    @property
    def forward(self) -> ForwardGraph:
        """The training step's forward graph under the forward passes."""
        graph = self.forward_stages[-1].graph
        assert isinstance(graph, ForwardGraph)
        return graph

    @property
    def step(self) -> StepGraph:
        """The rewritten training step."""
        graph = self.stages[-1].graph
        assert isinstance(graph, StepGraph)
        return graph

    @cached_property
    def evaluation_step(self) -> StepGraph:
        """The evaluation graph under the same forward passes."""
        graph = self.evaluation
        for item in self.passes:
            if item.level is Level.FORWARD:
                graph = item(graph).graph
        shapes = [{n: t.shape for n, t in g.added.items()} for g in (graph, self.forward)]
        if shapes[0] != shapes[1]:
            raise CompileError("the passes do not find the same places in training and in evaluation mode")
        result = evaluation_graph(graph, self.task)
        verify(result)
        if not has_guards(result):
            return result
        result = outline(result).graph
        verify(result)
        return result

    def text(self, stage: str | None = None) -> str:
        """A stage's graph as text, the last one's by default; KeyError for an unknown name."""
        if stage is None:
            return self.stages[-1].text
        return {s.name: s for s in self.stages}[stage].text


def capture(
    model: nn.Module,
    batch: tuple[Tensor, ...],
    loss: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    data: Any = None,
    epochs: int = 1,
) -> TrainingGraph:
    """Capture a training step. `batch` holds example tensors: inputs of the model, then the target.

    Raises UsageError for what is no task and CompileError, with the user's line, for a model that
    torch.export cannot follow.
    """
    return capture_task(make_task(model, batch, loss, optimizer, schedule, data, epochs))


def capture_task(task: Task) -> TrainingGraph:
    """Capture a task in training and in evaluation mode."""
    with paused():
        return TrainingGraph(task, capture_forward(task, True), capture_forward(task, False))


def _forward_stages(forward: ForwardGraph, passes: Sequence[Pass]) -> Iterator[Stage]:
    yield Stage("captured", forward, 0, (), 0.0)
    for item in passes:
        if item.level is Level.FORWARD:
            change, seconds = _timed(item, forward)
            forward = change.graph
            yield Stage(item.name, forward, change.changed, change.notes, seconds)


def _step_stages(task: Task, forward: ForwardGraph, passes: Sequence[Pass]) -> Iterator[Stage]:
    began = time.perf_counter()
    step = differentiate(forward, task)
    verify(step)
    yield Stage("differentiated", step, 0, (), time.perf_counter() - began)
    for level in (Level.JOINT, Level.STEP):
        for item in passes:
            if item.level is level:
                change, seconds = _timed(item, step)
                step = change.graph
                verify(step)
                yield Stage(item.name, step, change.changed, change.notes, seconds)
        if level is Level.JOINT and has_guards(step):
            began = time.perf_counter()
            outlined = outline(step)
            step = outlined.graph
            verify(step)
            yield Stage("outlined", step, outlined.changed, outlined.notes, time.perf_counter() - began)


def _timed(item: Pass, graph: Any) -> tuple[Change, float]:
    began = time.perf_counter()
    try:
        change = item(graph)
    except CompileError as error:
        error.add_note(f"  in pass {item}")
        raise
    return change, time.perf_counter() - began


def forward_text(graph: ForwardGraph) -> str:
    """A forward graph, one typed line a node."""
    names: dict[fx.Node, str] = {}
    lines = []
    for node in graph.graph.find_nodes(op="placeholder"):
        names[node] = f"%{node.name}"
        lines.append(f"{names[node]}: {type_text(node.meta['val'])}")
    lines += body_lines(graph.module, names)
    results = ", ".join(names[node] for node in graph.graph.output_node().all_input_nodes)
    return "\n".join([*lines, f"return {results}"]) + "\n"
