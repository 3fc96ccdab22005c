"""Forward: the user's step exported as a graph, their lines on every node, draws by counter."""

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.proxy import _register_stack_trace_anchor

from e2compile.errors import CompileError, UsageError
from e2compile.graph import Slot, copy_module, insert
from e2compile.ops import UNIFORM
from e2compile.task import Task

aten = torch.ops.aten

# What export puts before the names of the model's own tensors.
MODEL = "model."
_LIBRARY = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


@dataclass(frozen=True)
class ForwardGraph:
    """Forward and loss, not yet differentiated; parameters are get_attr nodes of `module`.

    Inputs: the batch, then seed and step (int64, shape ()). `training` graphs return the loss and,
    for a classification, the number of correct samples; evaluation graphs the model's output.
    A pass may add parameters, `added` by name with their initial values, and to a training graph outputs
    (metrics and counters), `extra`, after its own.
    """

    module: fx.GraphModule
    training: bool
    added: Mapping[str, Tensor] = field(default_factory=dict)
    extra: tuple[Slot, ...] = ()

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    def copy(self) -> "ForwardGraph":
        """A graph that can be changed without changing this one; parameters and buffers are shared."""
        return replace(self, module=copy_module(self.module))


def add_parameter(forward: ForwardGraph, name: str, value: Tensor) -> fx.Node:
    """A parameter of that dotted name in a forward graph's module, and the node that reads it.

    Raises CompileError where the module has something of that name; `added` is the caller's to set.
    """
    *owners, last = name.split(".")
    owner: nn.Module = forward.module
    for part in owners:
        if part not in dict(owner.named_children()):
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if hasattr(owner, last):
        raise CompileError(f"the graph has a parameter {name} already")
    owner.register_parameter(last, nn.Parameter(value.clone()))
    placeholders = list(forward.graph.find_nodes(op="placeholder"))
    with forward.graph.inserting_after(placeholders[-1]):
        node = forward.graph.get_attr(name)
    fake = placeholders[0].meta["val"].fake_mode.from_tensor(value.detach())
    blame = {"where": "", "module": name.rpartition(".")[0]}
    node.meta = {"val": fake, "phase": "forward", "custom": blame, **blame}
    return node


