"""Training runs over a data set: dropped steps neither loaded nor run, resumable to the bit."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.errors import UsageError
from e2compile.runtime import checkpoint
from e2compile.runtime.averaging import Average, estimate_statistics
from e2compile.runtime.checkpoint import Progress
from e2compile.runtime.datasets import Dataset, Items, Source, arrays, load
from e2compile.runtime.interrupts import interrupts_held
from e2compile.runtime.loader import Augment, Loader, evaluation, split_validation
from e2compile.runtime.program import Evaluation, Program, StepResult

_LOSSES = "run.losses"
_DEVICE = "device_seconds"  # among a run's counters


@dataclass(frozen=True)
class Options:
    """How a run goes. `steps` overrides `epochs`; both None means the program's own epochs.

    `validation` is the share of the training split held out to choose the best checkpoint by;
    `checkpoint_every` counts scheduled steps. `swa_start` is the share of the run after which the weights
    at the end of each epoch go into an average (stochastic weight averaging); None: no average.
    """

    epochs: int | None = None
    steps: int | None = None
    run: str = "default"
    resume: bool = False
    validation: float = 0.1
    checkpoint_every: int = 500
    swa_start: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise UsageError("a run's length is given in epochs or in steps, not both")
        for name in ("epochs", "steps", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.swa_start is not None and not 0 <= self.swa_start < 1:
            raise UsageError(f"swa_start is a share of the run, at least 0 and below 1, not {self.swa_start}")
        if not re.fullmatch(r"\w[\w.-]*", self.run):
            raise UsageError(f"a run's name is made of letters, digits, '_', '-', '.', unlike {self.run!r}")


@dataclass(frozen=True)
class Event:
    """What a progress display may show after a scheduled step."""

    position: int
    total: int
    executed: int
    result: StepResult
    accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Executed:
    """What a run has executed so far: steps of those scheduled, evaluated batches, and by name the share of
    samples that each gated block ran for and of executed steps in which a layer fell back."""

    scheduled: int
    steps: int
    evaluated: int
    shares: dict[str, float]


@dataclass
class Results:
    """What a run gave; `results.json` and `--json` hold these fields.

    Means over the executed steps: `executed` is the share of samples that each gated block ran for,
    `predicted` the share of each convolution's weights whose sign was sure, `fallback` the share of steps in
    which the rest of its product ran, `errors` that of predicted signs that were wrong, where measured.
    `averaged_accuracy` and `averaged_test_loss` are those of the mean of the weights after `averaged_epochs`
    epochs, with batch-norm statistics of their own; None and 0 where nothing was averaged.
    `modelled_device_seconds` is what a cycle model says that the device took for the executed steps; None for
    a program without a device. `energy` is what the run's `price` says of all that it executed.
    """

    steps_scheduled: int
    steps_executed: int
    loss: list[float]
    accuracy: float | None
    test_loss: float
    validation_accuracy: float | None
    seconds: float
    images_per_second: float
    executed: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    fallback: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    averaged_epochs: int = 0
    averaged_accuracy: float | None = None
    averaged_test_loss: float | None = None
    modelled_device_seconds: float | None = None
    energy: dict[str, Any] | None = None


def resolve(data: Any, program: Program) -> Dataset:
    """A data set from a name, a folder, arrays (x, y), a torch-style dataset, or the program's own name."""
    data = data if data is not None else program.manifest.data
    if data is None:
        raise UsageError("the program names no data set: give one with --data")
    if isinstance(data, (str, Path)):
        return load(str(data))
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple):
        split: Source = arrays(*data)
    else:
        split = Items(data)
    train, test = split_validation(split, 0.1, program.seed)
    return Dataset("own data", 0, train, test)


def evaluate(program: Program, split: Source, augment: Augment | None) -> Evaluation:
    """Mean loss and accuracy over a whole split; the last partial batch is padded and masked."""
    losses, correct, samples = 0.0, 0, 0
    is_classification = False
    for x, y, valid in evaluation(split, program.batch_size, augment):
        result = program.predict((x, y))
        losses += float(result["loss"][:valid].sum(dtype=np.float64))
        is_classification = "correct" in result
        correct += int(result["correct"][:valid].sum()) if is_classification else 0
        samples += valid
    return Evaluation(losses / samples, correct / samples if is_classification else None, samples)


