"""Contraction kernels held against torch in float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import tvm

from e2compile.lower.workload import Convolution
from e2compile.targets.llvm.build import tvm_target
from e2compile.targets.llvm.machine import Machine, host

Kernel = Callable[..., tvm.tirx.PrimFunc]

SENTINEL = 12345.0
# An fp32 sum of n products errs by at most n * 2**-24 of sum |x w|, and by about sqrt(n) * 2**-24 of the
# result in the norm when signs are random, as here; n is below 2**14 in these tests, so 2e-6 leaves a
# third of that bound, and a lost or doubled term (1 / sqrt(n) or more) is a thousand times larger.
TOLERANCE = 2e-6


@dataclass(frozen=True)
class Kernels:
    forward: Kernel
    input_gradient: Kernel
    weight_gradient: Kernel


def same(batch: int, size: int, inner: int, outer: int, stride: int = 1, groups: int = 1) -> Convolution:
    return Convolution(batch, size, size, inner, outer, (3, 3), (stride, stride), (1, 1), groups=groups)


@cache
def built(kernel: Kernel, conv: Convolution, machine: Machine, **options: bool | str) -> Callable[..., None]:
    return tvm.compile(kernel(conv, machine, name="main", **options), tvm_target())["main"]


def run(function: Callable[..., None], out: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    function(*(tvm.runtime.from_dlpack(tensor.contiguous()) for tensor in (*inputs, out)))
    return out


def operands(conv: Convolution, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (conv.x_shape, conv.weight_shape, conv.y_shape)
    x, weight, dy = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, dy


def reference(
    conv: Convolution, x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, the input gradient and the weight gradient."""
    x, dy = x.double().permute(0, 3, 1, 2), dy.double().permute(0, 3, 1, 2)
    weight = weight.double().permute(3, 2, 0, 1)
    how = (conv.stride, conv.padding, conv.dilation)
    y = torch.nn.functional.conv2d(x, weight, None, *how, conv.groups)
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, *how, False, [0, 0], conv.groups, [True, True, False]
    )
    return y.permute(0, 2, 3, 1), dx.permute(0, 2, 3, 1), dweight.permute(2, 3, 1, 0)


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert not result.isnan().any()
    assert (result - expected).norm() <= TOLERANCE * expected.norm()


def blank(shape: Sequence[int]) -> torch.Tensor:
    return torch.full(tuple(shape), torch.nan)


def check(kernels: Kernels, conv: Convolution, machine: Machine) -> None:
    """All three contractions, the forward pass with a bias."""
    x, weight, dy = operands(conv)
    y, dx, dweight = reference(conv, x, weight, dy)
    bias = torch.linspace(-1, 1, conv.out_channels)
    start = run(built(kernels.forward, conv, machine, bias=True), blank(conv.y_shape), x, weight, bias)
    assert_close(start, y + bias)
    assert_close(run(built(kernels.input_gradient, conv, machine), blank(conv.x_shape), dy, weight), dx)
    assert_close(run(built(kernels.weight_gradient, conv, machine), blank(conv.weight_shape), x, dy), dweight)


def gate(live: Sequence[int], batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.zeros(batch, dtype=torch.int32)
    index[: len(live)] = torch.tensor(live, dtype=torch.int32)
    return index, torch.tensor([len(live)], dtype=torch.int32)


def only(tensor: torch.Tensor, live: Sequence[int], rest: float) -> torch.Tensor:
    """The live samples as they are, the others filled."""
    result = torch.full_like(tensor, rest)
    result[list(live)] = tensor[list(live)]
    return result


def check_gated(
    kernel: Kernel, conv: Convolution, live: Sequence[int],
    inputs: Sequence[torch.Tensor], expected: torch.Tensor, per_sample: bool,
) -> None:  # fmt: skip
    out = torch.full(tuple(expected.shape), SENTINEL)
    run(built(kernel, conv, host(), gated=True), out, *inputs, *gate(live, conv.batch))
    if not per_sample:
        expected = expected if live else torch.full_like(expected, SENTINEL)
    assert_close(out, only(expected, live, SENTINEL) if per_sample else expected)
    if per_sample:
        skipped = [sample for sample in range(conv.batch) if sample not in live]
        assert (out[skipped] == SENTINEL).all()


def check_live(kernels: Kernels, conv: Convolution, live: list[int]) -> None:
    """Nothing of skipped samples is read or, where there is a sample's own, written."""
    x, weight, dy = operands(conv)
    y, dx, dweight = reference(conv, only(x, live, 0.0), weight, only(dy, live, 0.0))
    x, dy = only(x, live, torch.nan), only(dy, live, torch.nan)
    check_gated(kernels.forward, conv, live, (x, weight), y, True)
    check_gated(kernels.input_gradient, conv, live, (dy, weight), dx, True)
    check_gated(kernels.weight_gradient, conv, live, (x, dy), dweight, False)


def check_threads(kernels: Kernels, conv: Convolution) -> None:
    """The number of threads changes no bit."""
    x, weight, dy = operands(conv)
    cases: dict[Kernel, tuple[tuple[torch.Tensor, ...], Sequence[int]]] = {
        kernels.forward: ((x, weight), conv.y_shape),
        kernels.input_gradient: ((dy, weight), conv.x_shape),
        kernels.weight_gradient: ((x, dy), conv.weight_shape),
    }
    configure = tvm.get_global_func("runtime.config_threadpool")
    for kernel, (inputs, shape) in cases.items():
        results = []
        for threads in (1, 2, 0):  # 0 is TVM's own choice, and restores it
            configure(1, threads)
            results.append(run(built(kernel, conv, host()), blank(shape), *inputs))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])
