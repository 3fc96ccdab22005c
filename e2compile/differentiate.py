"""Differentiate: a forward graph to one functional graph of forward, backward and update."""

import contextlib
import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx.experimental.proxy_tensor import make_fx

from e2compile import optimizer
from e2compile.decompose import decompositions
from e2compile.errors import CompileError, UsageError
from e2compile.forward import MODEL, ForwardGraph, classes, correct
from e2compile.graph import Kind, Slot, StepGraph, graph_module, insert, targets, type_text, where
from e2compile.task import Task

aten = torch.ops.aten


def differentiate(forward: ForwardGraph, task: Task) -> StepGraph:
    """Forward, backward and the optimizer's update as one graph over the task's parameters.

    Inputs: parameters, buffers, optimizer state, data, seed, step, learning rates [groups].
    Outputs: new buffers, parameters and optimizer state, then loss and metrics, and what `forward` has extra.
    Raises UsageError where nothing is trained, and CompileError where a gradient would have a tangent
    besides the loss's, which would make it wrong.
    """
    if not list(optimizer.updated(task.model, task.optimizer)):
        raise UsageError("the optimizer holds no parameter of the model that requires a gradient")
    taken = set(forward.added) & {name for name, _ in task.model.named_parameters()}
    if taken:
        raise CompileError(f"a pass adds {min(taken)}, which the model has too: rename the model's")
    joint = _joint(forward, task)
    builder = _Builder(joint, task, forward)
    builder.copy()
    builder.update()
    graph = builder.finish()
    return _tidy(graph)


def evaluation_graph(forward: ForwardGraph, task: Task) -> StepGraph:
    """An evaluation-mode forward graph in the same operators.

    Inputs: parameters, buffers, data, seed, step. Outputs: the loss of each sample [N], for a
    classification a correct flag each [N], and the model's output.
    Raises CompileError for a loss that torch.vmap cannot take sample by sample.
    """
    module = forward.module
    used = {str(n.target) for n in module.graph.find_nodes(op="get_attr")}
    loss = task.loss if isinstance(task.loss, nn.Module) else nn.Module()
    state = {n: t for n, t in [*module.named_parameters(), *module.named_buffers()] if n in used}
    state |= {f"loss.{n}": t for n, t in [*loss.named_parameters(), *loss.named_buffers()]}

    def run(state: dict[str, Tensor], *inputs: Tensor) -> list[Tensor]:
        with torch.nn.utils.stateless._reparametrize_module(module, {n: state[n] for n in used}):
            (output,) = fx.Interpreter(module).run(*inputs)
        target = inputs[-3]
        own = {n.removeprefix("loss."): t for n, t in state.items() if n.startswith("loss.")}
        losses = torch.vmap(lambda o, t: _loss(task, own, o[None], t[None]))(output, target)
        return [losses, *(correct(output, target) for _ in classes(output, target)), output]

    counters = (torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64))
    try:
        with torch.no_grad(), fx.traceback.preserve_node_meta():
            pure = torch.func.functionalize(run, remove="mutations")
            traced = make_fx(pure, decomposition_table=decompositions(), tracing_mode="fake")(
                state, *task.batch, *counters
            )
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise CompileError(f"the loss cannot be taken sample by sample: {why}") from error
    traced.graph.set_codegen(fx.graph.CodeGen())
    parameters = {*dict(task.model.named_parameters()), *forward.added}
    slots = [_state_slot(name, parameters) for name in state]
    slots += [Slot(Kind.DATA, str(i)) for i in range(len(task.batch))]
    slots += [Slot(Kind.SEED, "seed"), Slot(Kind.STEP, "step")]
    for node in traced.graph.nodes:
        _label(node, "forward")
    _name_placeholders(traced.graph, slots)
    results = list(traced.graph.output_node().args[0])  # type: ignore[arg-type]
    traced.graph.output_node().args = (results,)
    names = ("loss", "correct", "output") if len(results) == 3 else ("loss", "output")
    return _tidy(StepGraph(traced, tuple(slots), tuple(Slot(Kind.METRIC, name) for name in names)))


