"""What the host does around a run, apart: transposing, and loops over channels that fill no block."""

import numpy as np
import pytest
import tvm
import tvm.tirx.script.builder as T

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.emit import arguments, at, function, store
from e2compile.targets.vta.host.transpose import transposed
from e2compile.targets.vta.isa.config import named
from tests.targets.vta.host.test_offload import check


@pytest.mark.parametrize("size", [2, 8, 16])
def test_squares_are_transposed(size: int) -> None:
    with function("main") as builder:
        given = arguments({"x": (size, size), "y": (size, size)}, {"x": "int8", "y": "int8"})
        with T.serial(0, 1):
            lines = transposed([given["x"][at(row * size, size)] for row in range(size)])
            for row, line in enumerate(lines):
                store(given["y"], row * size, line, size)
    square = np.random.default_rng(0).integers(-128, 128, (size, size), np.int8)
    found = tvm.runtime.tensor(np.zeros_like(square))
    tvm.compile(builder.get(), tvm_target())["main"](tvm.runtime.tensor(square), found)
    assert np.array_equal(found.numpy(), square.T)


@pytest.mark.parametrize("config", ["pynq", "pynq-4x8"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("channels", [(33, 18), (16, 32), (7, 40)])
def test_channels_of_any_number(channels: tuple[int, int], signed: bool, config: str) -> None:
    """Whole blocks and what is left of one, of a batch that is no whole group."""
    check(Convolution(18, 5, 4, *channels, (3, 3), (1, 2), (1, 1)), named(config), signed)
