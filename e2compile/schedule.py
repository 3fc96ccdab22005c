"""Learning rates as a table: one row a tick of the schedule, one column a parameter group."""

import copy
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError
from e2compile.runtime.datasets import Items, Source, load
from e2compile.task import Task


def tabulate(task: Task) -> NDArray[np.float32]:
    """The schedule's rates [ticks, groups] for the task's epochs; the last row is held after them.

    A tick is an epoch or a step: see Task.schedule_unit. Raises UsageError for a schedule by step
    whose length nothing declares.
    """
    if task.schedule is None:
        return np.array([_rates(task.optimizer)], np.float32)
    optimizer, schedule = copy.deepcopy((task.optimizer, task.schedule))
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps without the optimizer's are what is wanted here
        for _ in range(_ticks(task)):
            rows.append(_rates(optimizer))
            schedule.step()
    return np.array(rows, np.float32)


def _rates(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _ticks(task: Task) -> int:
    if task.schedule_unit == "epoch":
        return task.epochs
    total = getattr(task.schedule, "total_steps", None)
    if total is not None:
        return int(total)
    if task.data is None:
        name = type(task.schedule).__name__
        raise UsageError(f"{name} is stepped per batch: declare `data`, so that the steps can be counted")
    split: Source = load(task.data).train if isinstance(task.data, str) else Items(task.data)
    return task.epochs * (len(split) // task.batch[0].shape[0])
