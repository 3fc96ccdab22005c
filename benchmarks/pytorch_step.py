"""PyTorch's training step as the benchmarks run it, its floating-point operations and its memory."""

from collections.abc import Callable

import nets
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

# By the names of rows: compiled or not, and the memory format.
VARIANTS = {
    "eager": (False, torch.contiguous_format),
    "eager channels-last": (False, torch.channels_last),
    "compile": (True, torch.contiguous_format),
    "compile channels-last": (True, torch.channels_last),
}


class PyTorchStep:
    """Forward, backward and SGD with momentum and decay of one network on one batch."""

    def __init__(self, model: str, batch: int, variant: str) -> None:
        is_compiled, layout = VARIANTS[variant]
        self.module = nets.net(model).to(memory_format=layout)
        x, self.target = nets.batch(batch)
        self.x = x.to(memory_format=layout)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.criterion = nn.CrossEntropyLoss()
        self.loss: Callable[[], torch.Tensor] = torch.compile(self._loss) if is_compiled else self._loss

    def _loss(self) -> torch.Tensor:
        value: torch.Tensor = self.criterion(self.module(self.x), self.target)
        return value

    def __call__(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss()
        value.backward()
        self.optimizer.step()
        return float(value.detach())

    def peak_bytes(self) -> int:
        """The most tensor bytes alive at once in a step, by the events of PyTorch's allocator.

        State and the batch count, as do gradients and scratch memory from that allocator.
        """
        self()
        self.optimizer.zero_grad(set_to_none=True)
        state = [*self.module.parameters(), *self.module.buffers(), self.x, self.target]
        state += [t for held in self.optimizer.state.values() for t in held.values() if torch.is_tensor(t)]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            self()
        events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        alive = peak = sum(tensor.nbytes for tensor in state)
        for event in sorted(events, key=lambda event: event.start_ns()):
            alive += event.nbytes()
            peak = max(peak, alive)
        return peak


def step_flops(model: str, batch: int) -> int:
    """Floating-point operations of the contractions of a step: forward, and twice as many backward.

    The forward pass's are torch's count. It takes the gradients of convolutions in groups for dense ones. The
    first layer's input gradient, which no step computes, is in it.
    """
    step = PyTorchStep(model, batch, "eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step.module(step.x)
    return 3 * counter.get_total_flops()
