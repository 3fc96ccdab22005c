"""The kernels of a graph and an order to run them in, state overwritten only after its last reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import torch
from torch import fx

from e2compile.graph import StepGraph
from e2compile.lower.access import is_affine, probe, strides
from e2compile.lower.build import LoopKernel, copy_loop, group_loop
from e2compile.lower.contraction import Call, call, lies_in
from e2compile.lower.fuse import Fusion, Group, aligned, holder
from e2compile.lower.inline import Live
from e2compile.lower.kinds import is_elementwise
from e2compile.lower.layout import Layout, Order, natural
from e2compile.lower.loop import Load
from e2compile.lower.views import shape_of, squeezed

aten = torch.ops.aten


@dataclass(frozen=True)
class Copy:
    """A loop that brings a node into a memory order, or into the state that it replaces."""

    kernel: LoopKernel
    node: fx.Node
    order: Order


@dataclass(frozen=True)
class LiveSamples:
    """Lists the samples that live where all of `live` hold, out of `samples`."""

    live: Live
    samples: int


Kernel = LoopKernel | Call | Copy | LiveSamples


@dataclass(frozen=True)
class Schedule:
    """Kernels in order. `returned` are the outputs that are not state, each row-major."""

    graph: StepGraph
    kernels: tuple[Kernel, ...]
    returned: tuple[fx.Node, ...]
    fusion: Fusion
    layout: Layout


def schedule(fusion: Fusion, layout_states: dict[str, Order] | None = None) -> Schedule:
    """Lay out and order the kernels of a fused graph."""
    layout = Layout(fusion.step, fusion, layout_states)
    return _Scheduler(fusion.step, fusion, layout).run()


class _Scheduler:
    def __init__(self, graph: StepGraph, fusion: Fusion, layout: Layout) -> None:
        self.graph, self.fusion, self.layout = graph, fusion, layout
        state = dict(zip((s.target for s in graph.inputs), graph.placeholders, strict=True))
        outputs = list(zip(graph.outputs, graph.results, strict=True))
        self.updates = [
            (state[s.target], n) for s, n in outputs if s.kind.is_state and state[s.target] is not n
        ]
        self.returned = tuple(n for s, n in outputs if not s.kind.is_state)
        self.donors = self._donors()

    def _donors(self) -> dict[fx.Node, fx.Node]:
        """Which new values may be written over the old by the loop that computes them."""
        donors: dict[fx.Node, fx.Node] = {}
        for old, new in self.updates:
            source = holder(new)
            is_plain = is_elementwise(source) and aligned(new, squeezed(shape_of(old)))
            # a loop's boolean values are not bound: one could be read after it is overwritten
            is_plain = is_plain and source.meta["val"].dtype == old.meta["val"].dtype != torch.bool
            if is_plain and source not in donors:
                donors[source] = old
        return donors

    def run(self) -> Schedule:
        """Build, order, and where overwriting makes a cycle write that state by a copy at the end."""
        while True:
            kernels = self._kernels()
            kernels += self._live_samples(kernels)
            try:
                order = tuple(TopologicalSorter(self._edges(kernels)).static_order())
            except CycleError as error:
                self._give_up(kernels, error.args[1])
                continue
            ordered = tuple(kernels[i] for i in order)
            return Schedule(self.graph, ordered, self.returned, self.fusion, self.layout)

    def _give_up(self, kernels: Sequence[Kernel], cycle: Sequence[int]) -> None:
        for i in cycle:
            for node in written(kernels[i]):
                if node in self.donors:
                    del self.donors[node]
                    return
        raise AssertionError("a cycle without state in it")

    def _kernels(self) -> list[Kernel]:
        """From the results back, so that each loop stores only what later kernels load."""
        copies = self._output_copies()
        kernels: list[Kernel] = list(copies.values())
        wanted = {n for k in kernels for n in read(k)} | set(self.donors)
        wanted |= {holder(n) for n in self.returned if (n, natural(shape_of(n))) not in copies}
        for group in sorted(self.fusion.groups, key=lambda g: -g.ancestors.bit_count()):
            if group.shape is None:
                made = call(group.nodes[0], self.layout)
                if not any(r.node in wanted for r in made.results):
                    continue
                self._operand_copies(made, copies, kernels)
                kernel: Kernel = made
            else:
                kernel = loop = self._loop(group, wanted, kernels)
                if not loop.outputs:
                    continue
            kernels.append(kernel)
            for other in [kernel, *(c for c in copies.values())]:
                wanted |= set(read(other))
        return kernels

    def _loop(self, group: Group, wanted: set[fx.Node], kernels: list[Kernel]) -> LoopKernel:
        kernel = group_loop(self.fusion, self.layout, group, wanted, self.donors)
        unsafe = [node for node in kernel.outputs if node in self.donors and not _is_in_place(kernel, node)]
        if not unsafe:
            return kernel
        for node in unsafe:
            copy = self._update_copy(self.donors.pop(node), node)
            kernels.append(copy)
            wanted |= set(read(copy))
        return group_loop(self.fusion, self.layout, group, wanted, self.donors)

    def _update_copy(self, old: fx.Node, new: fx.Node) -> Copy:
        order = self.layout[old]
        return Copy(copy_loop(self.fusion, self.layout, new, order, old), new, order)

    def _output_copies(self) -> dict[tuple[fx.Node, Order | None], Copy]:
        """State that no loop writes in place, and returned values that do not lie row-major."""
        copies: dict[tuple[fx.Node, Order | None], Copy] = {}
        for old, new in self.updates:
            if self.donors.get(holder(new)) is not old:
                copies[old, None] = self._update_copy(old, new)
        states = {
            n for s, n in zip(self.graph.inputs, self.graph.placeholders, strict=True) if s.kind.is_state
        }
        for node in self.returned:
            order = natural(shape_of(node))
            if holder(node) in states | set(self.donors) or not lies_in(node, order, self.layout):
                copies[node, order] = Copy(
                    copy_loop(self.fusion, self.layout, node, order, None), node, order
                )
        return copies

    def _operand_copies(
        self, kernel: Call, copies: dict[tuple[fx.Node, Order | None], Copy], kernels: list[Kernel]
    ) -> None:
        for operand in kernel.operands:
            key = (operand.node, operand.order)
            if key in copies or lies_in(operand.node, operand.order, self.layout):
                continue
            loop = copy_loop(self.fusion, self.layout, operand.node, operand.order, None)
            copies[key] = Copy(loop, operand.node, operand.order)
            kernels.append(copies[key])

    def _live_samples(self, kernels: Sequence[Kernel]) -> list[Kernel]:
        """A list for each set of conditions that kernels run under, and for those it is made from."""
        used = {live_kernel(kernel) for kernel in kernels}
        lives = {live[:depth] for live in used for depth in range(1, len(live) + 1)}
        (samples,) = {n.meta["val"].shape[0] for n in self.layout.data} if lives else {0}
        return [LiveSamples(live, samples) for live in lives]

    def _edges(self, kernels: Sequence[Kernel]) -> dict[int, set[int]]:
        """What each kernel waits for: its operands, and the other readers of state that it overwrites."""
        made: dict[object, int] = {}
        readers: dict[fx.Node, set[int]] = {}
        for i, kernel in enumerate(kernels):
            for result in written(kernel):
                made[result] = i
            if isinstance(kernel, Copy) and not _donated(kernel):
                made[kernel.node, kernel.order] = i
            if isinstance(kernel, LiveSamples):
                made[kernel.live] = i
            for source in read(kernel):
                readers.setdefault(source, set()).add(i)
        edges: dict[int, set[int]] = {}
        for i, kernel in enumerate(kernels):
            waits = {made[n] for n in read(kernel) if n in made}
            if isinstance(kernel, Call):
                keys = ((o.node, o.order) for o in kernel.operands)
                waits |= {made[key] for key in keys if key in made}
            if live_kernel(kernel):
                waits.add(made[live_kernel(kernel)])
            if isinstance(kernel, LiveSamples) and len(kernel.live) > 1:
                waits.add(made[kernel.live[:-1]])
            for old in _donated(kernel):
                waits |= readers.get(old, set())
            edges[i] = waits - {i}
        return edges


def read(kernel: Kernel) -> list[fx.Node]:
    """The holders that a kernel reads; a contraction's operands may come from copies of them."""
    if isinstance(kernel, LiveSamples):
        return [holder(kernel.live[-1])]
    if isinstance(kernel, Call):
        return [holder(o.node) for o in kernel.operands]
    loop = kernel.kernel if isinstance(kernel, Copy) else kernel
    return list(loop.inputs)


