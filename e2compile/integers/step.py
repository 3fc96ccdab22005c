"""Integers: rewrites the convolutions of a step graph and their gradients as products of codes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import fx

from e2compile.errors import UsageError
from e2compile.graph import Kind, Slot, StepGraph, graph_module
from e2compile.guards.regions import guard_of
from e2compile.integers import quantise, signs
from e2compile.integers.convolutions import Site, result
from e2compile.integers.joins import joins
from e2compile.integers.matrices import MatrixProduct
from e2compile.integers.quantise import Codes, Planes, Writer
from e2compile.integers.signs import Factors, Fallback, Products, Rule
from e2compile.ops import INTEGER_CONVOLUTION, INTEGER_INPUT_GRADIENT, INTEGER_WEIGHT_GRADIENT

aten = torch.ops.aten

# What the first step takes for a maximum that no step has left yet: activations after a batch norm stay
# below eight deviations, and a mean loss hands each sample a gradient of about one over their number.
FIRST_ACTIVATION = 8.0

# The type in which a convolution's output, its input gradient and joins are kept.
Results = Literal["float32", "bfloat16"]

# Stride, padding, dilation and groups of a matrix product.
_POINT = ([1, 1], [0, 0], [1, 1], 1)


def first_gradient(samples: int) -> float:
    return 1 / samples


@dataclass(frozen=True)
class Settings:
    """How codes are made: see Quantise for what each says."""

    scale: Literal["max", "power"]
    scales: Literal["current", "previous"]
    activation_bits: int
    weight_bits: int
    gradient_bits: int
    by_channel: bool = False
    results: Results = "float32"


@dataclass(frozen=True, kw_only=True)
class SignSettings(Settings):
    """How signs are taken on top: see SignPredict for what each says."""

    predictor_activation_bits: int
    predictor_gradient_bits: int
    beta: float
    fallback: Fallback
    unsure_limit: float
    measure: bool = False

    @property
    def is_prefix(self) -> bool:
        """Whether the predictor is the first half of the full product."""
        return self.predictor_activation_bits == self.activation_bits and self.predictor_gradient_bits == 8

    @property
    def rule(self) -> Rule:
        return Rule(self.fallback, self.beta, self.unsure_limit, self.measure)


def check_bits(name: str, settings: Settings, **limits: tuple[int, int]) -> None:
    """Raise UsageError for widths that no code has, or that lie outside `limits`; `name` is the pass's."""
    for option, (low, high) in {"activation_bits": (2, 8), "weight_bits": (2, 8), **limits}.items():
        value = getattr(settings, option)
        if not low <= value <= high:
            raise UsageError(f"{name}.{option} is {low} to {high}, not {value}")
    if settings.gradient_bits not in (8, 16):
        raise UsageError(f"{name}.gradient_bits is 8 or 16, not {settings.gradient_bits}")


def check_results(name: str, settings: Settings) -> None:
    """Raise UsageError for a type that results are not kept in; `name` is the pass's."""
    if settings.results not in get_args(Results):
        raise UsageError(f"{name}.results is one of {', '.join(get_args(Results))}, not {settings.results!r}")


