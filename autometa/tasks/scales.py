"""The scales of regression targets: tasks in units of their own, and values far from all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from autometa.errors import DataError, not_one_of

TargetScale: TypeAlias = Literal["standard", "robust"]
TaskScale: TypeAlias = Literal["auto", "shared", "own"]

#: times that one task's spread is another's, or that their means are apart in spreads of a task,
#: from which tasks have no unit in common
_APART = 10.0
#: rows of a task from which its mean and spread say something of its unit
_TELLING = 5
#: interquartile ranges beyond the quartiles from which a value is named
_EXTREME = 20.0
#: of a normal distribution, the interquartile range in standard deviations
_QUARTILES = 1.349
#: robust deviations beyond which values count as that far
CLIPPED_AT = 10.0


def check_scales(target_scale: str, task_scale: str) -> None:
    """Raise DataError unless they are known ways to standardise targets."""
    for name, found, choices in (
        ("target_scale", target_scale, get_args(TargetScale)),
        ("task_scale", task_scale, get_args(TaskScale)),
    ):
        if found not in choices:
            raise DataError(not_one_of(name, found, choices))


def center_and_spread(values: np.ndarray, scale: TargetScale) -> tuple[float, float]:
    """Mean and standard deviation, or median and interquartile range / 1.349 (Huber, 1981).

    Where half of the values are equal the range says nothing, and the standard deviation counts.
    """
    if scale == "robust":
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        if high > low:
            return float(middle), float(high - low) / _QUARTILES
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, spread = float(values.mean()), float(values.std())
        if np.isfinite(spread) and spread > 0:
            return mean, spread
        most = float(np.abs(values).max()) or 1.0  # squares of 1e-200 or 1e200 are no numbers
        return float((values / most).mean()) * most, float((values / most).std()) * most


def no_common_unit(values: np.ndarray, task: np.ndarray, n_tasks: int) -> str | None:
    """Whether the tasks of a grouped suite cannot share one mean and one deviation.

    Args:
        values: of the training rows.
        task: the task of each.

    Returns:
        What shows it, or None.
    """
    found = [values[task == number] for number in range(n_tasks)]
    telling = [own for own in found if len(own) >= _TELLING and own.max() > own.min()]
    if len(telling) < 2:
        return None
    spreads = np.array([center_and_spread(own, "robust")[1] for own in telling])
    means = np.array([float(np.median(own)) for own in telling])
    if spreads.max() > _APART * spreads.min():
        return f"their spreads go from {spreads.min():.3g} to {spreads.max():.3g}"
    if means.max() - means.min() > _APART * float(np.median(spreads)):
        return f"their middles go from {means.min():.3g} to {means.max():.3g}"
    return None


def extremes(what: str, columns: Mapping[str, np.ndarray], advice: str = "correct it") -> list[str]:
    """Notes on columns with values far beyond the others.

    Args:
        what: what they are called: `Target`, `Column`.
        columns: name → values [rows], NaN where missing.
    """
    notes = []
    for name, column in columns.items():
        known = column[~np.isnan(column)]
        if len(known) < _TELLING:
            continue
        low, high = np.quantile(known, (0.25, 0.75))
        reach = _EXTREME * (high - low)
        far = np.flatnonzero((column < low - reach) | (column > high + reach))
        if high > low and 0 < len(far) <= max(1, len(known) // 100):
            worst = int(far[np.argmax(np.abs(column[far] - (low + high) / 2))])
            more = f", and {len(far) - 1} more such values" if len(far) > 1 else ""
            notes.append(
                f"{what} `{name}` holds {column[worst]:g} in row {worst}{more}, more than "
                f"{_EXTREME:g} times the range of the middle half beyond it: {advice}."
            )
    return notes


def in_rows(rows: Sequence[int] | np.ndarray) -> str:
    """Row numbers in words: row 3; rows 3 and 7; rows 1, 2, 3, 4, 5 and 9 more."""
    named = [str(row) for row in rows[:5]]
    if len(rows) == 1:
        return f"row {named[0]}"
    last = f"{len(rows) - 5} more" if len(rows) > 5 else named.pop()
    return f"rows {', '.join(named)} and {last}"
