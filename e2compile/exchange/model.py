"""A Program's graphs as ONNX models: any stage, and the trained network for inference."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, helper

from e2compile.errors import UsageError
from e2compile.exchange import functions, operators
from e2compile.exchange.calls import Call, Value
from e2compile.exchange.values import ATEN, E2, OPSET, Builder, Type, tensor, types
from e2compile.runtime.stages import SavedStage

_VERSION = 1  # of the domains e2compile and org.pytorch.aten
_LARGEST = 2**31  # bytes of a model in one file
_OUTPUT = "output"
_WEIGHTS = ("parameter", "buffer")


def stage_model(stage: SavedStage) -> ModelProto:
    """A stage: conditionals are `If`, e2 operators nodes of the domain e2compile, and ATen's that ONNX has
    none for of org.pytorch.aten. Inputs and outputs say in their documentation what they are."""
    builder, known = _begin(stage)
    _body(builder, stage.graph, known)
    slots = stage.signature.get("outputs") or [["", "result"]] * len(stage.graph["results"])
    outputs = []
    for i, (name, (kind, target)) in enumerate(zip(stage.graph["results"], slots, strict=True)):
        value = known[name]
        builder.emit("Identity", [value], [f"output_{i}"])
        outputs.append(builder.types[value].named(f"output_{i}", f"{kind} {target}".strip()))
    inputs = [builder.types[known[place["name"]]] for place in stage.graph["inputs"]]
    named = [
        known_type.named(place["name"], text)
        for place, known_type, text in zip(stage.graph["inputs"], inputs, _slots(stage), strict=True)
    ]
    graph = helper.make_graph(builder.nodes, stage.name, named, outputs)
    return _model(graph, builder, f"stage {stage.name} of a training step")


def inference_model(evaluation: SavedStage, weights: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The network in evaluation mode with its weights, in ONNX's own operators, for batches of the Program's
    size. Raises UsageError, with the user's lines, where ONNX's own operators do not suffice.
    """
    builder, known = _begin(evaluation)
    _body(builder, evaluation.graph, known)
    targets = [target for _, target in evaluation.signature["outputs"]]
    result = known[evaluation.graph["results"][targets.index(_OUTPUT)]]
    builder.emit("Identity", [result], [_OUTPUT])
    nodes, needed = _needed(builder.nodes)
    for node in _all_nodes(nodes):
        if (node.domain, node.op_type) == (E2, "guard"):
            node.CopyFrom(helper.make_node("Identity", node.input, node.output))
    lacking = [f"{node.op_type} ({node.doc_string})" for node in _all_nodes(nodes) if node.domain]
    if lacking:
        raise UsageError("\n  ".join(["ONNX has no operator for a part of this network:", *lacking]))
    inputs, initial = [], []
    slots = evaluation.signature["inputs"]
    for place, (kind, target) in zip(evaluation.graph["inputs"], slots, strict=True):
        name = place["name"]
        if name in needed and kind in _WEIGHTS:
            initial.append(tensor(name, weights[target]))
        elif name in needed:
            inputs.append(builder.types[name].named(name, f"{kind} {target}"))
    graph = helper.make_graph(nodes, "network", inputs, [builder.types[result].named(_OUTPUT)], initial)
    builder.domains = {""}
    return _model(graph, builder, "a trained network, for inference")