class IntegerStep:
    """A step graph while its convolutions are rewritten in place, for the pass that `name` names.

    With SignSettings a weight's gradient is a sign, else the product's value.
    """

    def __init__(self, name: str, step: StepGraph, settings: Settings) -> None:
        self.name, self.step, self.settings = name, step, settings
        self.graph = step.graph
        self.masks = guard_of(step)
        self.activations: dict[Any, Codes] = {}
        self.weights: dict[Any, Codes] = {}
        self.planes: dict[Any, Planes] = {}
        self.summed: set[fx.Node] = set()
        self.states: list[tuple[Slot, fx.Node, fx.Node]] = []
        self.counters: list[tuple[Slot, fx.Node]] = []

    def rewrite(self, sites: Sequence[Site], products: Sequence[MatrixProduct] = ()) -> StepGraph:
        """The step with `sites` and `products` in integers, gradients from the last layer to the first."""
        self._keep_joins(sites)
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        backward = sorted(sites, key=lambda s: min(place[n] for n in _gradients(s)))
        pairs = {site.name: self._forward(site) for site in sites}
        for site in backward:
            self._backward(site, *pairs[site.name])
        for product in products:
            self._product(product)
        return self._finish()

    def _forward(self, site: Site) -> tuple[Codes, Codes]:
        """float(integer_convolution(codes of x, codes of w)) * steps + bias."""
        node = site.forward
        write = Writer(self.graph, node)
        with self.graph.inserting_before(node):
            x, w = self._activation(write, site), self._weight(write, site)
            y = write.cast(write(INTEGER_CONVOLUTION, x.code, w.code, *site.geometry), torch.float32)
            step = write(aten.mul.Tensor, x.step, self._by_output(write, w.step))
            y = self._kept(write, write(aten.mul.Tensor, y, step))
            if node.args[2] is not None:
                y = write(aten.add.Tensor, y, write(aten.view.default, node.args[2], [-1, 1, 1]))
        node.replace_all_uses_with(y)
        return x, w

    def _keep_joins(self, sites: Sequence[Site]) -> None:
        """What branches join to is kept as what they come from is."""
        if self.settings.results == "float32":
            return
        shapes = {node.meta["val"].shape for site in sites for node in (site.x, site.forward)}
        for node in joins(self.graph, shapes):
            with self.graph.inserting_before(node.next):
                readers = list(node.users)
                kept = self._kept(Writer(self.graph, node), node)
            for reader in readers:
                reader.replace_input_with(node, kept)

    def _kept(self, write: Writer, value: fx.Node) -> fx.Node:
        """A float32 value as it is after it was kept in the type of results."""
        if self.settings.results == "float32":
            return value
        return write.cast(write.cast(value, torch.bfloat16), torch.float32)

    def _by_output(self, write: Writer, step: fx.Node) -> fx.Node:
        """The step of a weight as a factor of the convolution's output."""
        return write(aten.view.default, step, [-1, 1, 1]) if self.settings.by_channel else step

    def _activation(self, write: Writer, site: Site) -> Codes:
        mask = self.masks.get(site.forward)
        key = (site.x, mask)
        if key not in self.activations:
            maximum = self._maximum(write, site.x, mask, f"{self.name}.{site.name}.x", FIRST_ACTIVATION)
            bits, scale = self.settings.activation_bits, self.settings.scale
            self.activations[key] = quantise.activation(write, site.x, maximum, bits, scale)
        return self.activations[key]

    def _weight(self, write: Writer, site: Site) -> Codes:
        if site.weight not in self.weights:
            s = self.settings
            self.weights[site.weight] = quantise.weight(
                write, site.weight, s.weight_bits, s.scale, s.by_channel
            )
        return self.weights[site.weight]

    def _maximum(self, write: Writer, x: fx.Node, mask: fx.Node | None, name: str, first: float) -> fx.Node:
        """The maximum that codes are scaled by: this step's, or the last executed one's, kept as state."""
        new = quantise.largest(write, x, mask)
        if self.settings.scales == "current":
            return new
        old = self._state(name)
        if mask is not None:
            new = write(aten.where.self, write(aten.amax.default, mask, [0]), new, old)
        self.states.append((Slot(Kind.PASS, name), old, new))
        return write(aten.where.self, write(aten.gt.Scalar, old, 0.0), old, write.constant(first))

    def _state(self, name: str) -> fx.Node:
        """A new input, float32 (), after the state that is there."""
        slots = zip(self.step.inputs, self.step.placeholders, strict=False)
        last = [node for slot, node in slots if slot.kind.is_state][-1]
        last = self.states[-1][1] if self.states else last
        with self.graph.inserting_after(last):
            node = self.graph.placeholder(re.sub(r"\W", "_", name))
        with last.meta["val"].fake_mode:
            value = torch.zeros(())
        module = name.removeprefix(f"{self.name}.").rpartition(".")[0]
        node.meta = {"val": value, "phase": "forward", "where": "", "module": module}
        return node

    def _backward(self, site: Site, x: Codes, w: Codes) -> None:
        g = self._gradient(site, w)
        if site.input_gradient is not None:
            self._input_gradient(site, site.input_gradient, g, w)
        write = Writer(self.graph, site.weight_gradient)
        if not isinstance(self.settings, SignSettings):
            self._full_gradient(write, site, x, g, w)
            return
        if not site.is_alone:
            self._full_gradient(write, site, x, g, w)
            self._sign_of_sum(site.root)
            return
        with self.graph.inserting_before(site.weight_gradient):
            product = Products(site.weight.meta["val"].shape, site.geometry, self._branches(site))
            factors = self._factors(self.settings, write, x, g, w)
            found = signs.signs(write, product, factors, self.settings.rule)
        _replace_in_update(site.root, found.value)
        for name, node in found.counters.items():
            self.counters.append((Slot(Kind.COUNTER, f"{self.name}.{site.name}.{name}"), node))

    def _product(self, product: MatrixProduct) -> None:
        """float(integer_convolution(rows, rows)) * steps, a gradient's planes one after the other."""
        node, others = product.node, product.others
        write = Writer(self.graph, node)
        with self.graph.inserting_before(node):
            values = self._matrix(write, product, product.values.node)
            rows = product.values.of(write, values.code)
            if product.is_backward:
                g = self._matrix_planes(write, product)
                high, low = (
                    plane and write(INTEGER_CONVOLUTION, rows, others.of(write, plane), *_POINT)
                    for plane in (g.high, g.low)
                )
                assert high is not None
                y = quantise.combined(write, high, low, write(aten.mul.Tensor, values.step, g.step))
            else:
                w = self._matrix(write, product, others.node)
                y = write(INTEGER_CONVOLUTION, rows, others.of(write, w.code), *_POINT)
                y = write.cast(y, torch.float32)
                y = write(aten.mul.Tensor, y, write(aten.mul.Tensor, values.step, w.step))
            y = write(aten.view.default, y, list(y.meta["val"].shape[:2]))
            y = write(aten.permute.default, y, [1, 0]) if product.is_transposed else y
        node.replace_all_uses_with(y)

    def _matrix(self, write: Writer, product: MatrixProduct, x: fx.Node) -> Codes:
        """The codes of a linear layer's input or weight."""
        key, s = (x, None), self.settings
        if key not in self.activations:
            if x.op == "placeholder":
                self.activations[key] = quantise.weight(write, x, s.weight_bits, s.scale, False)
            else:
                maximum = self._maximum(write, x, None, f"{self.name}.{product.name}.x", FIRST_ACTIVATION)
                self.activations[key] = quantise.activation(write, x, maximum, s.activation_bits, s.scale)
        return self.activations[key]

    def _matrix_planes(self, write: Writer, product: MatrixProduct) -> Planes:
        g, key = product.others.node, (product.others.node, None, None)
        if key not in self.planes:
            guess = first_gradient(g.meta["val"].shape[0])
            maximum = self._maximum(write, g, None, f"{self.name}.{product.name}.g", guess)
            needs_low = self.settings.gradient_bits == 16
            self.planes[key] = quantise.gradient(write, g, maximum, self.settings.scale, needs_low)
        return self.planes[key]

    def _gradient(self, site: Site, w: Codes) -> Planes:
        """The planes of the output gradient, with the weight's steps folded in where there are many."""
        mask = self.masks.get(site.forward)
        key = (site.gradient, mask, w.step if self.settings.by_channel else None)
        if key not in self.planes:
            uses = [n for n in site.gradient.users if n.target is aten.convolution_backward.default]
            first = next(n for n in self.graph.nodes if n in uses)
            write = Writer(self.graph, first)
            with self.graph.inserting_before(first):
                g = site.gradient
                if self.settings.by_channel:
                    g = write(aten.mul.Tensor, g, self._by_output(write, w.step))
                guess = first_gradient(g.meta["val"].shape[0])
                maximum = self._maximum(write, g, mask, f"{self.name}.{site.name}.g", guess)
                needs_low = self.settings.gradient_bits == 16
                self.planes[key] = quantise.gradient(write, g, maximum, self.settings.scale, needs_low)
        return self.planes[key]

    def _input_gradient(self, site: Site, node: fx.Node, g: Planes, w: Codes) -> None:
        """(256 * integer_input_gradient(high, w) + integer_input_gradient(low, w)) * steps."""
        write = Writer(self.graph, node)
        size = list(site.x.meta["val"].shape)
        with self.graph.inserting_before(node):
            high, low = (
                write(INTEGER_INPUT_GRADIENT, plane, w.code, size, *site.geometry) if plane else None
                for plane in (g.high, g.low)
            )
            step = g.step if self.settings.by_channel else write(aten.mul.Tensor, g.step, w.step)
            assert high is not None
            dx = self._kept(write, quantise.combined(write, high, low, step))
        result(node).replace_all_uses_with(dx)

    def _factors(self, s: SignSettings, write: Writer, x: Codes, g: Planes, w: Codes) -> Factors:
        scale = w.step if s.by_channel else None
        if s.is_prefix:
            return Factors(x.code, g.high, g.low, None, scale)
        short_x = signs.short_codes(write, x.code, s.predictor_activation_bits, s.activation_bits)
        short_g = signs.short_planes(write, g.rounded, s.predictor_gradient_bits)
        return Factors(x.code, g.high, g.low, (short_x, short_g), scale)

    def _full_gradient(self, write: Writer, site: Site, x: Codes, g: Planes, w: Codes) -> None:
        """(256 * integer_weight_gradient(x, high) + integer_weight_gradient(x, low)) * steps."""
        node, size = site.weight_gradient, list(site.weight.meta["val"].shape)
        with self.graph.inserting_before(node):
            parts = [
                write(INTEGER_WEIGHT_GRADIENT, x.code, plane, size, *site.geometry)
                for plane in (g.high, g.low)
                if plane is not None
            ]
            high, low = parts[0], parts[1] if len(parts) > 1 else None
            value = quantise.combined(write, high, low, write(aten.mul.Tensor, x.step, g.step))
            if self.settings.by_channel:
                value = write(aten.div.Tensor, value, w.step)
        result(node).replace_all_uses_with(value)

    def _sign_of_sum(self, root: fx.Node) -> None:
        """The sign of the gradient of a weight that is used more than once."""
        if root not in self.summed:
            self.summed.add(root)
            with self.graph.inserting_after(root):
                sign = Writer(self.graph, root)(aten.sign.default, root)
            _replace_in_update(root, sign)

    def _branches(self, site: Site) -> Any:
        def add(kind: str, graph: fx.Graph) -> str:
            name = re.sub(r"\W", "_", f"{site.name}_low_{kind}")
            self.step.module.add_submodule(name, graph_module({}, graph))
            return name

        return add

    def _finish(self) -> StepGraph:
        """The signature with new state before what is not state, new values and counters after all else."""
        values = dict(zip(self.step.outputs, self.step.results, strict=True))
        values |= {slot: new for slot, _, new in self.states} | dict(self.counters)
        self.graph.output_node().args = (list(values.values()),)
        self.graph.eliminate_dead_code()
        held = [slot for slot in self.step.inputs if slot.kind.is_state]
        rest = [slot for slot in self.step.inputs if not slot.kind.is_state]
        inputs = (*held, *(slot for slot, *_ in self.states), *rest)
        self.step.module.recompile()
        return replace(self.step, inputs=inputs, outputs=tuple(values))


def _gradients(site: Site) -> list[fx.Node]:
    return [n for n in (site.input_gradient, site.weight_gradient) if n is not None]


def _replace_in_update(gradient: fx.Node, sign: fx.Node) -> None:
    """The sign for all that the update reads of a gradient."""
    for user in list(gradient.users):
        if user.meta["phase"] == "update":
            user.replace_input_with(gradient, sign)