class _Training(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.loss = task.model, task.loss

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        before = [(m, name, b) for m in self.modules() for name, b in m._buffers.items() if b is not None]
        output = self.model(*batch[:-1])
        loss = self.loss(output, batch[-1])
        for module, name, buffer in before:
            _write_back(module, name, buffer)
        return loss, *(correct(output.detach(), batch[-1]).sum() for _ in classes(output, batch[-1]))


def _write_back(module: nn.Module, name: str, buffer: Tensor) -> None:
    """`self.mean = new` as `self.mean.copy_(new)`: torch.export loses an assignment without a word."""
    new = module._buffers[name]
    if new is not None and new is not buffer:
        buffer.copy_(new)
        module._buffers[name] = buffer


class _Evaluation(nn.Module):
    """The model alone: the loss of single samples is taken when the graph is made functional."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.loss = task.model, task.loss

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        return (self.model(*batch[:-1]),)


def classes(output: Tensor, target: Tensor) -> range:
    """One metric for a classification, none for anything else."""
    is_classification = output.dim() == 2 and target.dim() == 1 and not target.dtype.is_floating_point
    return range(int(is_classification))


def correct(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) == target).to(torch.int64)


def capture_forward(task: Task, training: bool) -> ForwardGraph:
    """Export one step of a task in training or evaluation mode.

    Raises CompileError, with the user's line, where torch.export cannot follow the model or the model
    draws numbers in a way that has no counter-based form.
    """
    modes = [(part, part.training) for part in task.model.modules()]
    if not isinstance(task.loss, nn.Module):
        _register_stack_trace_anchor(task.loss)  # else only lines of methods named forward are kept
    step: nn.Module = (_Training if training else _Evaluation)(task)
    step.train(training)
    try:
        module = _export(step, task.batch)
    finally:
        for part, mode in modes:
            part.training = mode
    for graph in [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]:
        for node in graph.nodes:
            blame = {"where": user_line(node), "module": _module_path(node)}
            # "custom" is what differentiation carries over to the nodes it makes
            node.meta |= {"phase": "forward", "custom": blame, **blame}
    _refuse_constants(module)
    _canonical_names(module, task.model)
    _add_counters(module)
    _draws_by_counter(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return ForwardGraph(module, training)


def _export(step: nn.Module, batch: tuple[Tensor, ...]) -> fx.GraphModule:
    try:
        with warnings.catch_warnings(), _use_lazy_graph_module(True):
            warnings.simplefilter("ignore")
            module = torch.export.export(step, batch, strict=False).module(check_guards=False)
    except Exception as error:
        why = str(error).splitlines()[0]
        raise CompileError(f"the model cannot be traced: {why}", _user_frames(error)) from error
    if not isinstance(module, fx.GraphModule):
        raise UsageError("the model has no graph")
    module.graph.set_codegen(fx.graph.CodeGen())
    return module


def _user_frames(error: BaseException) -> list[str]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith((*_LIBRARY, "<")) and "site-packages" not in name:
            frames.append(f"{Path(name).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames[-1:]


def user_line(node: fx.Node) -> str:
    """The innermost line outside torch and e2compile in a node's stack trace, "model.py:12: x = ..."."""
    lines = (node.meta.get("stack_trace") or "").splitlines()
    for place, source in reversed(list(itertools.pairwise(lines))):
        if not place.lstrip().startswith('File "'):
            continue
        path, number = place.split('"')[1], place.split("line ")[1].split(",")[0]
        if not path.startswith((*_LIBRARY, "<")):
            return f"{Path(path).name}:{number}: {source.strip()}"
    return ""


def _module_path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix(MODEL) if stack else ""


def _refuse_constants(module: fx.GraphModule) -> None:
    known = {*dict(module.named_parameters(remove_duplicate=False))}
    known |= {*dict(module.named_buffers(remove_duplicate=False)), *dict(module.named_modules())}
    plain = [node for node in module.graph.find_nodes(op="get_attr") if str(node.target) not in known]
    if plain:
        lines = [user_line(user) for node in plain for user in list(node.users)[:1]]
        message = (
            "a tensor is neither parameter nor buffer: hand it to register_buffer(..., persistent=False)"
        )
        raise CompileError(message, sorted(set(lines)))


def _canonical_names(module: fx.GraphModule, model: nn.Module) -> None:
    """One get_attr for one tensor: tied weights would otherwise become two inputs with two gradients."""
    first: dict[int, str] = {}
    canonical: dict[str, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        canonical[MODEL + name] = first.setdefault(id(tensor), MODEL + name)
    aliases = [name for name, own in canonical.items() if name != own]
    seen: dict[str, fx.Node] = {}
    for node in list(module.graph.find_nodes(op="get_attr")):
        target = canonical.get(str(node.target), str(node.target))
        if target in seen:
            node.replace_all_uses_with(seen[target])
            module.graph.erase_node(node)
        else:
            node.target = target
            seen[target] = node
    for alias in aliases:
        owner, _, name = alias.rpartition(".")
        with contextlib.suppress(AttributeError):  # export keeps those that it uses
            delattr(module.get_submodule(owner), name)


def _add_counters(module: fx.GraphModule) -> None:
    last = list(module.graph.find_nodes(op="placeholder"))[-1]
    mode = last.meta["val"].fake_mode
    for name in ("step", "seed"):
        with module.graph.inserting_after(last):
            node = module.graph.placeholder(name)
        node.meta["val"] = mode.from_tensor(torch.zeros((), dtype=torch.int64))


def _draws_by_counter(module: fx.GraphModule) -> None:
    """Each random call becomes a comparison with e2.uniform; its site is its place among the draws.

    bernoulli(q) is uniform < q, so dropout keeps where uniform < 1 - p, as PyTorch's own does.
    """
    graph = module.graph
    seed, step = (
        next(n for n in graph.find_nodes(op="placeholder") if n.name == name) for name in ("seed", "step")
    )
    sites = itertools.count(1)
    for node in filter(_is_random, list(graph.nodes)):
        rewrite = _DRAWS.get(node.target)
        if rewrite is None:
            raise CompileError(f"{node.target} has no counter-based form", [user_line(node)])

        def draw(size: Any, node: fx.Node = node) -> fx.Node:
            return insert(graph, UNIFORM, seed, step, next(sites), list(size), blame=node)

        with graph.inserting_before(node):
            node.replace_all_uses_with(rewrite(graph, node, draw))
        graph.erase_node(node)
    for node in graph.nodes:
        node.meta.setdefault("custom", {"where": "", "module": ""})
    for region in (part for part in module.modules() if isinstance(part, fx.GraphModule)):
        hidden = list(filter(_is_random, region.graph.nodes))
        if hidden:
            raise CompileError("a draw under torch.no_grad: take it out of there", [user_line(hidden[0])])


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


_Draw = Callable[[Any], fx.Node]


def _dropout(graph: fx.Graph, node: fx.Node, draw: _Draw) -> fx.Node:
    x, p, training = node.args
    shape = x.meta["val"].shape  # type: ignore[union-attr]
    if node.target in (aten.feature_dropout.default, aten.feature_dropout_.default):
        shape = [*shape[:2], *(1 for _ in shape[2:])]
    if not training or p == 0:
        return x  # type: ignore[return-value]
    if p == 1:
        return insert(graph, aten.mul.Scalar, x, 0.0, blame=node)
    keep = insert(graph, aten.lt.Scalar, draw(shape), 1 - p, blame=node)  # type: ignore[operator]
    scale = insert(graph, aten._to_copy.default, keep, dtype=torch.float32, blame=node)
    scale = insert(graph, aten.div.Scalar, scale, 1 - p, blame=node)  # type: ignore[operator]
    return insert(graph, aten.mul.Tensor, x, scale, blame=node)


def _bernoulli(graph: fx.Graph, node: fx.Node, draw: _Draw) -> fx.Node:
    """bernoulli(x), bernoulli(x, q) and x.bernoulli_(q)."""
    x, *q = node.args
    compare = aten.lt.Scalar if q else aten.lt.Tensor
    ones = insert(graph, compare, draw(x.meta["val"].shape), q[0] if q else x, blame=node)  # type: ignore[union-attr]
    ones = insert(graph, aten._to_copy.default, ones, dtype=x.meta["val"].dtype, blame=node)  # type: ignore[union-attr]
    if node.target is not aten.bernoulli_.float:
        return ones
    return insert(graph, aten.copy_.default, x, ones, blame=node)


def _rand(graph: fx.Graph, node: fx.Node, draw: _Draw) -> fx.Node:  # noqa: ARG001 - one form for all draws
    return draw(node.meta["val"].shape)


_DRAWS = {
    aten.dropout.default: _dropout,
    aten.dropout_.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.feature_dropout_.default: _dropout,
    aten.bernoulli.default: _bernoulli,
    aten.bernoulli.p: _bernoulli,
    aten.bernoulli_.float: _bernoulli,
    aten.rand.default: _rand,
    aten.rand_like.default: _rand,
}
