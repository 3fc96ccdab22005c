"""Gated pooling kernels: as the ungated ones on live samples, and nothing on the others."""

from collections.abc import Sequence

import pytest
import torch
import tvm

from e2compile.lower.workload import Pool
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.machine import host
from e2compile.targets.llvm.pools import pool, pool_gradient
from tests.targets.contractions import SENTINEL, gate, only

POOLS = {
    places: Pool("max", 7, 9, 8, 16, (3, 3), (2, 2), (1, 1), out_height=5, out_width=4, places=places)
    for places in ("uint8", "int64")
} | {
    "average": Pool("average", 7, 8, 8, 5, (2, 2), (2, 2), out_height=4, out_width=4),
}


def run(function: tvm.tirx.PrimFunc, *tensors: torch.Tensor) -> None:
    built = tvm.compile(function.with_attr("global_symbol", "main"), tvm_target())["main"]
    built(*(tvm.runtime.from_dlpack(tensor) for tensor in tensors))


def outputs(workload: Pool) -> list[torch.Tensor]:
    y = torch.full(workload.y_shape, SENTINEL)
    if workload.kind != "max":
        return [y]
    return [y, torch.full(workload.y_shape, 7, dtype=getattr(torch, workload.places))]


@pytest.mark.parametrize("live", [[], [4], [6, 1, 2], [0, 1, 2, 3, 4, 5, 6]], ids=len)
@pytest.mark.parametrize("name", POOLS)
def test_touches_live_samples_only(name: str, live: Sequence[int]) -> None:
    workload = POOLS[name]
    x, dy = torch.randn(workload.x_shape), torch.randn(workload.y_shape)
    all_outputs, some = outputs(workload), outputs(workload)
    run(pool(workload, host()), x, *all_outputs)
    run(pool(workload, host(), gated=True), only(x, live, torch.nan), *gate(live, workload.batch), *some)
    for result, whole, blank in zip(some, all_outputs, outputs(workload), strict=True):
        assert torch.equal(result, only(whole, live, blank.flatten()[0]))

    dx, some_dx = torch.empty(workload.x_shape), torch.full(workload.x_shape, SENTINEL)
    run(pool_gradient(workload, host()), dy, *all_outputs[1:], dx)
    inputs = (only(dy, live, torch.nan), *some[1:], *gate(live, workload.batch))
    run(pool_gradient(workload, host(), gated=True), *inputs, some_dx)
    assert torch.equal(some_dx, only(dx, live, SENTINEL))
