"""Conditionals taken apart: their calls in the graph itself, each marked with what lets it run."""

from typing import Any

import torch
from torch import fx

from e2compile.graph import StepGraph, graph_module
from e2compile.guards.batch_axis import batch_axes
from e2compile.guards.facts import Constant, Facts
from e2compile.ops import GUARD

# The guards and predicates that all must hold for a call to run, outermost first. A guard [samples] lets
# some samples live, a predicate () all or none.
Live = tuple[fx.Node, ...]

_COND = torch.ops.higher_order.cond


def live_of(node: fx.Node) -> Live:
    """What must hold for a call to run; nothing for most."""
    live: Live = node.meta.get("live", ())
    return live


def origin(node: fx.Node) -> fx.Node:
    """The call of the graph that was lowered which a node of the graph without conditionals stands for."""
    found: fx.Node = node.meta.get("origin", node)
    return found


def inlined(step: StepGraph) -> StepGraph:
    """The graph without conditionals: the calls of each, marked with the condition that lets them run.

    What a conditional gives where its condition does not hold is dropped: nothing may read it but through
    a choice by the same condition, or as state that then keeps its value.
    """
    if not step.graph.find_nodes(op="call_function", target=_COND):
        return step
    graph, new = fx.Graph(), dict[fx.Node, Any]()
    _inline(step.module, graph, new, ())
    graph.output([new[n] for n in step.results])
    flat = StepGraph(graph_module({}, graph), step.inputs, step.outputs)
    _specialise(flat)
    graph.eliminate_dead_code()
    return flat


def _inline(module: fx.GraphModule, graph: fx.Graph, new: dict[fx.Node, Any], live: Live) -> None:
    """Copies a module's calls; `new` maps its nodes, a conditional to the list of its results."""
    for node in module.graph.nodes:
        if node.op == "placeholder" and node not in new:
            new[node] = graph.placeholder(node.name)
            new[node].meta = dict(node.meta)
        elif node.op != "call_function":
            continue
        elif node.target is _COND:
            new[node] = _taken(module, node, graph, new, live)
        elif isinstance(node.args[0], fx.Node) and isinstance(new.get(node.args[0]), list):
            new[node] = new[node.args[0]][node.args[1]]
        else:
            new[node] = graph.node_copy(node, lambda n: new[n])
            new[node].meta = {"origin": node, **node.meta, "live": live}


def _taken(
    module: fx.GraphModule, call: fx.Node, graph: fx.Graph, new: dict[fx.Node, Any], live: Live
) -> list[fx.Node]:
    arguments: Any = call.args
    condition, branch, _, operands = arguments
    child: fx.GraphModule = getattr(module, str(branch.target))
    guard = call.meta.get("guard", condition)
    for place, operand in zip(child.graph.find_nodes(op="placeholder"), operands, strict=True):
        new[place] = new[operand]
    _inline(child, graph, new, (*live, new[guard]))
    results: Any = child.graph.output_node().args[0]
    return [new[n] for n in results]


def _specialise(step: StepGraph) -> None:
    """Within a guard's calls its mask is true: choices by it are made, products with it drop out."""
    plain = Facts(step.graph, batch_axes(step), value=True, by_row=True)
    guards = step.graph.find_nodes(op="call_function", target=GUARD)
    for guard, facts in [(guard, plain.given(guard)) for guard in guards]:
        for node in [node for node in step.graph.nodes if guard in live_of(node)]:
            for operand in node.all_input_nodes:
                same = facts.of[operand]
                if isinstance(same, fx.Node) and same is not operand and guard in live_of(operand):
                    node.replace_input_with(operand, same)
        results = [
            facts.of[n] if guard in live_of(n) and not isinstance(facts.of[n], Constant) else n
            for n in step.results
        ]
        step.graph.output_node().args = (results,)