def _needed(nodes: Sequence[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that the network's output depends on, and the names of all that it does."""
    needed, found = {_OUTPUT}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed |= _read(node)
            found.append(node)
    return found[::-1], needed


def _begin(stage: SavedStage) -> tuple[Builder, dict[str, Any]]:
    """A builder that knows the graph's inputs. Raises UsageError for one that is no tensor."""
    builder, known = Builder(), {}
    for place in stage.graph["inputs"]:
        found = Type.parse(place["type"])
        if found is None:
            raise UsageError(f"input {place['name']} of stage {stage.name} is no tensor: {place['type']}")
        builder.types[place["name"]] = found
        known[place["name"]] = place["name"]
    return builder, known


def _slots(stage: SavedStage) -> list[str]:
    given = stage.signature.get("inputs") or [["", ""]] * len(stage.graph["inputs"])
    return [f"{kind} {target}".strip() for kind, target in given]


def _body(builder: Builder, graph: dict[str, Any], known: dict[str, Any]) -> None:
    """Add a graph's calls; `known` maps its names to values, or lists of them."""
    for node in graph["nodes"]:
        name = f"{builder.prefix}{node['name']}"
        if node["op"] == "get_attr":
            known[node["name"]] = _attribute(builder, node, name)
        elif node["op"] == "cond":
            known[node["name"]] = _conditional(builder, node, graph["branches"], known, name)
        elif node["op"] == "getitem":
            source, place = node["arguments"]
            known[node["name"]] = known[source["node"]][place]
        else:
            found = types(node["type"])
            results = [name] if len(found) == 1 else [f"{name}_{i}" for i in range(len(found))]
            arguments = [_resolved(a, known) for a in node["arguments"]]
            options = {key: _resolved(a, known) for key, a in node.get("options", {}).items()}
            call = Call(node["op"], arguments, options, results, found)
            before = len(builder.nodes)
            (functions if node["op"].startswith("e2.") else operators).convert(builder, call)
            for made in builder.nodes[before:]:
                made.doc_string = f"{node['phase']} {node['module']} {node['where']}"
            builder.types |= {r: t for r, t in zip(results, found, strict=True) if t is not None}
            known[node["name"]] = Value(name) if len(found) == 1 else [Value(r) for r in results]


def _attribute(builder: Builder, node: dict[str, Any], name: str) -> Any:
    """A branch's name, or a parameter of a forward graph: a value of the domain that gives it by name."""
    (argument,) = node["arguments"]
    if "branch" in argument:
        return argument["branch"]
    found = Type.parse(node["type"])
    builder.emit("parameter", [], [name], E2, name=argument["text"])
    if found is not None:
        builder.types[name] = found
    return Value(name)


def _resolved(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, dict) and "node" in value:
        found = known[value["node"]]
        return Value(found) if isinstance(found, str) else found
    if isinstance(value, list):
        return [_resolved(item, known) for item in value]
    return value


def _conditional(
    builder: Builder, node: dict[str, Any], branches: dict[str, Any], known: dict[str, Any], name: str
) -> list[Value]:
    """An `If` of two graphs, which read the operands as values from around them."""
    condition, taken, other, operands = node["arguments"]
    results = [Value(f"{name}_{i}") for i in range(len(types(node["type"])))]
    graphs = []
    for branch in (known[taken["node"]], known[other["node"]]):
        content = branches[branch]
        inner = Builder(f"{name}.{branch}.", types=dict(builder.types), domains=builder.domains)
        places = zip(content["inputs"], operands, strict=True)
        mapping = {place["name"]: known[operand["node"]] for place, operand in places}
        _body(inner, content, mapping)
        outputs = []
        for i, result in enumerate(content["results"]):
            value = mapping[result]
            inner.emit("Identity", [value], [f"{inner.prefix}output_{i}"])
            outputs.append(inner.types[value].named(f"{inner.prefix}output_{i}"))
        graphs.append(helper.make_graph(inner.nodes, branch, [], outputs))
    builder.emit("If", [known[condition["node"]]], results, then_branch=graphs[0], else_branch=graphs[1])
    for result, found in zip(results, types(node["type"]), strict=True):
        if found is not None:
            builder.types[result] = found
    return results


def _read(node: onnx.NodeProto) -> set[str]:
    """What a node reads, its branches included."""
    names = set(node.input)
    for graph in _branches(node):
        for inner in graph.node:
            names |= _read(inner)
    return names


def _branches(node: onnx.NodeProto) -> list[GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes and those of their branches."""
    found = []
    for node in nodes:
        found += [node, *(inner for graph in _branches(node) for inner in _all_nodes(graph.node))]
    return found


def _model(graph: GraphProto, builder: Builder, about: str) -> ModelProto:
    """The model, checked. Raises UsageError for one that is too large for a file of ONNX."""
    domains = {"": OPSET} | {name: _VERSION for name in (E2, ATEN) if name in builder.domains}
    model = helper.make_model(
        graph,
        producer_name="e2compile",
        doc_string=about,
        opset_imports=[helper.make_opsetid(name, version) for name, version in domains.items()],
        functions=functions.functions() if E2 in domains else [],
        ir_version=8,
    )
    if model.ByteSize() >= _LARGEST:
        raise UsageError(f"the model takes {model.ByteSize():,} bytes; ONNX holds 2 GiB in a file")
    onnx.checker.check_model(model, full_check=True)
    return model
