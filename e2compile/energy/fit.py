"""Fitting: non-negative coefficients by least squares of relative errors, and how far they can be trusted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from e2compile.errors import UsageError

Floats = NDArray[np.float64]

# Above it coefficients are seriously affected (Belsley, Kuh and Welsch, Regression Diagnostics, 1980).
LARGEST_CONDITION = 30.0
# What a column's part in the direction that the log hardly shows must be for the column to be named.
_NAMED = 0.2
_DRAWS = 200
_FEWEST_GROUPS = 6


@dataclass(frozen=True)
class Errors:
    """Relative errors |predicted / measured - 1|, and that of the sums."""

    median: float
    p90: float
    total: float

    @staticmethod
    def of(predicted: Floats, measured: Floats) -> "Errors":
        relative = np.abs(predicted / measured - 1)
        total = abs(predicted.sum() / measured.sum() - 1)
        return Errors(float(np.median(relative)), float(np.quantile(relative, 0.9)), float(total))


@dataclass(frozen=True)
class Coefficient:
    """A column's coefficient, with the 2.5 and 97.5 % quantiles of fits to groups and rows drawn again."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """Coefficients, and errors: `residual` of the rows that were fitted, `held_out` of the groups that were
    not, and `left_out` of each group by a fit to all others. A log of one group has the first alone.
    """

    coefficients: dict[str, Coefficient]
    rows: int
    condition: float
    residual: Errors
    held_out: Errors | None
    held_groups: tuple[str, ...]
    left_out: dict[str, Errors]

    @property
    def worst(self) -> str:
        """The group that the others predict worst."""
        return max(self.left_out, key=lambda group: self.left_out[group].median)


def fit(
    columns: Mapping[str, Floats], measured: Floats, groups: Sequence[str], kept: Sequence[str] = ()
) -> Fit:
    """measured = sum of coefficient x column, about a third held out by whole groups, none of those `kept`.

    Raises UsageError for what cannot be told apart, with the columns and the measurements that would mend it.
    """
    if not columns:
        raise UsageError("the log has no column but joules")
    names, matrix = list(columns), np.stack(list(columns.values()), 1)
    labels = np.array(groups)
    sizes = Counter(group for group in groups if group not in kept)
    held = _third(sizes)
    used = ~np.isin(labels, held)
    if used.sum() < 2 * len(names):
        raise UsageError(
            f"{used.sum()} rows are too few for {len(names)} coefficients: measure {2 * len(names)} or more"
        )
    empty = [name for name in names if not columns[name][used].any()]
    if empty:
        raise UsageError(f"nothing was done of {', '.join(empty)} in any row that is fitted: leave it out")
    condition = _condition(names, matrix[used] / measured[used, None])
    values = _solve(matrix[used], measured[used])
    predicted = matrix @ values
    bounds = _bootstrap(matrix[used], measured[used], labels[used])
    parts = {group: labels == group for group in sorted(sizes)} if len(sizes) > 1 else {}
    found = zip(values, *bounds, strict=True)
    return Fit(
        {name: Coefficient(*map(float, row)) for name, row in zip(names, found, strict=True)},
        int(used.sum()),
        condition,
        Errors.of(predicted[used], measured[used]),
        Errors.of(predicted[~used], measured[~used]) if held else None,
        held,
        {
            group: Errors.of(matrix[mine] @ _solve(matrix[~mine], measured[~mine]), measured[mine])
            for group, mine in parts.items()
        },
    )


def _third(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The groups to hold out: every third by name, from the second on.

    Of fewer than six the one whose rows come nearest to a third, of equals the first; none of a single one.
    """
    ordered = sorted(sizes)
    if len(ordered) >= _FEWEST_GROUPS:
        return tuple(ordered[1::3])
    third = sum(sizes.values()) / 3
    return tuple(sorted(ordered, key=lambda group: abs(sizes[group] - third))[: len(ordered) > 1])


def _solve(matrix: Floats, measured: Floats) -> Floats:
    """Columns are brought to one length, as the solver's tolerance is absolute."""
    relative = matrix / measured[:, None]
    length = np.linalg.norm(relative, axis=0)
    length[length == 0] = 1
    values, _ = nnls(relative / length, np.ones(len(measured)))
    return np.asarray(values / length)


def _bootstrap(matrix: Floats, measured: Floats, labels: NDArray[np.str_]) -> tuple[Floats, Floats]:
    """Quantiles of fits to groups drawn with replacement, and rows drawn so within each of them."""
    random = np.random.default_rng(0)
    rows = [np.flatnonzero(labels == group) for group in sorted(set(labels))]
    draws = []
    for _ in range(_DRAWS):
        drawn = [rows[i] for i in random.integers(len(rows), size=len(rows))]
        chosen = np.concatenate([random.choice(group, len(group)) for group in drawn])
        draws.append(_solve(matrix[chosen], measured[chosen]))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return low, high


def _condition(names: Sequence[str], relative: Floats) -> float:
    """The condition number of the columns brought to one length."""
    _, singular, right = np.linalg.svd(relative / np.linalg.norm(relative, axis=0), full_matrices=False)
    condition = float(singular[0] / max(singular[-1], 1e-300))
    if condition <= LARGEST_CONDITION:
        return condition
    parts = sorted(zip(np.abs(right[-1]), names, range(len(names)), strict=True), reverse=True)
    close = [name for part, name, _ in parts if part >= _NAMED]
    (_, a, i), (_, b, j) = parts[:2]
    both = relative[:, i] > 0
    ratio = np.quantile(relative[both, j] / relative[both, i], [0.05, 0.95])
    raise UsageError(
        f"{', '.join(close)} cannot be told apart: they rise and fall together (condition number "
        f"{condition:.3g}, {LARGEST_CONDITION:g} at most)\n"
        f"  {b} for each {a} is between {ratio[0]:.3g} and {ratio[1]:.3g} in nine of ten rows:\n"
        f"  measure work far outside of that, or leave one of them out: --without {b}"
    )
