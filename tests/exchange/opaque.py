"""Operators that ONNX has none for, run by PyTorch within ONNX's reference evaluator."""

from typing import Any, ClassVar

import numpy as np
import torch
from onnx.reference.op_run import OpRun

from e2compile.exchange.values import ATEN, E2

aten, e2 = torch.ops.aten, torch.ops.e2


def _arrays(found: Any) -> tuple[Any, ...]:
    several = found if isinstance(found, (tuple, list)) else (found,)
    return tuple(np.zeros(0) if value is None else value.numpy() for value in several)


class _ConvolutionBackward(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = ATEN

    def _run(self, *inputs: Any, **named: Any) -> tuple[Any, ...]:
        grad, x, weight = map(torch.from_numpy, inputs)
        stride, padding, dilation, transposed, output_padding, groups, mask = (
            named[f"argument_{i}"] for i in range(4, 11)
        )
        mask = [bool(v) for v in mask]
        given = stride, padding, dilation, bool(transposed), output_padding, groups, mask
        return _arrays(aten.convolution_backward(grad, x, weight, [weight.shape[0]], *given))


class _PoolBackward(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = ATEN

    def _run(self, grad: Any, x: Any) -> tuple[Any, ...]:
        return _arrays(aten._adaptive_avg_pool2d_backward(torch.from_numpy(grad), torch.from_numpy(x)))


class _AveragePoolBackward(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = ATEN

    def _run(self, grad: Any, x: Any, **named: Any) -> tuple[Any, ...]:
        size, stride, padding = (list(named.get(f"argument_{i}") or []) for i in range(2, 5))
        flags = bool(named["argument_5"]), bool(named["argument_6"])
        tensors = torch.from_numpy(grad), torch.from_numpy(x)
        return _arrays(aten.avg_pool2d_backward(*tensors, size, stride, padding, *flags, None))


class _MaxPoolBackward(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = ATEN

    def _run(self, grad: Any, x: Any, places: Any, **named: Any) -> tuple[Any, ...]:
        size, stride, padding, dilation = (list(named.get(f"argument_{i}") or []) for i in range(2, 6))
        call = aten.max_pool2d_with_indices_backward
        tensors = [torch.from_numpy(array) for array in (grad, x, places)]
        return _arrays(
            call(*tensors[:2], size, stride, padding, dilation, bool(named["argument_6"]), tensors[2])
        )


class _Uniform(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = E2

    def _run(self, seed: Any, step: Any, site: int = 0, size: Any = ()) -> tuple[Any, ...]:
        return _arrays(e2.uniform(torch.tensor(seed), torch.tensor(step), site, list(size)))


class _Moments(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = E2

    def _run(self, x: Any, mask: Any) -> tuple[Any, ...]:
        return _arrays(e2.moments(torch.from_numpy(x), torch.from_numpy(mask)))


class _PowerOfTwoAbove(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = E2

    def _run(self, x: Any) -> tuple[Any, ...]:
        return _arrays(e2.power_of_two_above(torch.as_tensor(x)))


class _Guard(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = E2

    def _run(self, mask: Any, name: Any = None, frozen: Any = None) -> tuple[Any, ...]:
        del name, frozen
        return (mask,)


class _InputGradient(OpRun):  # type: ignore[misc]
    op_domain: ClassVar[str] = E2
    call: ClassVar[Any] = e2.integer_input_gradient

    def _run(self, first: Any, second: Any, **named: Any) -> tuple[Any, ...]:
        size, strides, pads, dilations = (list(named[k]) for k in ("size", "strides", "pads", "dilations"))
        tensors = map(torch.from_numpy, (first, second))
        return _arrays(type(self).call(*tensors, size, strides, pads[:2], dilations, named["group"]))


class _WeightGradient(_InputGradient):
    op_domain: ClassVar[str] = E2
    call: ClassVar[Any] = e2.integer_weight_gradient


def _named(kind: type[OpRun], name: str) -> type[OpRun]:
    """The evaluator finds an implementation by its class's name."""
    return type(name, (kind,), {"op_domain": kind.op_domain})


IMPLEMENTATIONS = [
    _named(_ConvolutionBackward, "convolution_backward"),
    _named(_PoolBackward, "_adaptive_avg_pool2d_backward"),
    _named(_MaxPoolBackward, "max_pool2d_with_indices_backward"),
    _named(_AveragePoolBackward, "avg_pool2d_backward"),
    _named(_Uniform, "uniform"),
    _named(_Moments, "moments"),
    _named(_PowerOfTwoAbove, "power_of_two_above"),
    _named(_Guard, "guard"),
    _named(_InputGradient, "integer_input_gradient"),
    _named(_WeightGradient, "integer_weight_gradient"),
]
