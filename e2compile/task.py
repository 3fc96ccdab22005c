"""What a model file declares: model, loss, optimizer, batch, schedule and data."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from e2compile.errors import UsageError

_LIBRARY = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))
_NAMES = ("model", "loss", "optimizer", "batch", "schedule", "data", "epochs")


@dataclass(frozen=True)
class Task:
    """A training task in plain PyTorch.

    `batch` holds example tensors: all but the last go to `model`, `loss(model(*x), y)` is minimised.
    `data` is a built-in name, a Dataset or None; `epochs` is what the schedule is tabulated for.
    """

    model: nn.Module
    loss: Callable[..., Tensor]
    optimizer: torch.optim.Optimizer
    batch: tuple[Tensor, ...]
    schedule: LRScheduler | None = None
    data: Any = None
    epochs: int = 1
    source: str = ""

    @property
    def schedule_unit(self) -> str:
        """What one `schedule.step()` stands for: "step" for the schedulers that PyTorch documents as
        stepped per batch (OneCycleLR, CyclicLR), "epoch" for all others."""
        return "step" if isinstance(self.schedule, (OneCycleLR, CyclicLR)) else "epoch"


def make_task(
    model: nn.Module,
    batch: tuple[Tensor, ...],
    loss: Callable[..., Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: LRScheduler | None = None,
    data: Any = None,
    epochs: int = 1,
    source: str = "",
) -> Task:
    """A task with defaults (cross-entropy; SGD 0.1, momentum 0.9, decay 1e-4), checked.

    Raises UsageError for what cannot be a task.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is {type(model).__name__}, not a torch.nn.Module")
    if (
        not isinstance(batch, (tuple, list))
        or len(batch) < 2
        or not all(isinstance(t, Tensor) for t in batch)
    ):
        raise UsageError("batch must be a tuple of example tensors: inputs of the model, then the target")
    if len({t.shape[:1] for t in batch}) != 1:
        raise UsageError("the tensors of batch differ in their first dimension, the number of samples")
    if isinstance(schedule, ReduceLROnPlateau):
        raise UsageError("ReduceLROnPlateau depends on measured losses and cannot be tabulated; use another")
    if not isinstance(epochs, int) or epochs < 1:
        raise UsageError(f"epochs must be a positive integer, not {epochs!r}")
    if optimizer is None:
        if not list(model.parameters()):
            raise UsageError("the model has no parameters to train")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    if schedule is not None and schedule.optimizer is not optimizer:
        raise UsageError("schedule belongs to another optimizer than the task's")
    loss = loss or nn.CrossEntropyLoss()
    return Task(model, loss, optimizer, tuple(batch), schedule, data, epochs, source)


def load_task(spec: str, init: Path | None = None) -> Task:
    """The task that `file.py` or `file.py:function` declares, started from the state in `init`.

    Raises UsageError for a missing or broken file, a missing name, or a state that does not fit.
    """
    path, _, function = spec.partition(":")
    names = vars(_execute(Path(path)))
    if function:
        if not callable(names.get(function)):
            raise UsageError(f"{path} has no function {function!r}")
        made = _call(names[function], spec)
        names = dict(made) if isinstance(made, Mapping) else vars(made)
    missing = [name for name in ("model", "batch") if name not in names]
    if missing:
        raise UsageError(f"{spec} does not define {' and '.join(missing)}")
    task = make_task(**{name: names[name] for name in _NAMES if name in names}, source=spec)
    if init is not None:
        load_state(task.model, init)
    return task


def _execute(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    name = f"e2compile_model_{path.stem}"
    loader = importlib.util.spec_from_file_location(name, path)
    if loader is None or loader.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module
    _call(lambda: loader.loader.exec_module(module), str(path))  # type: ignore[union-attr]
    return module


def _call(function: Callable[[], Any], spec: str) -> Any:
    """The user's code may raise anything; what they need is their own line."""
    try:
        return function()
    except Exception as error:
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        own = [p for p in places if not p.startswith((*_LIBRARY, "<")) and "site-packages" not in p]
        raise UsageError(f"{spec} fails: {type(error).__name__}: {error}\n  {(own or [spec])[-1]}") from error


def load_state(model: nn.Module, path: Path) -> None:
    """Load a safetensors state into a model; UsageError where names or shapes differ."""
    try:
        state = load_file(path)
    except Exception as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit the model: {error}") from error
