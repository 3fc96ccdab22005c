"""Convolutions and their gradients through the array, from bytes to sums, against torch, bit for bit."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import tvm
import tvm_ffi
from tvm import IRModule

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.machine import host
from e2compile.targets.vta.device.driver import Driver
from e2compile.targets.vta.host import geometry
from e2compile.targets.vta.host.choice import Times, times
from e2compile.targets.vta.host.kernels import VtaKernels
from e2compile.targets.vta.host.partition import partition
from e2compile.targets.vta.isa.config import Config, named
from e2compile.targets.vta.program.cost import Cost
from e2compile.targets.vta.program.table import Operator, Table
from e2compile.targets.vta.simulator.interpreter import compiled
from e2compile.targets.vta.simulator.simulator import Simulator
from tests.targets.contractions import reference, run, same
from tests.targets.test_contraction import NETWORKS
from tests.targets.test_integer_contraction import SENTINEL, blank, operands

GROUPED = [name for name, conv in NETWORKS.items() if conv.groups > 1]
METHODS = ("integer_convolution", "integer_input_gradient", "integer_weight_gradient")
SMALL = ["resnet20 16", "resnet20 16-32", "resnet18 stem", "dilation and stride", "linear", "wide image"]


def offloaded(
    conv: Convolution, config: Config, gated: bool, signed: bool
) -> tuple[dict[str, Callable[..., Any]], Table]:
    """The three functions of a convolution, served by a strict simulator."""
    kernels = VtaKernels(host())
    made = {
        METHODS[0]: kernels.integer_convolution(conv, signed, gated),
        METHODS[1]: kernels.integer_input_gradient(conv, gated),
        METHODS[2]: kernels.integer_weight_gradient(conv, signed, gated),
    }
    module = IRModule({name: kernel.with_attr("global_symbol", name) for name, kernel in made.items()})
    parts = partition(module, config)
    table = parts.table
    driver = Driver(table, Simulator(config, compiled(config), strict=True))
    tvm_ffi.register_global_func(table.call, driver.run, override=True)
    library = tvm.compile(parts.module, tvm_target())
    return {name: library[name] for name in METHODS}, table


def check(conv: Convolution, config: Config, signed: bool) -> Table:
    x, weight, dy = operands(conv, signed)
    y, dx, dweight = (exact.to(torch.int32) for exact in reference(conv, x, weight, dy))
    functions, table = offloaded(conv, config, False, signed)
    assert torch.equal(run(functions[METHODS[0]], blank(conv.y_shape), x, weight), y)
    assert torch.equal(run(functions[METHODS[1]], blank(conv.x_shape), dy, weight), dx)
    assert torch.equal(run(functions[METHODS[2]], blank(conv.weight_shape), x, dy), dweight)
    return table


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in GROUPED])
def test_the_array_computes_what_torch_does(name: str) -> None:
    table = check(NETWORKS[name], named("pynq"), signed=False)
    assert {operator.name for operator in table.operators} == set(METHODS)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_a_block_of_several_rows_computes_the_same(name: str, signed: bool) -> None:
    assert len(check(NETWORKS[name], named("pynq-4x8"), signed).operators) == 3


BUNDLED = {
    "a group a bundle": Convolution(3, 6, 5, 64, 32, (3, 3), (2, 1), (1, 1), groups=2),
    "four groups a bundle": Convolution(2, 5, 6, 32, 64, (3, 3), (1, 2), (1, 1), groups=8),
    "the last bundle lacks one": Convolution(18, 4, 4, 72, 72, (2, 2), (2, 2), groups=3),
    "all in a bundle": Convolution(2, 4, 4, 30, 20, groups=5),
} | {name: NETWORKS[name] for name in ("mobilenet depthwise s2", "groups 4", "channel multiplier")}


@pytest.mark.parametrize(("config", "signed"), [("pynq", False), ("pynq-4x8", True)])
@pytest.mark.parametrize("conv", BUNDLED.values(), ids=BUNDLED)
def test_groups_are_multiplied_in_bundles(
    conv: Convolution, config: str, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the array, however long that takes."""
    monkeypatch.setattr("e2compile.targets.vta.host.partition.times", lambda *_: Times(0.0, 1.0))
    assert len(check(conv, named(config), signed).operators) == len(METHODS)


