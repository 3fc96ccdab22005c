"""A graph as data: what a Program keeps of each stage as JSON, to query, draw and export without torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from e2compile.graph import targets, type_text, where

# What is added to a call's record, by the call.
Extra = Mapping[fx.Node, Mapping[str, Any]]


def graph_data(module: fx.GraphModule, extra: Extra | None = None) -> dict[str, Any]:
    """A graph: `inputs`, `nodes` in order, `results` by name, and the graphs of its `branches` by name.

    Names are those of the printed text without the percent sign. A node's `arguments` and `options` hold
    what JSON does, and {"node": name}, {"branch": name}, {"dtype": name}, {"float": "inf"} and, for whatever
    else there is, {"text": ...}.
    """
    names: dict[fx.Node, str] = {}
    inputs: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            names[node] = node.name
            inputs.append({"name": node.name, "type": type_text(node.meta.get("val"))})
        elif node.op in ("call_function", "get_attr"):
            names[node] = str(len(nodes))
            nodes.append(_record(node, names, module) | dict((extra or {}).get(node, {})))
    results: Any = module.graph.output_node().args[0]
    results = results if isinstance(results, (list, tuple)) else [results]
    children = {n: child for n, child in module.named_children() if isinstance(child, fx.GraphModule)}
    return {
        "inputs": inputs,
        "nodes": nodes,
        "results": [names[n] for n in results],
        "branches": {name: graph_data(child, extra) for name, child in children.items()},
    }


def _record(node: fx.Node, names: Mapping[fx.Node, str], module: fx.GraphModule) -> dict[str, Any]:
    """A call, or what reads an attribute: a parameter in forward graphs, a branch in steps."""
    record: dict[str, Any] = {
        "name": names[node],
        "op": targets(node),
        "type": type_text(node.meta.get("val")),
    }
    if node.op == "get_attr":
        is_branch = isinstance(getattr(module, str(node.target), None), fx.GraphModule)
        return record | {"arguments": [{"branch" if is_branch else "text": str(node.target)}]}
    record["arguments"] = [_argument(a, names) for a in node.args]
    if node.kwargs:
        record["options"] = {key: _argument(a, names) for key, a in node.kwargs.items()}
    return record | {
        "phase": node.meta.get("phase", ""),
        "module": node.meta.get("module", ""),
        "where": where(node),
    }


def _argument(value: Any, names: Mapping[fx.Node, str]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": names[value]}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_argument(v, names) for v in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return {"text": str(value)}