class Run:
    """One training run of a program, written to `runs/<name>/` of its folder.

    `price` says for the results what was executed has cost.
    """

    def __init__(
        self,
        program: Program,
        data: Any,
        options: Options,
        price: Callable[[Executed], dict[str, Any]] | None = None,
    ) -> None:
        self.program, self.options, self.price = program, options, price
        program.check_machine()
        self.dataset = resolve(data, program)
        self.augment = Augment.of(self.dataset)
        self.train, self.validation = split_validation(self.dataset.train, options.validation, program.seed)
        self.loader = Loader(self.train, program.batch_size, program.seed, self.augment)
        program.steps_per_epoch = self.loader.steps_per_epoch
        self.folder = program.folder / "runs" / options.run
        self.losses: list[float] = []
        self.average = Average()
        self.progress = Progress(
            program.manifest.fingerprint,
            program.seed,
            position=0,
            executed=0,
            seconds=0.0,
            data=self.dataset.name,
            steps_per_epoch=self.loader.steps_per_epoch,
            best_accuracy=None,
            history=(),
            counters={},
        )
        self.total = self._total()
        self.progress = replace(self.progress, average_from=self._average_from())

    def _total(self) -> int:
        if self.options.steps is not None:
            return self.options.steps
        epochs = self.options.epochs if self.options.epochs is not None else self.program.manifest.epochs
        return epochs * self.loader.steps_per_epoch

    def _average_from(self) -> int | None:
        """The step after which ends of epochs go into the average."""
        if self.options.swa_start is None:
            return None
        start = round(self.options.swa_start * self.total)
        if self.total // self.loader.steps_per_epoch * self.loader.steps_per_epoch <= start:
            raise UsageError(
                f"no epoch ends after step {start:,} of {self.total:,}, so there is nothing to average: "
                f"an epoch has {self.loader.steps_per_epoch:,} steps"
            )
        return start

    def go(self, watch: Callable[[Event], None] | None = None) -> Results:
        """Train to the end. An interrupt lets the step end and writes a checkpoint; it resumes to the bit."""
        self._start()
        self.began = time.perf_counter() - self.progress.seconds
        with interrupts_held() as interrupted, closing(self._batches()) as batches:
            for position in range(self.progress.position, self.total):
                event = self._step(position, batches)
                try:
                    if watch is not None:
                        watch(event)
                    if interrupted():
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    self._save()
                    raise
        self._save()
        return self._finish()

    def _start(self) -> None:
        checkpoints = self.folder / "checkpoints"
        found = checkpoint.newest(checkpoints, self.progress.fingerprint) if self.options.resume else None
        if found is None:
            checkpoint.clear(self.folder)
            self.program.position = 0
            return
        progress, state = found
        if progress.seed != self.progress.seed:
            raise UsageError(f"the run was under seed {progress.seed}, the program's is {self.progress.seed}")
        if (progress.data, progress.steps_per_epoch) != (self.progress.data, self.progress.steps_per_epoch):
            raise UsageError(f"the run was on {progress.data} with {progress.steps_per_epoch} steps an epoch")
        self._check_average(progress)
        self.losses = state.pop(_LOSSES).tolist()
        self.average = Average.taken_from(state, progress.averaged)
        self.program.restore(state, "the checkpoint")
        self.program.position = progress.position
        self.progress = replace(progress, average_from=self.progress.average_from)

    def _check_average(self, found: Progress) -> None:
        """UsageError where a run already went by what it averages and shall now average something else."""
        old, new = found.average_from, self.progress.average_from
        if old != new and found.position > min(start for start in (old, new) if start is not None):
            said = [
                "averages no weights" if s is None else f"averages from step {s:,} on" for s in (old, new)
            ]
            raise UsageError(
                f"at step {found.position:,} the run {said[0]}, and would now be one that {said[1]}: "
                "resume it with the same --swa-start and length, or start anew without --resume"
            )

    def _batches(self) -> Any:
        kept = (s for s in range(self.progress.position, self.total) if self.program.keep(s))
        return self.loader.prefetch(kept)

    def _step(self, position: int, batches: Iterator[Any]) -> Event:
        if self.program.keep(position):
            loaded, batch = next(batches)
            assert loaded == position
            before = self.program.device_seconds
            result = self.program.execute(batch)
            self.losses.append(result.loss or 0.0)
            self._count(result)
            self._count_device(before)
        else:
            result = self.program.drop()
        seconds = time.perf_counter() - self.began
        done = position + 1
        executed = self.progress.executed + result.executed
        self.progress = replace(self.progress, position=done, executed=executed, seconds=seconds)
        if done % self.loader.steps_per_epoch == 0 or done == self.total:
            self._epoch()
        if done % self.options.checkpoint_every == 0 and done != self.total:
            self._save()
        accuracy = self.progress.history[-1]["accuracy"] if self.progress.history else None
        return Event(done, self.total, executed, result, accuracy, seconds)

    def _count(self, result: StepResult) -> None:
        """Add a step's counters to the run's."""
        sums = self.progress.counters
        added = {name: sums.get(name, 0.0) + float(value) for name, value in result.counters.items()}
        self.progress = replace(self.progress, counters=sums | added)

    def _count_device(self, before: float | None) -> None:
        """Add what the device took for a step, which it began after `before` seconds."""
        after = self.program.device_seconds
        if before is not None and after is not None:
            total = self.progress.counters.get(_DEVICE, 0.0) + after - before
            self.progress = replace(self.progress, counters=self.progress.counters | {_DEVICE: total})

    def _mean(self, suffix: str, per_step: int = 1) -> dict[str, float]:
        """The mean over executed steps of each counter of one kind, by what it belongs to."""
        steps = max(self.progress.executed, 1) * per_step
        sums = self.progress.counters.items()
        return {name.removesuffix(suffix): total / steps for name, total in sums if name.endswith(suffix)}

    def executed(self, tested: bool = False) -> Executed:
        """What was executed so far, and where it is `tested` what the end of the run takes.

        That is the test and, for an average, an epoch of steps of which none is dropped, and its test.
        """
        size = self.program.batch_size
        evaluated = len(self.progress.history) * -(-len(self.validation) // size)
        is_averaged = tested and self.average.count > 0
        more = self.loader.steps_per_epoch if is_averaged else 0
        if tested:
            evaluated += (1 + is_averaged) * -(-len(self.dataset.test) // size)
        shares = self._mean(".executed", size) | self._mean(".fallback") if self.progress.executed else {}
        return Executed(self.progress.position + more, self.progress.executed + more, evaluated, shares)

    def _epoch(self) -> None:
        """Evaluate on the held-out part, keep the best state, and average."""
        self._add_to_average()
        score = evaluate(self.program, self.validation, self.augment)
        row = {"step": self.progress.position, "loss": score.loss, "accuracy": score.accuracy}
        self.progress = replace(self.progress, history=(*self.progress.history, row))
        best = self.progress.best_accuracy
        if score.accuracy is not None and (best is None or score.accuracy > best):
            self.progress = replace(self.progress, best_accuracy=score.accuracy)
            self._save_weights("best")

    def _add_to_average(self) -> None:
        start, is_end = self.progress.average_from, self.progress.position % self.loader.steps_per_epoch == 0
        if start is not None and is_end and self.progress.position > start:
            self.average.add(self.program.parameters())
            self.progress = replace(self.progress, averaged=self.average.count)

    def _save(self) -> None:
        losses: NDArray[Any] = np.array(self.losses, np.float64)
        arrays = self.program.arrays() | self.average.arrays() | {_LOSSES: losses}
        checkpoint.save(self.folder / "checkpoints", self.progress, arrays)

    def _save_weights(self, name: str) -> None:
        """Write the program's parameters and buffers to the run's folder."""
        from safetensors.numpy import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(self.program.weights(), self.folder / f".{name}")
        os.replace(self.folder / f".{name}", self.folder / f"{name}.safetensors")

    def _evaluate_average(self) -> Evaluation:
        """Score the average and write it; the program ends in the state that it was in.

        Its statistics come from the epoch of batches that would have been next.
        """
        last, position = self.program.arrays(), self.program.position
        batches = self.loader.prefetch(range(position, position + self.loader.steps_per_epoch))
        weights = self.average.mean()
        try:
            weights |= estimate_statistics(self.program, weights, batches)
            self.program.restore(last | weights)
            self.program.position = position
            self._save_weights("averaged")
            return evaluate(self.program, self.dataset.test, self.augment)
        finally:
            self.program.restore(last)
            self.program.position = position

    def _finish(self) -> Results:
        test = evaluate(self.program, self.dataset.test, self.augment)
        averaged = self._evaluate_average() if self.average.count else None
        images = self.progress.executed * self.program.batch_size
        results = Results(
            steps_scheduled=self.progress.position,
            steps_executed=self.progress.executed,
            loss=self.losses,
            accuracy=test.accuracy,
            test_loss=test.loss,
            validation_accuracy=self.progress.best_accuracy,
            seconds=self.progress.seconds,
            images_per_second=images / max(self.progress.seconds, 1e-9),
            executed=self._mean(".executed", self.program.batch_size),
            predicted=self._mean(".sure"),
            fallback=self._mean(".fallback"),
            errors=self._mean(".errors"),
            history=list(self.progress.history),
            averaged_epochs=self.average.count,
            averaged_accuracy=averaged.accuracy if averaged else None,
            averaged_test_loss=averaged.loss if averaged else None,
            modelled_device_seconds=self.progress.counters.get(_DEVICE),
            energy=None if self.price is None else self.price(self.executed(tested=True)),
        )
        (self.folder / "results.json").write_text(json.dumps(vars(results), indent=1) + "\n")
        return results
