"""The update of a parameter as a graph, built from a torch.optim instance."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from e2compile.errors import UsageError

State = dict[str, Tensor]
Rule = Callable[[Tensor, Tensor, State, Tensor, dict[str, Any]], tuple[Tensor, State]]


@dataclass(frozen=True)
class Updated:
    """A parameter that the optimizer steps: its group, the group's index, and its state before the step."""

    name: str
    group: int
    options: dict[str, Any]
    state: State


def sgd(p: Tensor, grad: Tensor, state: State, rate: Tensor, options: dict[str, Any]) -> tuple[Tensor, State]:
    """torch.optim.SGD: decay, momentum, Nesterov. `rate` is the learning rate, shape ()."""
    grad = -grad if options["maximize"] else grad
    if options["weight_decay"]:
        grad = grad + options["weight_decay"] * p
    if not options["momentum"]:
        return p - rate * grad, {}
    buffer = options["momentum"] * state["momentum_buffer"] + grad
    step = grad + options["momentum"] * buffer if options["nesterov"] else buffer
    return p - rate * step, {"momentum_buffer": buffer}


def adam(
    p: Tensor, grad: Tensor, state: State, rate: Tensor, options: dict[str, Any]
) -> tuple[Tensor, State]:
    """torch.optim.Adam (Kingma & Ba 2015) with L2 decay, and AdamW (Loshchilov & Hutter 2019) with its own.

    The step count is float64: 1 - beta^t in float32 would lose four digits in the first steps.
    """
    beta1, beta2 = options["betas"]
    grad = -grad if options["maximize"] else grad
    if options["weight_decay"] and options["decoupled_weight_decay"]:
        p = p - rate * options["weight_decay"] * p
    elif options["weight_decay"]:
        grad = grad + options["weight_decay"] * p
    step = state["step"] + 1
    first = beta1 * state["exp_avg"] + (1 - beta1) * grad
    second = beta2 * state["exp_avg_sq"] + (1 - beta2) * grad * grad
    correction1 = (1 - torch.exp(step * math.log(beta1))).to(p.dtype)
    correction2 = torch.sqrt(1 - torch.exp(step * math.log(beta2))).to(p.dtype)
    denominator = torch.sqrt(second) / correction2 + options["eps"]
    new = p - rate / correction1 * first / denominator
    return new, {"step": step, "exp_avg": first, "exp_avg_sq": second}


RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: sgd,
    torch.optim.Adam: adam,
    torch.optim.AdamW: adam,
}


def updated(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Updated]:
    """The model's parameters that the optimizer steps, in the order of the model.

    Raises UsageError for an optimizer or an option that has no rule.
    """
    if type(optimizer) not in RULES:
        known = ", ".join(kind.__name__ for kind in RULES)
        raise UsageError(f"{type(optimizer).__name__} has no update rule; supported are {known}")
    place = {id(p): (i, g) for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) not in place:
            continue
        index, group = place[id(parameter)]
        _refuse(type(optimizer).__name__, group)
        options = {k: v for k, v in group.items() if k != "params"}
        yield Updated(name, index, options, _state(optimizer, parameter, options))


def added(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Iterator[Updated]:
    """Parameters that a pass brings: stepped with the options of the first group, from a fresh state."""
    options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    for name, value in parameters.items():
        yield Updated(name, 0, options, _fresh(optimizer, value, options))


def _refuse(name: str, group: dict[str, Any]) -> None:
    for option, why in (
        ("dampening", "the first step would differ from all others"),
        ("amsgrad", "it has no update rule"),
    ):
        if group.get(option):
            raise UsageError(f"{name}({option}={group[option]}) is not supported: {why}")


def _state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, options: dict[str, Any]) -> State:
    """State as it is, or as the first step would find it."""
    present = optimizer.state.get(parameter, {})
    return {
        name: present[name].detach().to(value.dtype) if present.get(name) is not None else value
        for name, value in _fresh(optimizer, parameter.detach(), options).items()
    }


def _fresh(optimizer: torch.optim.Optimizer, value: Tensor, options: dict[str, Any]) -> State:
    zero = torch.zeros_like(value)
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": zero} if options["momentum"] else {}
    return {"step": torch.zeros((), dtype=torch.float64), "exp_avg": zero, "exp_avg_sq": zero.clone()}


def trace(kind: type[torch.optim.Optimizer], item: Updated, parameter: Tensor) -> fx.GraphModule:
    """The update of one parameter as an ATen graph.

    Placeholders: parameter, gradient, learning rate (), then the state in its order; results: the new
    parameter, then the new state in the same order.
    """
    rule, names = RULES[kind], list(item.state)

    def update(p: Tensor, grad: Tensor, rate: Tensor, *state: Tensor) -> list[Tensor]:
        new, after = rule(p, grad, dict(zip(names, state, strict=True)), rate, item.options)
        return [new, *(after[name] for name in names)]

    # One tensor object handed over twice would be traced as one input.
    examples = [torch.empty_like(parameter) for _ in range(2)]
    state = [torch.empty_like(s) for s in item.state.values()]
    return make_fx(update, tracing_mode="fake")(*examples, torch.zeros(()), *state)
