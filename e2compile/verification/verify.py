"""Verification: eager PyTorch equals the captured graph, and the rewritten graph equals the program.

Training amplifies rounding, so single steps from one state are compared, in norms, with float64: the
captured graph must equal the eager module in float64 to rounding, and the program's error against the
rewritten graph in float64 may be at most four times that of eager float32 in its worse memory format.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from e2compile.errors import VerificationError
from e2compile.forward import classes, correct
from e2compile.graph import Kind, StepGraph, entry_points, text
from e2compile.pipeline import TrainingGraph
from e2compile.runtime.program import Program
from e2compile.runtime.state import name_of
from e2compile.task import Task
from e2compile.verification.oracle import ROUNDING, Decision, Oracle
from e2compile.verification.recording import Recording
from e2compile.verification.replay import (
    CounterDraws,
    Start,
    Values,
    cast,
    graph_step,
    nudge,
)

# Two eager runs of one float32 step differ by about this factor between memory formats alone.
ROUNDING_FACTOR = 4.0
# A tensor whose gradient is mathematically zero holds rounding noise of the others' size.
FLOOR = 1e-6
# An activation within rounding of a kink (ReLU, max pooling) may fall on either side: the gradient jumps.
# Where the plain bound fails, eager runs from weights moved by a few roundings say how far it may jump.
NUDGES = 6
# Of a step's decisions, on masks and codes, this share may fall otherwise in float64 than in float32.
FLIPS = 1e-3
# A scalar's yardsticks may happen to be exact; its sum and its scaling round all the same, once each.
EPSILON32, EPSILON64 = 2.0**-22, 1e-9
# Channels that oneDNN's kernels for AVX2 take together.
_ONEDNN_BLOCK = 8


@dataclass(frozen=True)
class Row:
    """One tensor's comparison: error, what it was held to, and the tensor's norm, all 2-norms."""

    check: str
    kind: str
    target: str
    error: float
    bound: float
    norm: float

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.bound)


def eager_step(
    task: Task, dtype: torch.dtype, layout: torch.memory_format, rates: Any, seed: int, step: int
) -> Values:
    """One step of the user's own modules and optimizer on copies, with the graph's draws."""
    model, loss, optimizer = _copies(task, dtype, layout)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = float(rate)
    batch = [cast(t, dtype, layout) for t in task.batch]
    model.train()
    optimizer.zero_grad()
    with CounterDraws(seed, step):
        output = model(*batch[:-1])
        value = loss(output, batch[-1])
    value.backward()
    optimizer.step()
    result: Values = {(Kind.LOSS, "loss"): value.detach()}
    for _ in classes(output, batch[-1]):
        result[Kind.METRIC, "correct"] = correct(output.detach(), batch[-1]).sum()
    for name, parameter in model.named_parameters():
        result[Kind.PARAMETER, name] = parameter.detach()
        for key, state in optimizer.state.get(parameter, {}).items():
            if isinstance(state, Tensor):
                result[Kind.OPTIMIZER, f"{name}.{key}"] = state
    result |= {(Kind.BUFFER, name): buffer for name, buffer in model.named_buffers()}
    return result


def _copies(
    task: Task, dtype: torch.dtype, layout: torch.memory_format
) -> tuple[nn.Module, Any, torch.optim.Optimizer]:
    model, loss, optimizer = copy.deepcopy((task.model, task.loss, task.optimizer))
    model.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
    if isinstance(loss, nn.Module):
        loss.to(dtype)
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and key != "step":
                state[key] = value.to(dtype)
    return model, loss, optimizer


def program_step(program: Program, batch: Any) -> Values:
    """One executed step of a program."""
    result = program.execute(tuple(t.numpy() for t in batch))
    values: Values = {(Kind.LOSS, "loss"): torch.tensor(result.loss)}
    values |= {(Kind.METRIC, name): torch.from_numpy(np.array(v)) for name, v in result.metrics.items()}
    values |= {(Kind.COUNTER, name): torch.from_numpy(np.array(v)) for name, v in result.counters.items()}
    return values | state_of(program)


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def _distance(a: Tensor, b: Tensor) -> float:
    return _norm(a.double() - b.double())


def _exact(check: str, key: tuple[Kind, str], value: Tensor, reference: Tensor) -> Row:
    """Integers and flags have no rounding."""
    return Row(check, key[0].value, key[1], _distance(value, reference), 0.0, _norm(reference))


def _moved(old: Values, new: Values) -> dict[Kind, float]:
    """How far each kind of state moved in the step, as one norm over all its tensors."""
    squares: dict[Kind, float] = {}
    for key, value in new.items():
        if value.is_floating_point():
            squares[key[0]] = (
                squares.get(key[0], 0.0) + _distance(value, old.get(key, torch.zeros_like(value))) ** 2
            )
    return {kind: total**0.5 for kind, total in squares.items()}


def compare(
    check: str, values: Values, reference: Values, yardsticks: list[Values], old: Values
) -> Iterator[Row]:
    """Hold each value to four times the worst yardstick's error against the reference."""
    moved = _moved(old, reference)
    for key, expected in reference.items():
        if key not in values:
            continue
        if key[0] is Kind.METRIC and not expected.is_floating_point():
            flips = Row(check, key[0].value, key[1], _distance(values[key], expected), 1.0, _norm(expected))
            yield flips  # two nearly equal outputs may change places in float32
            continue
        if not expected.is_floating_point():
            yield _exact(check, key, values[key], expected)
            continue
        worst = max((_distance(y[key], expected) for y in yardsticks if key in y), default=0.0)
        floor = FLOOR * moved[key[0]] + EPSILON32 * _norm(expected)
        yield Row(
            check,
            key[0].value,
            key[1],
            _distance(values[key], expected),
            ROUNDING_FACTOR * worst + floor,
            _norm(expected),
        )


