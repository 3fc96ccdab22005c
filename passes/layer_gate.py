"""LayerGate (SLU): a learned gate decides for each sample whether a residual block runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import fx

from e2compile.errors import CompileError, UsageError
from e2compile.forward import ForwardGraph
from e2compile.gates.blocks import Block, find_blocks
from e2compile.gates.masking import mask_norms
from e2compile.gates.network import PREFIX, Gates, initial
from e2compile.graph import Kind, Slot, insert, where
from e2compile.ops import GUARD, UNIFORM
from e2compile.pipeline import Change, Level

aten = torch.ops.aten


@dataclass(frozen=True)
class _Gate:
    """What a gate says: `chance` [samples or 1] of running, `mask` [samples], bool, and how many run."""

    chance: fx.Node
    mask: fx.Node
    count: fx.Node


@dataclass(frozen=True)
class LayerGate:
    """y = shortcut(x) + f(x)  ->  y = shortcut(x) + m * f(x), with m = uniform(seed, step) < p(x)

    Input-dependent selective layer update (E2-Train, section 3.2), with the recurrent gate of SkipNet (Wang
    et al., ECCV 2018): pool x, project it to 10 values, step an LSTM that all gates share, one step a block,
    project to one value, sigmoid. p = floor + (1 - floor) * that. Training draws m = uniform < p;
    evaluation takes p > 0.5. The straight-through gradient of p comes from executed samples (`estimator`),
    batch norm of f takes its statistics over them, and the loss gains a term that pulls the executed
    share of the blocks' multiply-accumulates to 1 - target_skip (`controller`).
    Counters `slu.<i>.executed`: the samples that block i ran for.
    Left alone: the first block (unless `first`), and what `find_blocks` leaves out, with a note each.
    """

    name: ClassVar[str] = "slu"
    level: ClassVar[Level] = Level.FORWARD

    target_skip: float = 0.4
    alpha: float = 10.0
    granularity: Literal["sample", "batch"] = "sample"
    estimator: Literal["executed", "importance", "dense"] = "executed"
    floor: float = 0.05
    first: bool = False
    controller: Literal["quadratic", "bang_bang"] = "quadratic"
    beta: float = 1e-5
    evaluation: Literal["threshold", "sample"] = "threshold"
    frozen: bool = True
    init_seed: int = 0

    def __post_init__(self) -> None:
        limits = {"target_skip": 1.0, "floor": 1.0, "alpha": float("inf"), "beta": float("inf")}
        for option, below in limits.items():
            value = getattr(self, option)
            if not 0 <= value < below:
                raise UsageError(f"slu.{option} must be at least 0 and below {below}, not {value}")

    def __call__(self, forward: ForwardGraph) -> Change:
        blocks, notes = find_blocks(forward.graph)
        if any(name.startswith(PREFIX) for name in forward.added):
            raise CompileError("the blocks are gated already: apply LayerGate once")
        if blocks and not self.first:
            notes = (f"{where(blocks[0].total)}: the first block always runs", *notes)
        if not blocks[not self.first :]:
            return Change(forward, 0, notes or ("no residual block",))
        result = forward.copy()
        blocks = find_blocks(result.graph)[0][not self.first :]
        parameters = initial([block.fork.meta["val"].shape[1] for block in blocks], self.init_seed)
        with torch.no_grad():
            gates = self._gates(result, blocks, parameters)
            for block, gate in zip(blocks, gates, strict=True):
                mask_norms(result.graph, block, gate.mask, gate.count)
                self._combine(result, block, gate)
            extra = self._regularise(result, blocks, gates) if result.training else ()
        result.module.recompile()
        result = replace(result, added={**forward.added, **parameters}, extra=(*forward.extra, *extra))
        return Change(result, len(blocks), notes)

    def _gates(self, forward: ForwardGraph, blocks: Sequence[Block], parameters: Any) -> list[_Gate]:
        """A gate right after each fork, before anything else is rewritten."""
        graph, anchors = forward.graph, [_after(block.fork) for block in blocks]
        network = Gates(forward, parameters)
        draws: list[Any] = [n.args[2] for n in graph.find_nodes(op="call_function", target=UNIFORM)]
        site = 1 + max(draws, default=0)
        result = []
        for i, (block, anchor) in enumerate(zip(blocks, anchors, strict=True)):
            with graph.inserting_before(anchor):
                score = network.probability(block.fork, block.total)
                result.append(self._decide(forward, score, i, site + i, block.total))
        return result

    def _decide(self, forward: ForwardGraph, score: fx.Node, number: int, site: int, blame: fx.Node) -> _Gate:
        """`score` [samples, 1] to a decision for each sample, by draw or by threshold."""
        call = _Calls(forward.graph, blame)
        samples = score.meta["val"].shape[0]
        chance = call(aten.view.default, score, [samples])
        if self.floor:
            scaled = call(aten.mul.Scalar, chance, 1 - self.floor)
            chance = call(aten.add.Scalar, scaled, self.floor)
        if self.granularity == "batch":
            chance = call(aten.mean.dim, chance, [0], True)
        size = list(chance.meta["val"].shape)
        if forward.training or self.evaluation == "sample":
            seed, step = (forward.graph.find_nodes(op="placeholder", target=n)[0] for n in ("seed", "step"))
            draw = call(UNIFORM, seed, step, site, size)
            mask = call(aten.lt.Tensor, draw, chance)
        else:
            mask = call(aten.gt.Scalar, chance, 0.5)
        if self.granularity == "batch":
            mask = call(aten.expand.default, mask, [samples])
        if self.estimator != "dense":
            mask = call(GUARD, mask, f"{PREFIX}{number}", self.frozen)
        return _Gate(chance, mask, call(aten.sum.default, mask))

    def _combine(self, forward: ForwardGraph, block: Block, gate: _Gate) -> None:
        """The addition, with the branch where the mask is set and nothing where it is not."""
        graph, total = forward.graph, block.total
        branch, shortcut = _sides(block)
        with graph.inserting_before(total):
            call = _Calls(graph, total)
            mask = call(aten.view.default, gate.mask, [-1, 1, 1, 1])
            if self.estimator != "dense" or not forward.training:
                zero = call(aten.full.default, [], 0.0, dtype=branch.meta["val"].dtype)
                branch = call(aten.where.self, mask, branch, zero)
            if forward.training:
                branch = call(aten.mul.Tensor, self._straight_through(call, mask, gate.chance), branch)
            result = call(aten.add.Tensor, shortcut, branch)
        total.replace_all_uses_with(result)
        graph.erase_node(total)

    def _straight_through(self, call: "_Calls", mask: fx.Node, chance: fx.Node) -> fx.Node:
        """The mask as a number, with the gradient of p; `importance` divides that by p, to be unbiased."""
        ones = call(aten._to_copy.default, mask, dtype=torch.float32)
        chance = call(aten.view.default, chance, [-1, 1, 1, 1])
        fixed = call(aten.detach.default, chance)
        zero = call(aten.sub.Tensor, chance, fixed)
        if self.estimator == "importance":
            zero = call(aten.div.Tensor, zero, call(aten.clamp_min.default, fixed, 0.1))
            zero = call(aten.mul.Tensor, ones, zero)
        return call(aten.add.Tensor, ones, zero)

    def _regularise(self, forward: ForwardGraph, blocks: Sequence[Block], gates: Sequence[_Gate]) -> Any:
        """The loss gains the controller's term; it and the counters become outputs. Gives their slots."""
        output: Any = forward.graph.output_node()
        loss, *others = output.args[0]
        macs = [block.macs for block in blocks]
        shares = [count / sum(macs) for count in macs]
        with forward.graph.inserting_before(output):
            call = _Calls(forward.graph, loss)
            controller = self._quadratic if self.controller == "quadratic" else self._bang_bang
            term = controller(call, shares, gates)
            loss = call(aten.add.Tensor, loss, term)
            term = call(aten.detach.default, term)
        output.args = ((loss, *others, term, *(gate.count for gate in gates)),)
        counters = (Slot(Kind.COUNTER, f"{PREFIX}{i}.executed") for i in range(len(gates)))
        return Slot(Kind.METRIC, "slu.regulariser"), *counters

    def _quadratic(self, call: "_Calls", shares: Sequence[float], gates: Sequence[_Gate]) -> fx.Node:
        """alpha * (sum_i share_i * mean p_i - (1 - target_skip))^2"""
        means = [call(aten.mean.default, gate.chance) for gate in gates]
        off = call(aten.sub.Scalar, _weighted(call, shares, means), 1 - self.target_skip)
        return call(aten.mul.Scalar, call(aten.mul.Tensor, off, off), self.alpha)

    def _bang_bang(self, call: "_Calls", shares: Sequence[float], gates: Sequence[_Gate]) -> fx.Node:
        """+-beta * sum over samples and gates of share_i * gates * m_i, + where the batch ran too much."""
        samples = gates[0].mask.meta["val"].shape[0]
        means, costs = [], []
        for gate in gates:
            ones = call(aten._to_copy.default, gate.mask, dtype=torch.float32)
            means.append(call(aten.mean.default, ones))
            zero = call(aten.sub.Tensor, gate.chance, call(aten.detach.default, gate.chance))
            costs.append(call(aten.mean.default, call(aten.add.Tensor, ones, zero)))
        above = call(aten.gt.Scalar, _weighted(call, shares, means), 1 - self.target_skip)
        sign = call(aten._to_copy.default, above, dtype=torch.float32)
        sign = call(aten.sub.Scalar, call(aten.mul.Scalar, sign, 2), 1)
        cost = call(aten.mul.Scalar, _weighted(call, shares, costs), self.beta * samples * len(gates))
        return call(aten.mul.Tensor, sign, cost)


@dataclass(frozen=True)
class _Calls:
    """Calls at a graph's insertion point, all for one node's sake."""

    graph: fx.Graph
    blame: fx.Node

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return insert(self.graph, target, *args, blame=self.blame, **kwargs)


def _after(fork: fx.Node) -> fx.Node:
    """The first call that may follow a fork's own."""
    node = fork.next
    while node.op in ("placeholder", "get_attr"):
        node = node.next
    return node


def _sides(block: Block) -> tuple[fx.Node, fx.Node]:
    """Branch and shortcut as they are now: norms and earlier blocks have been rewritten."""
    sides: Any = block.total.args[:2]
    return sides[block.place], sides[1 - block.place]


def _weighted(call: _Calls, weights: Sequence[float], values: Sequence[fx.Node]) -> fx.Node:
    terms = [call(aten.mul.Scalar, value, weight) for weight, value in zip(weights, values, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = call(aten.add.Tensor, total, term)
    return total
