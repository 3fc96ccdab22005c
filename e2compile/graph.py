"""The IR: an fx graph of ATen and e2 calls with a signature, its verifier and its printer."""

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule

from e2compile.errors import CompileError


class Kind(StrEnum):
    """What an input or output of a graph is."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    OPTIMIZER = "optimizer state"
    PASS = "pass state"
    DATA = "data"
    SEED = "seed"
    STEP = "step"
    RATE = "learning rates"
    LOSS = "loss"
    METRIC = "metric"
    COUNTER = "counter"
    KEEP = "keep"

    @property
    def is_state(self) -> bool:
        return self in (Kind.PARAMETER, Kind.BUFFER, Kind.OPTIMIZER, Kind.PASS)


@dataclass(frozen=True)
class Slot:
    """One input or output. `target` is a name: of the module's state_dict for parameters and buffers,
    `<parameter>.<state>` for optimizer state, the metric's or counter's own otherwise."""

    kind: Kind
    target: str

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


@dataclass(frozen=True)
class StepGraph:
    """A functional graph of one step, training or evaluation, with its signature.

    New state goes out as outputs that name the input they replace.
    `module` runs in PyTorch as it stands: `module(*inputs)` returns a list as long as `outputs`.
    """

    module: fx.GraphModule
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    @property
    def placeholders(self) -> list[fx.Node]:
        return list(self.graph.find_nodes(op="placeholder"))

    @property
    def results(self) -> list[fx.Node]:
        return list(self.graph.output_node().args[0])  # type: ignore[arg-type]

    def placeholder(self, kind: Kind, target: str = "") -> fx.Node:
        """The placeholder of a kind and target; KeyError where there is none."""
        for slot, node in zip(self.inputs, self.placeholders, strict=True):
            if slot.kind == kind and target in ("", slot.target):
                return node
        raise KeyError(f"{kind} {target}")

    def copy(self) -> "StepGraph":
        """A graph that can be changed without changing this one."""
        return replace(self, module=copy_module(self.module))


def graph_module(root: nn.Module | dict[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A module of a graph, its Python code made when it is first run: most graphs on the way never are."""
    return _LazyGraphModule(root, graph)


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A module of its own graph, with what the graph reads, not copied."""
    graph, mapping = fx.Graph(), dict[fx.Node, fx.Node]()
    result = graph.graph_copy(module.graph, mapping)
    graph.output(result)
    graph.output_node().meta = dict(module.graph.output_node().meta)
    for old, new in mapping.items():
        # a conditional's guard is a node too
        new.meta = {k: mapping.get(v, v) if isinstance(v, fx.Node) else v for k, v in old.meta.items()}
    return graph_module(module, graph)


def targets(call: fx.Node) -> str:
    """The operator of a node in short: `aten.relu`, `e2.uniform`, `getitem`."""
    if call.op != "call_function":
        return call.op
    if call.target is operator.getitem:
        return "getitem"
    return re.sub(r"\.default$", "", str(call.target))


def where(node: fx.Node) -> str:
    """The user's line that a node comes from, "model.py:12: x = ..."; its module where there is no line."""
    return node.meta.get("where") or node.meta.get("module") or "the training step"


def type_text(value: Any) -> str:
    """`f32[128, 16]` for a tensor, in parentheses for several."""
    if isinstance(value, Tensor):
        short = {"float": "f", "int": "i", "uint": "u", "bool": "bool", "bfloat": "bf"}
        name = re.fullmatch(r"torch\.([a-z]+)(\d*)", str(value.dtype))
        if name is None:
            return str(value.dtype)
        return f"{short[name[1]]}{name[2]}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(type_text(v) for v in value) + ")"
    return type(value).__name__


def text(graph: StepGraph) -> str:
    """One typed line a node, stable enough for golden tests: names are given at print time, in order."""
    names: dict[fx.Node, str] = {}
    lines = []
    for slot, node in zip(graph.inputs, graph.placeholders, strict=True):
        names[node] = f"%{node.name}"
        lines.append(f"{names[node]}: {type_text(node.meta['val'])}  # {slot}")
    lines += body_lines(graph.module, names)
    for slot, value in zip(graph.outputs, graph.results, strict=True):
        lines.append(f"return {slot} = {names[value]}")
    return "\n".join([*lines, *_branches(graph.module)]) + "\n"


def body_lines(module: fx.GraphModule, names: dict[fx.Node, str]) -> list[str]:
    """The calls of a graph, one line each; `names` gains theirs."""
    lines: list[str] = []
    for node in module.graph.nodes:
        if node.op in ("call_function", "get_attr"):
            names[node] = f"%{len(lines)}"
            lines.append(_call_line(node, names))
    return lines


def _call_line(node: fx.Node, names: dict[fx.Node, str]) -> str:
    if node.op == "get_attr":
        return f"{names[node]} = {node.target}"
    arguments = [_argument(a, names) for a in node.args]
    arguments += [f"{key}={_argument(a, names)}" for key, a in sorted(node.kwargs.items())]
    line = f"{names[node]}: {type_text(node.meta.get('val'))} = {targets(node)}({', '.join(arguments)})"
    return f"{line}  # {node.meta.get('phase', '')} {where(node)}"


def _argument(value: Any, names: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_argument(v, names) for v in value) + "]"
    return str(value).removeprefix("torch.")


