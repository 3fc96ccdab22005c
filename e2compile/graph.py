"""The IR: an fx graph of ATen and e2 calls with a signature, its verifier and its printer."""

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, fx

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
    """A functional graph of one step, training or evaluation, with its signature; new state goes out as outputs that name the input they replace.

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
        graph = fx.Graph()
        result = graph.graph_copy(self.graph, mapping := {})
        graph.output(result)
        graph.output_node().meta = dict(self.graph.output_node().meta)
        for old, new in mapping.items():
            new.meta = dict(old.meta)
        return replace(self, module=fx.GraphModule(self.module, graph))


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
        short = {"float": "f", "int": "i", "uint": "u", "bool": "b", "bfloat": "bf"}
        name = re.fullmatch(r"torch\.([a-z]+)(\d*)", str(value.dtype))
        if name is None:
            return str(value.dtype)
        return f"{short[name[1]]}{name[2] or 8}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(type_text(v) for v in value) + ")"
    return type(value).__name__


def text(graph: StepGraph) -> str:
    """One typed line a node, stable enough for golden tests: names are given at print time, in order."""
    lines: list[str] = []
    names: dict[fx.Node, str] = {}
    slots = iter(graph.inputs)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            names[node] = f"%{node.name}"
            lines.append(f"{names[node]}: {type_text(node.meta['val'])}  # {next(slots)}")
        elif node.op == "output":
            lines += [
                f"return {slot} = {_argument(value, names)}"
                for slot, value in zip(graph.outputs, node.args[0], strict=True)
            ]
        else:
            names[node] = f"%{len(names) - len(graph.inputs)}"
            lines.append(_call_line(node, names))
    return "\n".join([*lines, *_branches(graph)]) + "\n"


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


def _branches(graph: StepGraph) -> Iterator[str]:
    for name, child in graph.module.named_children():
        if isinstance(child, fx.GraphModule):
            nodes = [n for n in child.graph.nodes if n.op == "call_function"]
            yield f"branch {name}: {len(nodes)} operations, {len(child.graph.output_node().args[0])} results"


def insert(graph: fx.Graph, target: Any, *args: Any, blame: fx.Node, **kwargs: Any) -> fx.Node:
    """A call at the graph's insertion point, typed by running it on fake tensors.

    Phase, module and user's line are those of `blame`.
    """
    node = graph.call_function(target, args, kwargs)
    plain_args, plain_kwargs = fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
    node.meta = {k: blame.meta[k] for k in ("phase", "where", "module") if k in blame.meta}
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