def live_kernel(kernel: Kernel) -> Live:
    """What must hold for a kernel to run."""
    if isinstance(kernel, LiveSamples):
        return ()
    return kernel.kernel.live if isinstance(kernel, Copy) else kernel.live


def written(kernel: Kernel) -> list[fx.Node]:
    """The holders that a kernel writes; a copy's result is no holder."""
    if isinstance(kernel, Call):
        return [r.node for r in kernel.results if r.node is not None]
    return [] if isinstance(kernel, (Copy, LiveSamples)) else [n for n in kernel.outputs if n is not None]


def _donated(kernel: Kernel) -> list[fx.Node]:
    if isinstance(kernel, (Call, LiveSamples)):
        return []
    loop = kernel.kernel if isinstance(kernel, Copy) else kernel
    return [loop.inputs[d] for d in loop.loop.donated if d is not None]


def _is_in_place(kernel: LoopKernel, node: fx.Node) -> bool:
    """Whether a loop reads the state it overwrites only where, and when, it writes it."""
    if any(reduce.kind == "moments" for reduce in kernel.loop.reduces):
        return False
    output = kernel.outputs.index(node)
    donor = kernel.loop.donated[output]
    buffer = kernel.loop.buffers[kernel.loop.inputs + output]
    place = probe(buffer.address, len(kernel.loop.shape))
    loads = [i for i in kernel.loop.instructions if isinstance(i, Load) and i.buffer == donor]
    return all(is_affine(i) and strides(kernel.loop, i) == place for i in loads)
