"""Taps: which kernel of a compiled function writes the decisions and integer products of its graph."""

from dataclasses import dataclass

import torch
from torch import fx

from e2compile.lower.build import LoopKernel
from e2compile.lower.contraction import Call
from e2compile.lower.fuse import holder
from e2compile.lower.inline import origin
from e2compile.lower.layout import Order
from e2compile.lower.places import is_place, pixels
from e2compile.lower.schedule import Kernel, Schedule
from e2compile.lower.views import Shape, shape_of, squeezed
from e2compile.ops import PRODUCTS

_DECISIONS = (torch.bool, torch.int8, torch.uint8, torch.bfloat16)


@dataclass(frozen=True)
class Tap:
    """The `argument`-th argument of the `call`-th kernel that a function calls holds the value of `node`.

    It lies there as a tensor of the node's `shape` without its dimensions of one, in the order `order`.
    Where the kernel runs for live samples only, `mask` and `predicates` are what decided that, nodes that
    have taps of their own, and `axis` is the value's dimension of samples.
    """

    call: int
    argument: int
    node: fx.Node
    shape: Shape
    order: Order
    mask: fx.Node | None = None
    predicates: tuple[fx.Node, ...] = ()
    axis: int | None = None

    def logical(self, array: torch.Tensor) -> torch.Tensor:
        """The value as the graph has it, from what the kernel wrote."""
        if self.node.meta["val"].dtype is torch.bfloat16:
            array = array.view(torch.bfloat16)
        sizes = [squeezed(self.shape)[d] for d in self.order]
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        value = array.reshape(sizes).permute(back).reshape(self.shape).contiguous()
        return pixels(self.node, value) if is_place(self.node) and value.dtype is torch.uint8 else value


def taps(plan: Schedule) -> tuple[Tap, ...]:
    """A tap for each flag, code, place of a maximum, integer product and value rounded to bfloat16 that a
    function's kernels write."""
    return tuple(
        _tap(plan, number, argument, node, kernel)
        for number, kernel in enumerate(plan.kernels)
        for argument, node in _written(kernel)
        if node.meta["val"].dtype in _DECISIONS or node.target in PRODUCTS or is_place(node)
    )


def _tap(plan: Schedule, number: int, argument: int, node: fx.Node, kernel: Kernel) -> Tap:
    live = kernel.live if isinstance(kernel, (LoopKernel, Call)) else ()
    masks = [n for n in live if n.meta["val"].dim() == 1]
    return Tap(
        number,
        argument,
        origin(node),
        shape_of(node),
        plan.layout[node],
        origin(holder(masks[0])) if masks else None,
        tuple(origin(holder(n)) for n in live if n not in masks),
        plan.fusion.axes.get(node),
    )


def _written(kernel: Kernel) -> list[tuple[int, fx.Node]]:
    """The arguments of a kernel's call that hold its results, a result that nothing reads left out."""
    if isinstance(kernel, Call):
        first = len(kernel.operands) + (2 if kernel.live else 0)
        return [(first + i, r.node) for i, r in enumerate(kernel.results) if r.node is not None]
    if not isinstance(kernel, LoopKernel):
        return []
    loop = kernel.loop
    gates = 0 if loop.gate is None else 1 if loop.gate.batch is None else 2
    result, place = [], loop.inputs + gates
    for node, donor in zip(kernel.outputs, loop.donated, strict=True):
        if node is not None:
            result.append((place if donor is None else donor, node))
        place += donor is None
    return result