def _loss(task: Task, state: dict[str, Tensor], output: Tensor, target: Tensor) -> Tensor:
    if not isinstance(task.loss, nn.Module):
        return task.loss(output, target)
    result: Tensor = torch.func.functional_call(task.loss, state, (output, target))
    return result


def _state_slot(name: str, parameters: set[str]) -> Slot:
    name = name.removeprefix(MODEL)
    return Slot(Kind.PARAMETER if name in parameters else Kind.BUFFER, name)


def _joint(forward: ForwardGraph, task: Task) -> fx.GraphModule:
    counters = (torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64))
    with torch.enable_grad(), warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        joint = aot_export_joint_with_descriptors(
            stack, forward.module, (*task.batch, *counters), decompositions=decompositions()
        )
        module: fx.GraphModule = joint.graph_module
    tangents = [n for n in module.graph.find_nodes(op="placeholder") if _desc(n) == "TangentAOTInput"]
    if len(tangents) != 1:
        raise CompileError(f"{len(tangents)} outputs have a gradient, not the loss alone: detach the others")
    return module


def _desc(node: fx.Node) -> str:
    return type(node.meta.get("desc")).__name__


class _Builder:
    """Rebuilds a joint graph with named inputs, split convolution gradients and the update."""

    def __init__(self, joint: fx.GraphModule, task: Task, forward: ForwardGraph) -> None:
        self.joint, self.task, self.extra = joint, task, forward.extra
        self.graph = fx.Graph()
        self.map: dict[fx.Node, fx.Node] = {}
        self.inputs: list[Slot] = []
        self.outputs: list[tuple[Slot, fx.Node]] = []
        self.after: dict[str, fx.Node] = {}
        self.updated = [
            *optimizer.updated(task.model, task.optimizer),
            *optimizer.added(forward.added, task.optimizer),
        ]
        self.parameters = {**dict(task.model.named_parameters()), **forward.added}
        self.mode = next(iter(joint.graph.nodes)).meta["val"].fake_mode

    def placeholder(self, slot: Slot, value: Tensor) -> fx.Node:
        node = self.graph.placeholder(_slug(slot))
        fake = value if isinstance(value, torch._subclasses.FakeTensor) else self.mode.from_tensor(value)
        node.meta = {"val": fake, "phase": "forward", "where": "", "module": slot.target.rpartition(".")[0]}
        self.inputs.append(slot)
        return node

    def copy(self) -> None:
        """Inputs in the order of the signature, then the joint graph's calls."""
        nodes = list(self.joint.graph.find_nodes(op="placeholder"))
        tangent = next(n for n in nodes if _desc(n) == "TangentAOTInput")
        slots = {node: self._slot(node, len(self.task.batch)) for node in nodes if node is not tangent}
        self.names = {slot.target: node for node, slot in slots.items() if slot.kind.is_state}
        for node, slot in slots.items():
            if slot.kind.is_state:
                self.map[node] = self.placeholder(slot, node.meta["val"])
        self.states = {
            item.name: {
                key: self.placeholder(Slot(Kind.OPTIMIZER, f"{item.name}.{key}"), value)
                for key, value in item.state.items()
            }
            for item in self.updated
        }
        for node, slot in slots.items():
            if not slot.kind.is_state:
                self.map[node] = self.placeholder(slot, node.meta["val"])
        rates = torch.zeros(len(self.task.optimizer.param_groups))
        self.rates = self.placeholder(Slot(Kind.RATE, "rates"), rates)
        self._calls(tangent)

    def _slot(self, node: fx.Node, batch: int) -> Slot:
        desc = node.meta["desc"]
        if _desc(node) == "ParamAOTInput":
            return Slot(Kind.PARAMETER, desc.target.removeprefix(MODEL))
        if _desc(node) == "BufferAOTInput":
            return Slot(Kind.BUFFER, desc.target.removeprefix(MODEL))
        counters = {batch: Slot(Kind.SEED, "seed"), batch + 1: Slot(Kind.STEP, "step")}
        return counters.get(desc.idx, Slot(Kind.DATA, str(desc.idx)))

    def _calls(self, tangent: fx.Node) -> None:
        blame = next(iter(self.map.values()))
        fakes = {"dtype": tangent.meta["val"].dtype}
        with self.mode:
            self.map[tangent] = insert(self.graph, aten.full.default, [], 1, blame=blame, **fakes)
        self.map[tangent].meta["phase"] = "backward"
        backward = {tangent}
        for node in self.joint.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if node.meta.get("autograd_backward") or backward & set(node.all_input_nodes):
                backward.add(node)
            self.map[node] = self.graph.node_copy(node, lambda n: self.map[n])
            _label(self.map[node], "backward" if node in backward else "forward")
        self._results()
        loss = next(node for slot, node in self.outputs if slot.kind is Kind.LOSS)
        self.map[tangent].meta |= {key: loss.meta[key] for key in ("where", "module")}

    def _results(self) -> None:
        output = self.joint.graph.output_node()
        self.gradients: dict[str, fx.Node] = {}
        count = sum(type(d).__name__ == "PlainAOTOutput" for d in output.meta["desc"]) - len(self.extra)
        own = (Slot(Kind.LOSS, "loss"), Slot(Kind.METRIC, "correct"))[:count]
        plain = iter((*own, *self.extra))
        for node, desc in zip(output.args[0], output.meta["desc"], strict=True):  # type: ignore[arg-type]
            kind = type(desc).__name__
            if node is None:
                continue
            if kind == "InputMutationAOTOutput":
                name = desc.mutated_input.target.removeprefix(MODEL)
                self.outputs.append((Slot(Kind.BUFFER, name), self.map[node]))
            elif kind == "GradAOTOutput":
                self.gradients[desc.grad_of.target.removeprefix(MODEL)] = self.map[node]
            else:
                self.outputs.append((next(plain), self.map[node]))

    def update(self) -> None:
        """The optimizer's step, one traced graph for each shape and group."""
        traced: dict[Any, fx.GraphModule] = {}
        kind = type(self.task.optimizer)
        rates: dict[int, fx.Node] = {}
        for item in self.updated:
            if item.name not in self.gradients:
                continue
            parameter = self.map[self.names[item.name]]
            if item.group not in rates:
                with self.mode:
                    rate = insert(self.graph, aten.select.int, self.rates, 0, item.group, blame=parameter)
                rate.meta["phase"] = "update"
                rates[item.group] = rate
            key = (item.group, self.parameters[item.name].shape)
            if key not in traced:
                traced[key] = optimizer.trace(kind, item, self.parameters[item.name].detach())
            self._inline(traced[key], item.name, parameter, rates[item.group])

    def _inline(self, update: fx.GraphModule, name: str, parameter: fx.Node, rate: fx.Node) -> None:
        arguments = [parameter, self.gradients[name], rate, *self.states[name].values()]
        local = dict(zip(update.graph.find_nodes(op="placeholder"), arguments, strict=True))
        for node in update.graph.nodes:
            if node.op == "call_function":
                new = self.graph.node_copy(node, lambda n: local[n])
                new.meta = {"val": self._fake(node.meta["val"]), "phase": "update", "where": ""}
                new.meta["module"] = name.rpartition(".")[0]
                local[node] = new
        results = [local[n] for n in update.graph.output_node().args[0]]  # type: ignore[union-attr]
        self.outputs.append((Slot(Kind.PARAMETER, name), results[0]))
        for key, node in zip(self.states[name], results[1:], strict=True):
            self.outputs.append((Slot(Kind.OPTIMIZER, f"{name}.{key}"), node))

    def _fake(self, value: Tensor) -> Tensor:
        with self.mode:
            return torch.empty(value.shape, dtype=value.dtype)

    def finish(self) -> StepGraph:
        self.graph.output([node for _, node in self.outputs])
        module = graph_module(self.joint, self.graph)
        return StepGraph(module, tuple(self.inputs), tuple(slot for slot, _ in self.outputs))