def compare_exactly(check: str, values: Values, reference: Values, old: Values) -> Iterator[Row]:
    """Hold float64 against float64: rounding only."""
    moved = _moved(old, reference)
    for key, expected in reference.items():
        if key not in values:
            yield Row(check, key[0].value, key[1], float("inf"), 0.0, _norm(expected))
        elif not expected.is_floating_point():
            yield _exact(check, key, values[key], expected)
        else:
            bound = EPSILON64 * (moved[key[0]] + _norm(expected))
            yield Row(check, key[0].value, key[1], _distance(values[key], expected), bound, _norm(expected))


def verify_program(
    graph: TrainingGraph, program: Program, recordings: Mapping[str, Recording]
) -> dict[str, Any]:
    """Run every check and return what `verify.json` holds; the program's state is spent.

    `recordings` tap the program's functions.

    Raises VerificationError that names the worst tensor where a check fails.
    """
    began = time.perf_counter()
    rows = list(_checks(graph, program, recordings))
    failed = [row for row in rows if not row.passed]
    report = {
        "passed": not failed,
        "steps": 2 if "keep" in program.manifest.functions else 1,
        "seconds": time.perf_counter() - began,
        "worst": _worst(rows),
        "tensors": len(rows),
    }
    if failed:
        row = max(failed, key=lambda r: r.error / max(r.bound, 1e-300))
        raise VerificationError(
            f"{row.check}: {row.kind} {row.target} is off by {row.error:.3g}, allowed is {row.bound:.3g} "
            f"({len(failed)} of {len(rows)} tensors fail)"
        )
    return report


def _checks(graph: TrainingGraph, program: Program, recordings: Mapping[str, Recording]) -> Iterator[Row]:
    program.position = _kept(program)
    old, captured = state_of(program), graph.captured
    rates = program.rate(program.position)
    start = Start(old, graph.task.batch, program.seed, program.position, rates)
    eager64 = eager_step(
        graph.task, torch.float64, torch.contiguous_format, rates, program.seed, program.position
    )
    plain64 = graph_step(captured, start, torch.float64)
    yield from compare_exactly("captured graph = eager", plain64, _known(eager64, captured), old)
    yield from _evaluation(graph, program, recordings["evaluate"])
    yield from _rewritten(graph, program, recordings["step"], start, plain64)
    yield from _dropped(graph, program)


def _rewritten(
    graph: TrainingGraph, program: Program, recording: Recording, start: Start, captured: Values
) -> Iterator[Row]:
    """The program's step against the graph after all passes, in float64, with the program's decisions.

    How exact float32 can be, eager PyTorch says; or the graph itself, where passes have made it another
    function than the user's.
    """
    bare = entry_points(graph.step).step
    with recording.of(program) as stored:
        values = program_step(program, start.batch)
    oracle = Oracle(bare, start, stored)

    def in_float32(layout: torch.memory_format, number: int | None = None) -> Values:
        if not is_same:
            return oracle(torch.float32, layout, number)
        task = graph.task if number is None else _nudged(graph.task, number)
        return eager_step(task, torch.float32, layout, start.rates, start.seed, start.step)

    is_same = text(bare) == text(graph.captured)
    reference = captured
    if not is_same:
        reference, decisions = oracle.judged()
        yield from _decided(decisions)
    yardsticks = _in_each_format(in_float32, _is_safe_channels_last(graph.captured))
    rows = list(compare("program = rewritten graph", values, reference, yardsticks, start.state))
    if not all(row.passed for row in rows):
        yardsticks += [in_float32(torch.contiguous_format, number) for number in range(NUDGES)]
        yardsticks += [] if is_same else [oracle(torch.float32, flip=ROUNDING)]
        check = "program = rewritten graph, at a kink"
        rows = list(compare(check, values, reference, yardsticks, start.state))
    yield from rows


def _decided(decisions: Iterable[Decision]) -> Iterator[Row]:
    """Sums of integers are the same; of decisions a small share differs, and codes by one."""
    for d in decisions:
        if d.is_product:
            yield Row("integer products", d.what, d.line, d.flipped, 0.0, float(d.elements))
        else:
            bound = max(FLIPS / d.unit, 1.5 / d.elements)
            yield Row("decisions", d.what, d.line, d.flipped, bound, float(d.elements))
            yield Row("decisions not explained by rounding", d.what, d.line, d.far, 0.0, float(d.elements))


