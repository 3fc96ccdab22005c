"""Fit: what the backward pass runs again of the forward pass, until a step's temporaries fit a budget."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from e2compile.errors import CompileError
from e2compile.graph import StepGraph
from e2compile.lower.arena import arena
from e2compile.lower.fuse import Fusion, holder, producer
from e2compile.lower.inline import origin
from e2compile.lower.kinds import Work, is_constant, work
from e2compile.lower.layout import state_orders
from e2compile.lower.liveness import Block, blocks, result_of
from e2compile.lower.recompute import LEAST_BYTES, copied
from e2compile.lower.schedule import Schedule, read, schedule
from e2compile.lower.views import shape_of
from e2compile.ops import PRODUCTS, SCALED

aten = torch.ops.aten

# What running something again is taken to cost; only the order of costs matters.
_MACS_PER_SECOND = {True: 2e11, False: 5e10}
_BYTES_PER_SECOND = 1e10
# A longer chain would run again for each of its links.
_MOST_CONTRACTIONS = 2


@dataclass(frozen=True)
class _Again:
    """A value of the forward pass to be made again: the calls for it and their seconds."""

    block: Block
    calls: frozenset[fx.Node]
    seconds: float


def fitted(step: StepGraph, budget_bytes: int) -> StepGraph:
    """The graph with calls of the forward pass run again in the backward pass, so that a step fits a budget.

    A step holds its state and batch besides its temporaries. Run again are first those calls that free most
    bytes for a second of work, contractions too; codes and draws are never made again. Raises CompileError,
    with the least that was reached, where nothing more can be given up.
    """
    given = sum(node.meta["val"].nbytes for node in step.placeholders)
    needed: list[int] = []
    # what is just enough at one peak can stand in the way at the next: then all that can be given up is
    for most in (False, True):
        found = _search(step, budget_bytes - given, most, needed)
        if found is not None:
            return found
    raise CompileError(
        f"a step needs at least {_megabytes(given + min(needed))} MB, {_megabytes(given)} MB of it for state "
        "and batch: give it that much with --memory-budget, or compile a smaller batch"
    )


def _search(step: StepGraph, budget_bytes: int, most: bool, needed: list[int]) -> StepGraph | None:
    """A graph whose temporaries fit, or None; `needed` gains what each graph on the way needs."""
    graph, given_up = copied(step), set[fx.Node]()
    states = state_orders(step)
    while True:
        plan = schedule(Fusion(graph), states)
        found = blocks(plan)
        needed.append(arena(found).bytes)
        if needed[-1] <= budget_bytes:
            return graph
        chooser = _Chooser(plan, found, given_up)
        chosen = chooser.chosen(needed[-1] - (0 if most else budget_bytes))
        if not chosen:
            return None
        for item in chosen:
            _run_again(graph.graph, item, chooser.held)


def _megabytes(count: int) -> int:
    return -(-count // 10**6)


class _Chooser:
    """What of the temporaries at a plan's peak could be made again after it; gains what is in `given_up`."""

    def __init__(self, plan: Schedule, found: tuple[Block, ...], given_up: set[fx.Node]) -> None:
        self.is_backward = [result_of(kernel).meta["phase"] == "backward" for kernel in plan.kernels]
        self.reads: dict[fx.Node, list[int]] = {}
        for number, kernel in enumerate(plan.kernels):
            for node in read(kernel):
                self.reads.setdefault(node, []).append(number)
        alive = np.zeros(len(plan.kernels) + 1, np.int64)
        for block in found:
            alive[block.first] += block.bytes
            alive[block.last + 1] -= block.bytes
        self.peak = int(np.argmax(np.cumsum(alive)))
        self.found = found
        self.held = {block.node: block for block in found}
        self.given_up = given_up

    def chosen(self, excess: int) -> list[_Again]:
        """Enough of them to free `excess` bytes, or all that there are."""
        at_peak = [b for b in self.found if b.first < self.peak < b.last and b.bytes >= LEAST_BYTES]
        options = [item for item in map(self._again, at_peak) if item is not None]
        result: list[_Again] = []
        for option in sorted(options, key=lambda item: item.seconds / item.block.bytes):
            item = self._again(option.block)  # what others gave up is no longer there to start from
            if item is not None and excess > 0:
                result.append(item)
                self.given_up.add(item.block.node)
                excess -= item.block.bytes
        return result

    def _again(self, block: Block) -> _Again | None:
        later = [number for number in self.reads.get(block.node, []) if number >= self.peak]
        if block.node in self.given_up or block.node.meta["phase"] != "forward" or not later:
            return None
        if min(later) == self.peak or not all(self.is_backward[number] for number in later):
            return None
        calls: set[fx.Node] = set()
        if not self._collect(block.node, min(later), calls, True):
            return None
        if sum(work(call) is Work.CONTRACT for call in calls) > _MOST_CONTRACTIONS:
            return None
        return _Again(block, frozenset(calls), sum(map(_seconds, calls)))

    def _collect(self, node: fx.Node, when: int, calls: set[fx.Node], is_first: bool = False) -> bool:
        """Gathers the calls that make a value from what lives at `when`; whether that can be."""
        node = producer(holder(node))
        if node.op == "placeholder" or is_constant(node) or node in calls:
            return True
        if not is_first and self._lives(node, when):
            return True
        value = node.meta["val"]
        is_product = node.target in (*PRODUCTS, *SCALED, aten.convolution.default)
        is_float = isinstance(value, torch.Tensor) and value.dtype.is_floating_point
        if not is_product and not (is_float and work(node) is Work.ELEMENTWISE):
            return False
        calls.add(node)
        return all(self._collect(operand, when, calls) for operand in node.all_input_nodes)

    def _lives(self, node: fx.Node, when: int) -> bool:
        results = [
            node,
            *(user for user in node.users if user.op == "call_function" and work(user) is Work.ITEM),
        ]
        held = [self.held[n] for n in results if n in self.held and n not in self.given_up]
        return any(block.last >= when or block.bytes < LEAST_BYTES for block in held)


