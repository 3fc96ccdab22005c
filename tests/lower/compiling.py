"""Functions of tensors compiled for the CPU, many in one module, to be compared with PyTorch."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tvm
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from tvm import relax

from e2compile.differentiate import decompositions
from e2compile.graph import Kind, Slot, StepGraph, verify
from e2compile.lower.flat import fused
from e2compile.lower.layout import physical, state_orders
from e2compile.lower.module import Lowering
from e2compile.lower.views import squeezed
from e2compile.runtime.engine import memory_of
from e2compile.targets.llvm import CPU
from e2compile.targets.llvm.build import executable

aten = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """A graph with the tensors to run it on."""

    graph: StepGraph
    inputs: tuple[Tensor, ...]

    def expected(self) -> list[Tensor]:
        with torch.no_grad():
            return list(self.graph.module(*self.inputs))


def traced(function: Callable[..., Any], *inputs: Tensor, states: Mapping[int, int] | None = None) -> Case:
    """A function as a graph; `states` says which input is state, and which result replaces it."""
    states = states or {}
    module = make_fx(function, decompositions(), tracing_mode="fake")(*inputs)
    for node in list(module.graph.nodes):
        if node.target in (aten.clone.default, aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
        if node.target is aten.view.default:
            node.target = aten.reshape.default
    module.graph.eliminate_dead_code()
    (results,) = module.graph.output_node().args
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    module.graph.output_node().args = (results,)
    module.graph.set_codegen(fx.graph.CodeGen())
    old = {result: i for i, result in states.items()}
    slots = [Slot(Kind.PARAMETER if i in states else Kind.DATA, f"x{i}") for i in range(len(inputs))]
    outputs = [Slot(Kind.PARAMETER, f"x{old[i]}") if i in old else metric(i) for i in range(len(results))]
    return Case(_labelled(module, slots, outputs), inputs)


def called(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Case:
    """A graph of one call, all its results returned; lists may hold tensors."""
    graph, inputs = fx.Graph(), list[Tensor]()

    def argument(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [argument(v) for v in value]
        if not isinstance(value, Tensor):
            return value
        inputs.append(value)
        return graph.placeholder(f"x{len(inputs) - 1}")

    call = graph.call_function(target, tuple(argument(a) for a in args), dict(kwargs))
    value = target(*args, **kwargs)
    results = [call]
    if not isinstance(value, Tensor):
        results = [
            graph.call_function(operator.getitem, (call, i)) for i, v in enumerate(value) if v is not None
        ]
    graph.output(results)
    slots = [Slot(Kind.DATA, f"x{i}") for i in range(len(inputs))]
    graph_module = fx.GraphModule({}, graph)
    return Case(
        _labelled(graph_module, slots, [metric(i) for i in range(len(results))], inputs), tuple(inputs)
    )


def metric(i: int) -> Slot:
    return Slot(Kind.METRIC, f"y{i}")


def _labelled(
    module: fx.GraphModule, slots: list[Slot], outputs: list[Slot], inputs: Sequence[Tensor] | None = None
) -> StepGraph:
    """With types, found by a run on fake tensors where the graph has none, and a phase on each node."""
    if inputs is not None:
        with FakeTensorMode() as mode:
            _Typing(module).run(*map(mode.from_tensor, inputs))
    for node in module.graph.nodes:
        node.meta |= {"phase": "forward", "where": "", "module": ""}
    module.recompile()
    graph = StepGraph(module, tuple(slots), tuple(outputs))
    verify(graph)
    return graph


class _Typing(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


def results(cases: Mapping[str, Case]) -> dict[str, list[Tensor]]:
    """What each case's compiled form gives for each of its outputs, all built as one module."""
    lowering = Lowering(CPU.kernels)
    fusions = {name: fused(case.graph, scales=CPU.scales) for name, case in cases.items()}
    orders = {name: state_orders(fusion.step) for name, fusion in fusions.items()}
    functions = {name: f"function{i}" for i, name in enumerate(cases)}
    for name, fusion in fusions.items():
        lowering.function(functions[name], fusion, orders[name])
    machine = relax.VirtualMachine(executable(lowering.module()), tvm.cpu())
    return {name: _run(machine, functions[name], case, orders[name]) for name, case in cases.items()}


def _run(machine: Any, name: str, case: Case, orders: dict[str, tuple[int, ...]]) -> list[Tensor]:
    arguments = [
        _in_order(tensor, orders[slot.target]) if slot.kind.is_state else tensor
        for slot, tensor in zip(case.graph.inputs, case.inputs, strict=True)
    ]
    given = [tvm.runtime.tensor(a.contiguous().numpy().copy()) for a in arguments]
    returned = iter(machine[name](*given, *machine[memory_of(name)]()))
    states = [i for i, slot in enumerate(case.graph.inputs) if slot.kind.is_state]
    place = {slot.target: i for i, slot in enumerate(case.graph.inputs)}
    found = []
    for slot, node in zip(case.graph.outputs, case.graph.results, strict=True):
        if slot.kind.is_state:
            i = place[slot.target]
            found.append(_natural(given[i].numpy(), case.inputs[i].shape, orders[slot.target]))
        else:
            result = next(returned)
            assert not any(np.shares_memory(result.numpy(), given[i].numpy()) for i in states)
            found.append(torch.from_dlpack(result).clone().view(node.meta["val"].dtype))
    return found


def _in_order(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    return tensor.reshape(squeezed(tensor.shape)).permute(order).contiguous()


def _natural(array: Any, shape: Sequence[int], order: tuple[int, ...]) -> Tensor:
    assert array.shape == physical(tuple(shape), order)
    return (
        torch.from_numpy(array)
        .permute(tuple(np.argsort(order).tolist()) if order else ())
        .reshape(tuple(shape))
    )


def assert_same(
    found: Sequence[Tensor], expected: Sequence[Tensor], rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Equal types and shapes; integers, booleans, NaN and infinities exact, other floats close."""
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        if wanted.is_floating_point():
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol, equal_nan=True)
        else:
            torch.testing.assert_close(got, wanted, rtol=0, atol=0)
