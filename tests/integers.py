"""What SignPredict's numbers are, said a second time: codes and products in NumPy's 64-bit integers."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from e2compile.graph import Kind, StepGraph
from e2compile.ops import GUARD
from e2compile.passes import SignPredict
from e2compile.task import Task
from tests.steps import Batch, Named, state_of

Array = NDArray[Any]
F32 = np.float32

aten = torch.ops.aten


class Recorder(fx.Interpreter):
    """Keeps the value of every node; gates decide as `masks` says, by name."""

    def __init__(self, module: fx.GraphModule, masks: Mapping[str, Tensor]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.masks = masks

    def run_node(self, n: fx.Node) -> Any:
        mask = self.masks.get(str(n.args[1])) if n.target is GUARD else None
        return super().run_node(n) if mask is None else mask


def run(
    step: StepGraph,
    task: Task,
    batch: Batch,
    state: Named | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[Named, Recorder]:
    """One step in float32: what it gives by slot, and every value on the way."""
    state = state if state is not None else state_of(task, step)
    rates = torch.tensor([float(g["lr"]) for g in task.optimizer.param_groups])
    plain = {Kind.SEED: torch.tensor(0), Kind.STEP: torch.tensor(0), Kind.RATE: rates}
    arguments = []
    for slot in step.inputs:
        value = state[str(slot)] if slot.kind.is_state else plain.get(slot.kind)
        arguments.append(batch[int(slot.target)] if value is None else value)
    recorder = Recorder(step.module, masks or {})
    with torch.no_grad():
        values = recorder.run(*arguments)
    return {str(slot): v.clone() for slot, v in zip(step.outputs, values, strict=True)}, recorder


def steps(step: StepGraph, task: Task, batches: Iterable[Batch]) -> list[Named]:
    """Consecutive steps in float32."""
    state, results = state_of(task, step), []
    for batch in batches:
        given, _ = run(step, task, batch, state)
        state |= {name: value for name, value in given.items() if name in state}
        results.append(state | given)
    return results


def _is_by_reciprocal(node: Any) -> bool:
    return node.target is aten.mul.Tensor and node.args[1].target is aten.reciprocal.default


def uncoded(code: Any) -> Any:
    """The float32 tensor that codes are taken of."""
    while code.target is not aten.div.Tensor and not _is_by_reciprocal(code):
        code = code.args[0]
    return code.args[0]


def unit(maximum: Any, levels: int, scale: str) -> Any:
    """The value of one code."""
    top = np.maximum(F32(maximum), F32(2.0**-100))
    if scale == "power":
        exponents = [math.frexp(float(t)) for t in np.ravel(top)]
        powers = [math.ldexp(1.0, e - (m == 0.5)) for m, e in exponents]
        top = np.array(powers, F32).reshape(np.shape(top))
    return (top / F32(levels)).astype(F32)


def codes(x: Array, step: Any, low: int, high: int) -> NDArray[np.int64]:
    """Rounded half up, in the float32 arithmetic of the definition."""
    shifted = (x / step).astype(F32) + F32(0.5)
    return np.clip(np.floor(shifted), low, high).astype(np.int64)


def planes(q: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    high = (q + 128) // 256
    return high, q - 256 * high


def _shifts(size: tuple[int, ...], out: tuple[int, ...], stride: int) -> Any:
    for i in range(size[2]):
        for j in range(size[3]):
            rows = slice(i, i + stride * (out[2] - 1) + 1, stride)
            yield i, j, rows, slice(j, j + stride * (out[3] - 1) + 1, stride)


def _padded(x: Array, padding: int) -> Array:
    return np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])


def convolve(x: Array, w: Array, stride: int, padding: int) -> Array:
    x = _padded(x, padding)
    extents = [(n - k) // stride + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *extents), np.int64)
    for i, j, rows, columns in _shifts(w.shape, y.shape, stride):
        y += np.einsum("ncij,oc->noij", x[:, :, rows, columns], w[:, :, i, j])
    return y


def input_sum(g: Array, w: Array, size: tuple[int, ...], stride: int, padding: int) -> Array:
    dx = _padded(np.zeros(size, np.int64), padding)
    for i, j, rows, columns in _shifts(w.shape, g.shape, stride):
        dx[:, :, rows, columns] += np.einsum("noij,oc->ncij", g, w[:, :, i, j])
    return dx[:, :, padding : padding + size[2], padding : padding + size[3]]


def weight_sum(x: Array, g: Array, size: tuple[int, ...], stride: int, padding: int) -> Array:
    x, dw = _padded(x, padding), np.zeros(size, np.int64)
    for i, j, rows, columns in _shifts(size, g.shape, stride):
        dw[:, :, i, j] = np.einsum("ncij,noij->oc", x[:, :, rows, columns], g)
    return dw


class Oracle:
    """One convolution of a step, from its float32 x, w and g, and the maxima that x and g are scaled by.

    Maxima left None are this step's. Where weights have a step for each channel, g is multiplied by it.
    """

    def __init__(
        self,
        options: SignPredict,
        arrays: tuple[Array, Array, Array],
        maxima: tuple[float | None, float | None],
        unsigned: bool,
        geometry: tuple[int, int],
    ) -> None:
        x, w, g = arrays
        s = self.settings = options.settings()
        self.unsigned, self.stride, self.padding = unsigned, *geometry
        self.size = x.shape
        levels = 2 ** (s.activation_bits - (not unsigned))
        x_step = unit(np.abs(x).max() if maxima[0] is None else maxima[0], levels, s.scale)
        self.xq = codes(x, x_step, 0 if unsigned else -levels, levels - 1)
        w_max = np.abs(w).max((1, 2, 3), keepdims=True) if s.by_channel else np.abs(w).max()
        limit = 2 ** (s.weight_bits - 1)
        w_step = unit(w_max, limit, s.scale)
        self.wq = codes(w, w_step, -limit, limit - 1)
        self.rows = w_step.reshape(-1, 1, 1) if s.by_channel else w_step
        g = (g * self.rows).astype(F32) if s.by_channel else g
        g_step = unit(np.abs(g).max() if maxima[1] is None else maxima[1], 2**15, s.scale)
        self.q = codes(g, g_step, -32639, 32639)
        self.planes = planes(self.q)
        self.steps = x_step, w_step, g_step

    @property
    def y(self) -> Array:
        """Without a bias."""
        return convolve(self.xq, self.wq, self.stride, self.padding).astype(F32) * (self.steps[0] * self.rows)

    @property
    def dx(self) -> Array:
        _, w_step, g_step = self.steps
        high, low = (
            input_sum(p, self.wq, self.size, self.stride, self.padding).astype(F32) for p in self.planes
        )
        value = high * F32(256) + (low if self.settings.gradient_bits == 16 else F32(0))
        return value * (g_step if self.settings.by_channel else g_step * w_step)

    def _sum(self, x: Array, g: Array) -> Array:
        return weight_sum(x, g, self.wq.shape, self.stride, self.padding)

    @property
    def full(self) -> Array:
        """The full product, exactly."""
        q = self.q if self.settings.gradient_bits == 16 else 256 * self.planes[0]
        return self._sum(self.xq, q)

    @property
    def predicted(self) -> Array:
        s = self.settings
        drop_x, drop_g = s.activation_bits - s.predictor_activation_bits, 16 - s.predictor_gradient_bits
        half = s.predictor_activation_bits - (not self.unsigned)
        low = 0 if self.unsigned else -(2**half)
        short_x = np.clip((self.xq + 2**drop_x // 2) >> drop_x, low, 2**half - 1)
        limit = 2 ** (s.predictor_gradient_bits - 1) - 1
        return self._sum(short_x, np.clip((self.q + 2 ** (drop_g - 1)) >> drop_g, -limit, limit))

    @property
    def sure(self) -> NDArray[np.bool_]:
        magnitude = np.abs(self.predicted.astype(F32))
        magnitude = magnitude / self.steps[1] if self.settings.by_channel else magnitude
        result: NDArray[np.bool_] = magnitude >= magnitude.max() * F32(self.settings.beta)
        return result

    @property
    def fallback(self) -> Array | bool:
        """Where the full product's sign is taken."""
        s, sure = self.settings, self.sure
        if s.fallback == "layer":
            return bool((~sure).sum() > s.unsure_limit * sure.size)
        if s.fallback == "element":
            return np.logical_not(sure)
        if s.fallback == "never":
            return False
        matrix, chosen = (~sure).reshape(len(sure), -1), np.zeros((len(sure), sure[0].size), bool)
        for row in range(0, matrix.shape[0], 16):
            for column in range(0, matrix.shape[1], 16):
                tile = slice(row, row + 16), slice(column, column + 16)
                chosen[tile] = matrix[tile].sum() > s.unsure_limit * 256
        return chosen.reshape(sure.shape)

    @property
    def signs(self) -> Array:
        return np.sign(np.where(self.fallback, self.full, self.predicted)).astype(F32)


def as_array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array