def _nudged(task: Task, number: int) -> Task:
    """The task with every weight moved by a few roundings."""
    model, loss, optimizer = copy.deepcopy((task.model, task.loss, task.optimizer))
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(nudge(parameter, generator))
    return replace(task, model=model, loss=loss, optimizer=optimizer)


def state_of(program: Program) -> Values:
    """A program's state as tensors in the module's layout."""
    arrays = program.arrays()
    return {(Kind(t.kind), t.target): torch.from_numpy(arrays[name_of(t)]) for t in program.manifest.state}


def _known(values: Values, graph: StepGraph) -> Values:
    """The eager values that the graph gives: it holds no state that no step changes."""
    given = {(slot.kind, slot.target) for slot in graph.outputs}
    return {key: value for key, value in values.items() if key in given}


def _kept(program: Program) -> int:
    return next(step for step in range(10**6) if program.keep(step))


def _dropped(graph: TrainingGraph, program: Program) -> Iterator[Row]:
    """`keep` agrees with the graph's guard, and a dropped step leaves all as it was."""
    guard = entry_points(graph.step).keep
    if guard is None:
        return
    steps = range(64)
    expected = [bool(guard.module(torch.tensor(program.seed), torch.tensor(s))[0]) for s in steps]
    differing = sum(program.keep(s) != e for s, e in zip(steps, expected, strict=True))
    yield Row("keep", Kind.KEEP.value, "decisions", float(differing), 0.0, float(sum(expected)))
    program.position = next(step for step in range(10**6) if not program.keep(step))
    before = state_of(program)
    program.step(tuple(t.numpy() for t in graph.task.batch))
    after = state_of(program)
    for key, value in before.items():
        yield Row("dropped step", key[0].value, key[1], _distance(after[key], value), 0.0, _norm(value))


def _in_each_format(run: Callable[[torch.memory_format], Values], both: bool = True) -> list[Values]:
    """Eager float32 in both memory formats; in one where a view of the model's is none in channels_last."""
    results = [run(torch.contiguous_format)]
    if both:
        with contextlib.suppress(RuntimeError):
            results.append(run(torch.channels_last))
    return results


def _is_safe_channels_last(step: StepGraph) -> bool:
    """Whether PyTorch's gradients of a step can be had in channels_last.

    On CPUs with AVX2, that of the weights of a strided 1 x 1 convolution of few channels is wrong, and is
    written beyond its memory (oneDNN, issue 6035).
    """
    for node in step.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default):
        weight, stride = node.args[1], node.args[3]
        _, channels, *kernel = weight.meta["val"].shape
        if set(kernel) == {1} and max(stride) > 1 and channels < _ONEDNN_BLOCK:
            return False
    return True


def _evaluation(graph: TrainingGraph, program: Program, recording: Recording) -> Iterator[Row]:
    """The evaluation entry point against eager evaluation in float64, or its graph's under forward passes."""
    task = graph.task
    with recording.of(program) as stored:
        result = program.predict(tuple(t.numpy() for t in task.batch))
    values = {(Kind.METRIC, name): torch.from_numpy(value) for name, value in result.items()}
    if graph.has_forward_passes:
        start = Start(state_of(program), task.batch, program.seed, program.position, program.rate(0))
        oracle = Oracle(graph.evaluation_step, start, stored)
        reference, decisions = oracle.judged()
        yield from _decided(decisions)
        yardsticks = _in_each_format(lambda f: oracle(torch.float32, f))
    else:
        reference = _eager_evaluation(task, torch.float64, torch.contiguous_format)
        yardsticks = _in_each_format(lambda f: _eager_evaluation(task, torch.float32, f))
    yield from compare("evaluation", values, reference, yardsticks, {})


def _eager_evaluation(task: Task, dtype: torch.dtype, layout: torch.memory_format) -> Values:
    model, loss, _ = _copies(task, dtype, layout)
    model.eval()
    batch = [cast(t, dtype, layout) for t in task.batch]
    with torch.no_grad():
        output = model(*batch[:-1])
        losses = torch.stack([loss(o[None], t[None]) for o, t in zip(output, batch[-1], strict=True)])
    result: Values = {(Kind.METRIC, "loss"): losses, (Kind.METRIC, "output"): output}
    for _ in classes(output, batch[-1]):
        result[Kind.METRIC, "correct"] = correct(output, batch[-1])
    return result


def _worst(rows: list[Row]) -> dict[str, dict[str, float | str]]:
    """For each check and kind of output the tensor closest to its bound."""
    worst: dict[str, Row] = {}
    for row in rows:
        key = f"{row.check}, {row.kind}"
        if key not in worst or _ratio(row) > _ratio(worst[key]):
            worst[key] = row
    return {
        key: {"target": row.target, "error": row.error, "bound": row.bound, "norm": row.norm}
        for key, row in worst.items()
    }


def _ratio(row: Row) -> float:
    return row.error / row.bound if row.bound else float(row.error > 0)
