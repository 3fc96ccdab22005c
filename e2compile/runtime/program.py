"""A compiled training program: load it, step it, evaluate it. Needs TVM's runtime and numpy, not torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError
from e2compile.runtime import devices
from e2compile.runtime import host as hosts
from e2compile.runtime import manifest as manifests
from e2compile.runtime import state as states
from e2compile.runtime.engine import Library
from e2compile.runtime.manifest import Tensor

if TYPE_CHECKING:
    from e2compile.runtime.fit import Event, Results

LIBRARY = "program/program.so"


@dataclass(frozen=True)
class StepResult:
    """What one scheduled step gave. A dropped step has `executed` False, no loss and no metrics."""

    executed: bool
    loss: float | None = None
    metrics: dict[str, NDArray[Any]] = field(default_factory=dict)
    counters: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over `samples`, and the share of correct ones where the task is a classification."""

    loss: float
    accuracy: float | None
    samples: int


class Program:
    """A Program folder in memory. `position` counts scheduled steps; state changes in place.

    A Program's library is native code: load only what you would run. `device` names what runs the part that
    is not the CPU's, for targets that have one.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder = folder
        self.manifest = manifests.read(folder)
        needed = [LIBRARY, states.INITIAL, states.RATES, *devices.files(self.manifest.target)]
        manifests.check(self.manifest, folder, needed)
        devices.check(self.manifest.target, device)
        self.device = device
        self._code = Library(folder / LIBRARY)
        self.rates = states.read(folder / states.RATES)["rates"]
        self.steps_per_epoch = 1
        self.position = 0
        self.restore(states.read(folder / states.INITIAL))

    @cached_property
    def driver(self) -> Any:
        """What drives the device, attached when the code is first called; None for a target that has none."""
        self.check_machine()
        return devices.attach(self.manifest.target, self.folder, self._code.module, self.device)

    @property
    def library(self) -> Library:
        """The code with its device attached: what is only compiled or exported takes no TVM."""
        _ = self.driver
        return self._code

    def check_machine(self) -> None:
        """Raise MissingError where this machine cannot run the program."""
        hosts.check(self.manifest.host, self.folder)

    @property
    def seed(self) -> int:
        return self.manifest.seed

    @property
    def batch_size(self) -> int:
        return self.manifest.batch[0].shape[0]

    def restore(self, arrays: Mapping[str, NDArray[Any]], what: str = "the state") -> None:
        """Replace all state. Names are those of `arrays()`; UsageError where something does not fit."""
        fitted = states.fit(arrays, self.manifest.state, what)
        self._state: dict[str, Any] = dict(fitted)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All state in the module's layout: parameters and buffers by their own names, the rest prefixed."""
        held = ((t, _numpy(self._state[t.target])) for t in self.manifest.state)
        return {states.name_of(t): states.from_memory(array, t) for t, array in held}

    def parameters(self) -> dict[str, NDArray[Any]]:
        """What the optimizer trains, in the module's layout."""
        return self._of("parameter")

    def weights(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers in the module's layout, those that the user's module lacks included."""
        return self._of("parameter", "buffer")

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers with the names and layouts of the user's module, tied names included."""
        own = {n: array for n, array in self.weights().items() if n not in self.manifest.hidden}
        return own | {alias: own[name] for alias, name in self.manifest.aliases.items() if name in own}

    def keep(self, step: int) -> bool:
        """Whether a scheduled step is executed; a pure function of the program's seed and the step."""
        if "keep" not in self.manifest.functions:
            return True
        return bool(self._call("keep", {"seed": self.seed, "step": step})[0].numpy())

    def rate(self, step: int) -> NDArray[np.float32]:
        """The learning rates [groups] at a scheduled step: the table, its last row held."""
        tick = step // self.steps_per_epoch if self.manifest.schedule_unit == "epoch" else step
        row: NDArray[np.float32] = self.rates[min(tick, len(self.rates) - 1)]
        return row

    def step(self, batch: Sequence[Any]) -> StepResult:
        """One scheduled step: asks `keep` first, and where it says no touches neither batch nor state.

        `batch` holds numpy arrays, or what speaks DLPack, in the shapes the program was compiled for.
        """
        return self.execute(batch) if self.keep(self.position) else self.drop()

    def drop(self) -> StepResult:
        """Pass over a scheduled step."""
        self.position += 1
        return StepResult(executed=False)

    def execute(self, batch: Sequence[Any]) -> StepResult:
        """Run the step whatever `keep` says."""
        values: dict[str, Any] = {"seed": self.seed, "step": self.position, "rates": self.rate(self.position)}
        results = self._call("step", values | self._batch(batch))
        self.position += 1
        named = list(zip(self.manifest.functions["step"].returns, results, strict=True))
        loss = next(value for (kind, _), value in named if kind == "loss")
        return StepResult(
            True,
            float(loss.numpy()),
            {target: value.numpy() for (kind, target), value in named if kind == "metric"},
            {target: value.numpy() for (kind, target), value in named if kind == "counter"},
        )

    def predict(self, batch: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Evaluation mode on one batch: `loss` [N], `output`, and for a classification `correct` [N]."""
        results = self._call("evaluate", {"seed": self.seed, "step": self.position} | self._batch(batch))
        targets = (target for _, target in self.manifest.functions["evaluate"].returns)
        return {target: value.numpy() for target, value in zip(targets, results, strict=True)}

    def fit(
        self, data: Any = None, watch: "Callable[[Event], None] | None" = None, **options: Any
    ) -> "Results":
        """Train on `data`, by default what the model file named; `options` are those of fit.Options."""
        from e2compile.runtime.fit import Options, Run

        return Run(self, data, Options(**options)).go(watch)

    def evaluate(self, data: Any = None) -> Evaluation:
        """Mean loss and accuracy on the test split of `data`, by default what the model file named."""
        from e2compile.runtime.fit import evaluate, resolve
        from e2compile.runtime.loader import Augment

        self.check_machine()
        dataset = resolve(data, self)
        return evaluate(self, dataset.test, Augment.of(dataset))

    @property
    def device_seconds(self) -> float | None:
        """What the device has run for, by the target's model; None for a target without a device."""
        return None if self.driver is None else float(self.driver.seconds)

    def close(self) -> None:
        """Let go of the program's device, so that others can have it; the program runs no more."""
        if "driver" in vars(self) and self.driver is not None:
            self.driver.close()

    def _of(self, *kinds: str) -> dict[str, NDArray[Any]]:
        names = {states.name_of(t) for t in self.manifest.state if t.kind in kinds}
        return {name: array for name, array in self.arrays().items() if name in names}

    def _call(self, name: str, values: Mapping[str, Any]) -> list[Any]:
        if self.driver is not None:
            self.driver.serve()
        inputs = self.manifest.functions[name].inputs
        return self.library.call(name, [self._argument(t, values) for t in inputs])

    def _argument(self, tensor: Tensor, values: Mapping[str, Any]) -> Any:
        if tensor.order is not None:
            return self._tensor(tensor.target)
        return self.library.tensor(np.array(values[tensor.target], tensor.dtype))

    def _tensor(self, target: str) -> Any:
        """A state tensor in the library's memory; it is restored in numpy's."""
        held = self._state[target]
        if isinstance(held, np.ndarray):
            held = self._state[target] = self.library.tensor(held)
        return held

    def _batch(self, batch: Sequence[Any]) -> dict[str, NDArray[Any]]:
        wanted = self.manifest.batch
        if len(batch) != len(wanted):
            raise UsageError(f"a batch of this program has {len(wanted)} tensors, not {len(batch)}")
        return {t.target: _checked(value, t) for value, t in zip(batch, wanted, strict=True)}


def _checked(value: Any, tensor: Tensor) -> NDArray[Any]:
    array = value if isinstance(value, np.ndarray) else _as_array(value)
    if array.shape != tensor.shape:
        shapes = f"{list(array.shape)}, not {list(tensor.shape)}"
        raise UsageError(f"tensor {tensor.target} of the batch is {shapes}")
    if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
        raise UsageError(f"tensor {tensor.target} of the batch is {array.dtype}, not {tensor.dtype}")
    return array.astype(tensor.dtype, copy=False)


def _numpy(held: Any) -> NDArray[Any]:
    array: NDArray[Any] = held if isinstance(held, np.ndarray) else held.numpy()
    return array


def _as_array(value: Any) -> NDArray[Any]:
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
