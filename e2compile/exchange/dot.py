"""A stage for Graphviz: calls as boxes, branches of conditionals as clusters."""

from collections.abc import Iterator
from typing import Any

from e2compile.runtime.stages import SavedStage

_COLOURS = {"forward": "#dbeafe", "backward": "#ede4f7", "update": "#dcf3e6"}


def dot(stage: SavedStage) -> str:
    """The stage as a digraph; `dot -Tsvg` draws it, though thousands of calls are better looked at in the
    report."""
    lines = [
        "digraph stage {",
        "rankdir=TB;",
        "node [shape=box, style=filled, fillcolor=white, fontsize=10];",
    ]
    slots = stage.signature.get("inputs") or [["input", place["name"]] for place in stage.graph["inputs"]]
    known = {}
    for place, (kind, target) in zip(stage.graph["inputs"], slots, strict=True):
        known[place["name"]] = place["name"]
        text = f"{kind} {target}\n{place['type']}"
        lines.append(f"{_quoted(place['name'])} [label={_quoted(text)}, shape=ellipse];")
    lines += _body(stage.graph, known, "")
    outputs = stage.signature.get("outputs") or [["result", ""]] * len(stage.graph["results"])
    for i, (name, (kind, target)) in enumerate(zip(stage.graph["results"], outputs, strict=True)):
        lines.append(f"output_{i} [label={_quoted(f'{kind} {target}'.strip())}, shape=ellipse];")
        lines.append(f"{_quoted(known[name])} -> output_{i};")
    return "\n".join([*lines, "}"]) + "\n"


def _body(graph: dict[str, Any], known: dict[str, str], prefix: str) -> Iterator[str]:
    """Nodes and edges; `known` maps the graph's names to those in the drawing, or to branches."""
    for node in graph["nodes"]:
        name = known[node["name"]] = f"{prefix}{node['name']}"
        if node["op"] == "get_attr" and "branch" in node["arguments"][0]:
            known[node["name"]] = node["arguments"][0]["branch"]
            continue
        text = f"{node['op']}\n{node['type']}\n{node.get('module', '')}".strip()
        colour = _COLOURS.get(node.get("phase", ""), "white")
        lines = [_quoted(name), f"[label={_quoted(text)}, fillcolor={_quoted(colour)},"]
        yield " ".join([*lines, f"tooltip={_quoted(node.get('where', ''))}];"])
        reads = [known[read] for read in _names([node["arguments"], node.get("options", {})])]
        branches = [read for read in reads if read in graph["branches"]] if node["op"] == "cond" else []
        yield from (f"{_quoted(read)} -> {_quoted(name)};" for read in reads if read not in branches)
        for branch in branches:
            yield from _branch(graph["branches"][branch], branch, name, node["arguments"][-1], known)


def _branch(
    graph: dict[str, Any], branch: str, owner: str, operands: Any, known: dict[str, str]
) -> Iterator[str]:
    inner = {p["name"]: known[name] for p, name in zip(graph["inputs"], _names(operands), strict=True)}
    prefix = f"{owner}.{branch}."
    yield f"subgraph {_quoted(f'cluster_{prefix}')} {{ label={_quoted(branch)}; color=gray;"
    yield from _body(graph, inner, prefix)
    yield "}"
    for result in graph["results"]:
        yield f"{_quoted(inner[result])} -> {_quoted(owner)} [style=dashed];"


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "node" in value:
            yield value["node"]
        else:
            for item in value.values():
                yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