def _seconds(call: fx.Node) -> float:
    size = call.meta["val"].nbytes
    if work(call) is not Work.CONTRACT:
        return float(size / _BYTES_PER_SECOND)
    taps = int(np.prod(shape_of(call.args[1])[1:]))  # type: ignore[arg-type]
    macs = call.meta["val"].numel() * taps
    return float(macs / _MACS_PER_SECOND[call.target in (*PRODUCTS, *SCALED)] + size / _BYTES_PER_SECOND)


def _run_again(graph: fx.Graph, item: _Again, held: Container[fx.Node]) -> None:
    """Copies of the calls before the first reader in the backward pass; all readers there take theirs."""
    readers, between = set[fx.Node](), set[fx.Node]()
    _find_readers(item.block.node, held, readers, between)
    ordered = [node for node in graph.nodes if node in readers]
    new: dict[fx.Node, fx.Node] = {}

    def copy(node: fx.Node) -> fx.Node:
        if node in new:
            return new[node]
        if not {node, producer(holder(node))} & (item.calls | between):
            return node
        for operand in node.all_input_nodes:
            copy(operand)
        new[node] = graph.node_copy(node, lambda n: new.get(n, n))
        new[node].meta = node.meta | {"phase": "backward", "origin": origin(node), "postponed": True}
        return new[node]

    with graph.inserting_before(ordered[0]):
        for reader in ordered:
            for operand in list(reader.all_input_nodes):
                if operand is item.block.node or operand in between:
                    reader.replace_input_with(operand, copy(operand))


def _find_readers(
    value: fx.Node, held: Container[fx.Node], readers: set[fx.Node], between: set[fx.Node]
) -> None:
    """The calls of the backward pass that read a value, and those of the forward pass through which they do.

    Calls in between are views and what no kernel stores, which is not among `held`.
    """
    for user in value.users:
        if user.op != "call_function" or user in between:
            continue
        if work(user) is not Work.VIEW and user.meta["phase"] == "backward":
            readers.add(user)
        elif work(user) in (Work.VIEW, Work.ELEMENTWISE) and user not in held:
            between.add(user)
            _find_readers(user, held, readers, between)
