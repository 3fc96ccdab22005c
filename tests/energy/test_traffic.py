"""Planned bytes against the kernels that the lowering schedules."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from e2compile.energy.count import count
from e2compile.graph import StepGraph, entry_points
from e2compile.lower.contraction import Call
from e2compile.lower.flat import fused
from e2compile.lower.schedule import Copy, LiveSamples, schedule
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import TrainingGraph, capture
from tests import models
from tests.guarded import guarded
from tests.small import small
from tests.steps import images


def scheduled(step: StepGraph) -> tuple[int, int]:
    """Bytes that a step's kernels read and write, but for copies and lists of live samples."""
    read = written = 0
    for kernel in schedule(fused(entry_points(step).step)).kernels:
        if isinstance(kernel, (Copy, LiveSamples)):
            continue
        if isinstance(kernel, Call):
            read += sum(math.prod(o.shape) * o.node.meta["val"].dtype.itemsize for o in kernel.operands)
            results = [r for r in kernel.results if r.node is not None]
            written += sum(math.prod(r.shape) * np.dtype(r.dtype).itemsize for r in results)
            continue
        sizes = [math.prod(b.shape) * np.dtype(b.dtype).itemsize for b in kernel.loop.buffers]
        read += sum(sizes[: kernel.loop.inputs])
        written += sum(sizes[kernel.loop.inputs :])
    return read, written


def residual() -> TrainingGraph:
    return capture(models.small_resnet(), images((4, 1, 8, 8)))


@pytest.mark.parametrize(
    "make",
    [
        small,
        guarded,
        residual,
        lambda: residual().apply(LayerGate(), BatchDrop()),
        lambda: residual().apply(SignPredict()),
    ],
    ids=["small", "guarded", "residual", "gated", "signs"],
)
def test_planned_bytes_are_those_of_the_kernels(make: Callable[[], TrainingGraph]) -> None:
    step = make().step
    work = count(step, planned=True)
    totals = work.at(dict.fromkeys(work.symbols, 1.0)).totals()
    assert (totals["read.dram"], totals["write.dram"]) == pytest.approx(scheduled(step), rel=0.02)


def test_fusion_changes_bytes_alone() -> None:
    step = residual().step
    plain, fused = count(step).totals(), count(step, planned=True).totals()
    bytes_of = {"read.dram", "write.dram"}
    assert {q: n for q, n in plain.items() if q not in bytes_of} == {
        q: n for q, n in fused.items() if q not in bytes_of
    }
    assert all(fused[q] < plain[q] for q in bytes_of)
