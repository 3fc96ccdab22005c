"""Residual blocks: where a forward graph adds a branch to what it branched from, by structure alone."""

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import fx

from e2compile.gates.samples import CONVOLUTIONS, argument, is_per_sample, uses_batch_statistics
from e2compile.graph import targets, where

aten = torch.ops.aten

# Immediate dominators; the keys are all nodes that depend on the batch.
_Above = dict[fx.Node, fx.Node | None]
_Order = dict[fx.Node, int]

_ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)


@dataclass(frozen=True)
class Block:
    """total = shortcut + branch, where every path from the batch to `total` goes through `fork`.

    `branch` is the side with more convolutions, `place` its place among the addition's arguments.
    `inside` are the calls from fork to branch in order, `beside` those from fork to shortcut.
    """

    fork: fx.Node
    total: fx.Node
    shortcut: fx.Node
    branch: fx.Node
    place: int
    inside: tuple[fx.Node, ...]
    beside: tuple[fx.Node, ...]

    @property
    def norms(self) -> tuple[fx.Node, ...]:
        """The batch norms inside that use the statistics of the batch."""
        return tuple(node for node in self.inside if uses_batch_statistics(node))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the branch, forward, for one sample."""
        return sum(map(_macs, self.inside))


def find_blocks(graph: fx.Graph) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """The blocks whose branch can be left out for single samples, by depth; a line for each other block.

    `graph` is a captured forward graph: its placeholders are the batch, then seed and step.
    Left out are a block that holds a block, one whose branch is used elsewhere or mixes samples other than
    by batch norm, one with a batch norm that is called twice, and a sum of equally deep sides.
    """
    above, order = _dominators(graph), {node: i for i, node in enumerate(graph.nodes)}
    found: list[Block] = []
    notes: list[str] = []
    for total in graph.nodes:
        block = _candidate(total, above, order)
        if block is None:
            continue
        why = _why_not(block, found)
        if why is None:
            found.append(block)
        else:
            notes.append(f"{where(total)}: {why}")
    found.sort(key=lambda block: (order[block.fork], order[block.total]))
    return tuple(found), tuple(notes)


def _dominators(graph: fx.Graph) -> _Above:
    """The last node that all paths from the batch to a node go through; None where there is none.

    Parameters, buffers and draws do not count: their edges are not the data's.
    """
    above: _Above = {}
    depth: dict[fx.Node | None, int] = {None: 0}

    def meet(a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        while a is not b:
            if depth[a] < depth[b]:
                a, b = b, a
            assert a is not None
            a = above[a]
        return a

    for node in graph.nodes:
        sources: list[fx.Node | None] = [n for n in node.all_input_nodes if n in above]
        if node.op == "placeholder" and node.name not in ("seed", "step"):
            above[node] = None
        elif sources:
            above[node] = reduce(meet, sources)
        else:
            continue
        depth[node] = depth[above[node]] + 1
    return above


def _candidate(total: fx.Node, above: _Above, order: _Order) -> Block | None:
    """An addition of two tensors [samples, channels, height, width], one of them convolved."""
    fork = above.get(total)
    if total.target not in _ADDITIONS or fork is None or total.kwargs.get("alpha", 1) != 1:
        return None
    sides = [side for side in total.args[:2] if isinstance(side, fx.Node) and side in above]
    if len(set(sides)) != 2 or sides[0].meta["val"].shape != sides[1].meta["val"].shape:
        return None
    paths = [(_path(fork, side, above, order), side) for side in sides]
    (beside, shortcut), (inside, branch) = sorted(paths, key=lambda path: _convolutions(path[0]))
    if not _convolutions(inside) or branch.meta["val"].dim() != 4:
        return None
    return Block(fork, total, shortcut, branch, sides.index(branch), inside, beside)


def _path(fork: fx.Node, end: fx.Node, above: _Above, order: _Order) -> tuple[fx.Node, ...]:
    """The calls on the data's paths from fork to end, the latter included, in order."""
    seen: set[fx.Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node is not fork and node not in seen:
            seen.add(node)
            stack += [n for n in node.all_input_nodes if n in above]
    return tuple(sorted(seen, key=order.__getitem__))


def _convolutions(nodes: tuple[fx.Node, ...]) -> int:
    return sum(node.target in CONVOLUTIONS for node in nodes)


def _why_not(block: Block, found: list[Block]) -> str | None:
    inside = set(block.inside)
    if any(other.total in inside for other in found):
        return "it holds a block of its own"
    if _convolutions(block.beside) == _convolutions(block.inside):
        return "neither side is the shortcut: both have as many convolutions"
    for node in block.inside:
        allowed = inside | ({block.total} if node is block.branch else set())
        leaks = [user for user in node.users if user not in allowed]
        if leaks:
            return f"{targets(node)} inside it is used outside by {targets(leaks[0])}"
        if not is_per_sample(node, inside | {block.fork}):
            return f"{targets(node)} inside it may mix samples"
    return next((why for why in map(_why_not_norm, block.norms) if why), None)


def _why_not_norm(norm: fx.Node) -> str | None:
    """Statistics that another call reads or writes cannot be taken over this block's samples alone."""
    running = argument(norm, "running_mean")
    if isinstance(running, fx.Node) and len(running.users) > 1:
        return "a batch norm inside it is called twice"
    return None


def _macs(node: fx.Node) -> int:
    """Multiply-accumulates of a convolution or a linear layer for one sample."""
    if node.target not in (*CONVOLUTIONS, aten.linear.default):
        return 0
    x, weight = node.args[:2]
    positions = x if node.target is aten.conv_transpose2d.input else node
    return math.prod(_inner(weight)) * math.prod(_inner(positions))


def _inner(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape[1:])