def _branches(module: fx.GraphModule) -> Iterator[str]:
    """The bodies of a graph's conditionals, indented below it."""
    for name, child in module.named_children():
        if not isinstance(child, fx.GraphModule):
            continue
        names = {n: f"%{n.name}" for n in child.graph.find_nodes(op="placeholder")}
        yield f"branch {name}:"
        yield from (f"  {line}" for line in body_lines(child, names))
        yield f"  return {_argument(child.graph.output_node().args[0], names)}"
        yield from (f"  {line}" for line in _branches(child))


def insert(graph: fx.Graph, target: Any, *args: Any, blame: fx.Node, **kwargs: Any) -> fx.Node:
    """A call at the graph's insertion point, typed by running it on fake tensors.

    Phase, module and user's line are those of `blame`.
    """
    node = graph.call_function(target, args, kwargs)
    plain_args, plain_kwargs = fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
    node.meta = {k: blame.meta[k] for k in ("phase", "where", "module", "custom") if k in blame.meta}
    node.meta["val"] = target(*plain_args, **plain_kwargs)
    return node


def verify(graph: StepGraph) -> None:
    """Raise CompileError for a graph that is not IR: untyped or unplaced nodes, impure or unknown calls,
    a signature that does not fit, new state of another type than the old."""
    graph.graph.lint()
    if len(graph.inputs) != len(graph.placeholders) or len(graph.outputs) != len(graph.results):
        raise CompileError("the signature and the graph differ in length")
    for node in graph.graph.nodes:
        if node.op == "call_function":
            _verify_call(node)
    old = {s.target: n for s, n in zip(graph.inputs, graph.placeholders, strict=True) if s.kind.is_state}
    for slot, node in zip(graph.outputs, graph.results, strict=True):
        if not slot.kind.is_state:
            continue
        before, after = type_text(old[slot.target].meta["val"]), type_text(node.meta["val"])
        if before != after:
            raise CompileError(f"new {slot} is {after}, the old one {before}", [where(node)])


def _verify_call(node: fx.Node) -> None:
    missing = [key for key in ("val", "phase") if key not in node.meta]
    if missing:
        raise CompileError(f"{node.format_node()} has no {', '.join(missing)}", [where(node)])
    if isinstance(node.target, torch._ops.OpOverload):
        if node.target._schema.is_mutable:
            raise CompileError(f"{node.target} writes to its arguments", [where(node)])
    elif node.target is not operator.getitem and not isinstance(node.target, torch._ops.HigherOrderOperator):
        raise CompileError(f"{node.target} is no ATen or e2 operator", [where(node)])


def live_first(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes and all they depend on."""
    seen: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return seen


def conditional(
    graph: fx.Graph,
    condition: fx.Node,
    operands: Sequence[fx.Node],
    values: Sequence[Any],
    branches: tuple[str, str] = ("execute", "skip"),
    blame: fx.Node | None = None,
) -> list[fx.Node]:
    """The results of the first submodule where the condition holds, of the second where not.

    Both take the same operands. `values` are fake tensors, one for each result. Phase, module and line
    are those of `blame`; without it those of the step itself.
    """
    source = blame.meta if blame is not None else {"phase": "forward", "where": "", "module": ""}
    meta = {key: source[key] for key in ("phase", "where", "module")}
    attributes = [graph.create_node("get_attr", name) for name in branches]
    call = graph.call_function(torch.ops.higher_order.cond, (condition, *attributes, tuple(operands)))
    call.meta = {"val": tuple(values), **meta}
    items = []
    for i, value in enumerate(values):
        item = graph.call_function(operator.getitem, (call, i))
        item.meta = {"val": value, **meta}
        items.append(item)
    return items


@dataclass(frozen=True)
class EntryPoints:
    """A step taken apart at its root guard: `keep` gives the condition from seed and step, or is None."""

    step: StepGraph
    keep: StepGraph | None


def entry_points(graph: StepGraph) -> EntryPoints:
    """The unconditional step and its guard, where one conditional gives all results but counters."""
    for call in graph.graph.find_nodes(op="call_function", target=torch.ops.higher_order.cond):
        inside = [
            slot for slot, r in zip(graph.outputs, graph.results, strict=True) if r.args and r.args[0] is call
        ]
        if any(slot.kind is not Kind.COUNTER and slot not in inside for slot in graph.outputs):
            continue
        condition, taken, _, operands = call.args
        assert list(operands) == graph.placeholders
        step: fx.GraphModule = getattr(graph.module, str(taken.target))
        return EntryPoints(StepGraph(step, graph.inputs, tuple(inside)), _condition(graph, condition))
    return EntryPoints(graph, None)


def _condition(graph: StepGraph, condition: fx.Node) -> StepGraph:
    """The part of a graph that a condition depends on, over seed and step alone."""
    needed = live_first([condition])
    slots = [(s, p) for s, p in zip(graph.inputs, graph.placeholders, strict=True) if p in needed]
    result = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node in needed:
            copies[node] = result.node_copy(node, lambda n: copies[n])
    result.output([copies[condition]])
    module = graph_module(graph.module, result)
    return StepGraph(module, tuple(slot for slot, _ in slots), (Slot(Kind.KEEP, "keep"),))


def in_float64(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with its float32 constants and casts in float64, for float64 inputs."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        if node.kwargs.get("dtype") is torch.float32:
            node.kwargs = {**node.kwargs, "dtype": torch.float64}
    branches = {n: in_float64(c) for n, c in module.named_children() if isinstance(c, fx.GraphModule)}
    return graph_module({**dict(module.named_children()), **branches}, graph)
