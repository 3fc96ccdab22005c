"""Stochastic weight averaging: the mean of a run's weights, and the batch-norm statistics that go with it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2compile.runtime.program import Program
from e2compile.runtime.state import Array, Arrays

_PREFIX = "run.average."


class Average:
    """The mean of the parameters at several times (SWA, Izmailov et al., UAI 2018), each weighing the same.

    Kept as sums in float64, so that neither their order nor their number costs precision.
    """

    def __init__(self, sums: Mapping[str, NDArray[np.float64]] | None = None, count: int = 0) -> None:
        self.sums, self.count = dict(sums or {}), count

    def add(self, parameters: Mapping[str, Array]) -> None:
        """Count the parameters as they are now."""
        for name, value in parameters.items():
            self.sums[name] = self.sums.get(name, np.float64(0)) + value.astype(np.float64)
        self.count += 1

    def mean(self) -> Arrays:
        """The mean, in float32."""
        return {name: (total / self.count).astype(np.float32) for name, total in self.sums.items()}

    def arrays(self) -> Arrays:
        """The sums by the names that a checkpoint has them under."""
        return {_PREFIX + name: total for name, total in self.sums.items()}

    @classmethod
    def taken_from(cls, arrays: Arrays, count: int) -> "Average":
        """The average whose sums are among a checkpoint's arrays; they are taken out of there."""
        names = [name for name in arrays if name.startswith(_PREFIX)]
        return cls({name.removeprefix(_PREFIX): arrays.pop(name) for name in names}, count)


def estimate_statistics(
    program: Program, parameters: Mapping[str, Array], batches: Iterable[tuple[int, Any]]
) -> Arrays:
    """The running statistics of each batch norm under `parameters`: the means over `batches`.

    `batches` are pairs of scheduled step and batch. Each runs as a training step from these parameters, whose
    update is thrown away; from statistics of zero it leaves the batch's own, times a step's share in the new
    ones (`statistics` of the manifest). Those that a batch leaves at zero saw none of it: their block ran for
    no sample. The program is left in a state of no use.
    """
    shares = program.manifest.statistics
    zeros = {name: np.zeros_like(value) for name, value in program.arrays().items() if name in shares}
    sums = {name: np.zeros(value.shape, np.float64) for name, value in zeros.items()}
    counts = dict.fromkeys(zeros, 0)
    for position, batch in batches:
        program.restore({**program.arrays(), **parameters, **zeros})
        program.position = position
        program.execute(batch)
        left = program.arrays()
        for name in zeros:
            if left[name].any():
                sums[name] += left[name] / np.float64(shares[name])
                counts[name] += 1
    return {name: (sums[name] / count).astype(np.float32) for name, count in counts.items() if count}