@pytest.mark.parametrize("name", GROUPED)
def test_small_groups_stay_on_the_host(name: str) -> None:
    conv = NETWORKS[name]
    assert check(conv, named("pynq"), signed=True).operators == ()
    made = VtaKernels(host()).integer_convolution(conv, True).with_attr("global_symbol", "main")
    reason = partition(IRModule({"main": made}), named("pynq")).left["main"]
    assert reason.text == ("depthwise" if conv.is_depthwise else "in groups")
    assert reason.times is not None
    assert reason.times.host < reason.times.array


def test_large_groups_go_to_the_array() -> None:
    assert len(check(same(16, 8, 64, 64, groups=2), named("pynq"), signed=False).operators) == len(METHODS)


def test_the_times_of_both_sides_counted_by_hand() -> None:
    """A Pynq's host: 0.77 ns a product, 1 ns a byte. Its array: 100 MHz."""
    conv = Convolution(3, 2, 2, 4, 6, groups=2)
    operator = Operator("x", "weight_gradient", asdict(conv), 5, 100, 30, 7, True, ())
    own = 3 * 2 * 2 * (4 + 6) + 4 * (2 * 6)
    found = times(operator, Cost(cycles=1000), named("pynq"))
    assert found.host == pytest.approx(3 * 2 * 2 * 6 * 2 * 0.77e-9 + own * 1e-9)
    assert found.array == pytest.approx(5 * 1000 / 100e6 + (own + 3 * 5 * (100 + 30 + 7)) * 1e-9)
    forward = replace(operator, what="forward", own_weights=False)
    own = 3 * 2 * 2 * (4 + 4 * 6) + 2 * 6
    packed = 5 * (100 + 7) + 30
    assert times(forward, Cost(cycles=1000), named("pynq")).array == pytest.approx(
        5 * 1000 / 100e6 + (own + 3 * packed) * 1e-9
    )


def test_sums_that_are_too_long_stay_on_the_host() -> None:
    """2^14 products of -128 and -128 add up to 2^28; of 2^17 and more int32 cannot hold the sum."""
    config = named("pynq")
    fits, too_long = (Convolution(1, 1, 1, channels, 16) for channels in ((1 << 17) - 1, 1 << 17))
    assert len(geometry.forward(fits, config).parts) == 1
    with pytest.raises(geometry.Unsuitable, match="sums that may leave 32 bits"):
        geometry.forward(too_long, config)


@pytest.mark.parametrize("config", ["pynq", "pynq-4x8"])
@pytest.mark.parametrize("live", [[], [1], [0, 17, 18], list(range(19))])
def test_only_live_samples_are_read_and_written(live: list[int], config: str) -> None:
    conv = Convolution(19, 6, 6, 16, 24, (3, 3), (2, 2), (1, 1))
    x, weight, dy = operands(conv, False)
    dead = [i for i in range(conv.batch) if i not in live]
    index = torch.tensor(live + [0] * len(dead), dtype=torch.int32)
    gate = index, torch.tensor([len(live)], dtype=torch.int32)
    functions, _ = offloaded(conv, named(config), gated=True, signed=False)
    y, dx, _ = (exact.to(torch.int32) for exact in reference(conv, x, weight, dy))
    for method, expected, inputs in [(METHODS[0], y, (x, weight)), (METHODS[1], dx, (dy, weight))]:
        found = run(functions[method], blank(expected.shape), *inputs, *gate)
        assert torch.equal(found[live], expected[live])
        assert (found[dead] == SENTINEL).all()
    found = run(functions[METHODS[2]], blank(conv.weight_shape), x, dy, *gate)
    if live:
        *_, dweight = reference(conv, x[live], weight, dy[live])
        assert torch.equal(found, dweight.to(torch.int32))
    else:
        assert (found == SENTINEL).all()