def _label(node: fx.Node, phase: str) -> None:
    custom = node.meta.get("custom") or {}
    node.meta = {
        "val": node.meta.get("val"),
        "phase": phase,
        "where": custom.get("where", ""),
        "module": custom.get("module", ""),
    }


def _slug(slot: Slot) -> str:
    short = {Kind.PARAMETER: "param", Kind.OPTIMIZER: "optim", Kind.DATA: "data"}
    kind = short.get(slot.kind, slot.kind.value)
    name = slot.target if kind == slot.target else f"{kind}_{slot.target}"
    return name.replace(".", "_").replace(" ", "_")


def _name_placeholders(graph: fx.Graph, slots: list[Slot]) -> None:
    for node, slot in zip(list(graph.find_nodes(op="placeholder")), slots, strict=True):
        with graph.inserting_before(node):
            new = graph.placeholder(_slug(slot))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


_IDENTITIES = (aten.alias.default, aten.detach.default, aten.clone.default, aten.lift_fresh_copy.default)


def _is_moving(node: fx.Node) -> bool:
    """Whether a clone changes strides: without it, not every view after it is one."""
    if node.target is not aten.clone.default:
        return False
    return bool(node.meta["val"].stride() != node.args[0].meta["val"].stride())  # type: ignore[union-attr]


def _tidy(graph: StepGraph) -> StepGraph:
    """Split convolution gradients, no identities or copies, no duplicates, no dead code."""
    for node in list(graph.graph.find_nodes(op="call_function", target=aten.convolution_backward.default)):
        _split_convolution(graph.graph, node)
    if any(_is_moving(node) for node in graph.graph.nodes):
        for node in graph.graph.find_nodes(op="call_function", target=aten.view.default):
            node.target = aten.reshape.default
    for node in list(graph.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
        elif node.op == "call_function" and (node.target in _IDENTITIES or _keeps_type(node)):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten.copy.default and _is_whole(node):
            node.replace_all_uses_with(node.args[1])
            graph.graph.erase_node(node)
    slots = len(graph.inputs)
    result = fx_graph_cse(graph.graph)
    result.eliminate_dead_code()
    _blame_accumulations(result)
    assert len(result.find_nodes(op="placeholder")) == slots
    return StepGraph(graph_module(graph.module, result), graph.inputs, graph.outputs)


def _keeps_type(node: fx.Node) -> bool:
    """A cast to the type that the tensor has."""
    if node.target is not aten._to_copy.default:
        return False
    (source,) = node.all_input_nodes
    return type_text(source.meta["val"]) == type_text(node.meta["val"])


def _is_whole(copy: fx.Node) -> bool:
    """Whether copy(old, new) is new: nothing is broadcast or cast."""
    old, new = copy.args[:2]
    return type_text(old.meta["val"]) == type_text(new.meta["val"])  # type: ignore[union-attr]


def _split_convolution(graph: fx.Graph, node: fx.Node) -> None:
    """convolution_backward(mask=[1,1,1])  ->  a call each for input and weight, a sum for the bias."""
    for use in list(node.users):
        if use.target is not operator.getitem:
            raise CompileError(f"{targets(node)} is used whole", [where(node)])
        index = use.args[1]
        with graph.inserting_before(use), node.meta["val"][index].fake_mode:
            if index == 2:
                grad: fx.Node = node.args[0]  # type: ignore[assignment]
                dims = [0, *range(2, grad.meta["val"].dim())]
                new = insert(graph, aten.sum.dim_IntList, grad, dims, blame=node)
            else:
                mask = [index == 0, index == 1, False]
                call = insert(graph, node.target, *node.args[:-1], mask, blame=node)
                new = insert(graph, operator.getitem, call, index, blame=node)
        use.replace_all_uses_with(new)
        graph.erase_node(use)
    graph.erase_node(node)


def _blame_accumulations(graph: fx.Graph) -> None:
    """Autograd's accumulation adds carry no line; they get that of what they add."""
    for node in graph.nodes:
        if node.op == "call_function" and not (node.meta["where"] or node.meta["module"]):
            source = next((n for n in reversed(node.all_input_nodes) if n.meta.get("where")), None)
            if source is not None and node.meta["phase"] == "backward":
                node.meta |= {k: source.meta[k] for k in ("where", "module")}
