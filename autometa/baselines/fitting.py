"""Ways to give tasks to estimators: one a task, one for all columns, one for the pooled rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from autometa.baselines.base import Fit, Training
from autometa.baselines.fitted import Part, constant_channels, with_task

Make = Callable[[bool, np.ndarray, np.ndarray], Any]
"""(whether classes, x, y) → a fitted estimator, or None where too few rows are left to fit one.
`y` is `[rows]` or `[rows, tasks]`."""

_PRIOR_ROWS = 5.0
"""A task's training mean counts as if it had so many rows more, with the mean of all tasks."""


def apart(data: Training, tasks: Sequence[int], make: Make) -> list[Fit]:
    """One estimator a task, on its labelled rows; constants where `make` declines, and for tasks
    of a single class."""
    return [_one(data, t, make) for t in tasks]


def together(data: Training, make: Make) -> list[Fit]:
    """One estimator for all columns with the same kind of target and the same labelled rows.

    Tasks of a single class get a constant.
    """
    groups: dict[tuple[bool, bytes], list[int]] = {}
    fits = []
    for t, spec in enumerate(data.specs):
        classes = spec.kind != "regression"
        rows, truth = data.labelled(t)
        if classes and len(np.unique(truth)) < 2:
            fits.append(Fit(Part((t,), constant=constant_channels(spec, truth))))
        else:
            groups.setdefault((classes, rows.tobytes()), []).append(t)
    for (classes, _), tasks in groups.items():
        if len(tasks) == 1:
            fits.append(_one(data, tasks[0], make))
            continue
        rows = data.labelled(tasks[0])[0]
        y = data.y[rows][:, tasks].astype(np.int64 if classes else np.float64)
        estimator = make(classes, data.x[rows], y)
        fits += (
            [_one(data, t, lambda *_: None) for t in tasks]
            if estimator is None
            else [Fit(Part(tuple(tasks)), estimator)]
        )
    return fits


def pooled(data: Training, added: dict[str, Any], make: Make) -> list[Fit]:
    """One estimator for the rows of all tasks of a grouped suite.

    Args:
        added: how it is told the task, see `Part.added`.
    """
    tasks = tuple(range(len(data.specs)))
    codes = _codes(data)
    rows, task, y = data.pooled()
    if codes is not None:
        y = _coded(y, task, codes)
    table = with_task(data.x[rows], task, added, len(tasks))
    single = codes is not None and len(np.unique(y)) < 2
    estimator = None if single else make(codes is not None, table, y)
    if estimator is None:
        return apart(data, tasks, lambda *_: None)
    return [Fit(Part(tasks, added=added, codes=codes), estimator)]


def one_hot(scale: float) -> dict[str, Any]:
    """An indicator a task; the smaller its scale, the more a penalty draws tasks together."""
    return {"one_hot": scale}


def means(data: Training) -> dict[str, Any]:
    """Each task's training mean, or the frequencies of all classes but the first.

    Smoothed: m_t = (Σ y + k·ȳ) / (n_t + k), where ȳ is the mean of all rows and k = 5 rows.
    """
    codes = _codes(data)
    _, task, y = data.pooled()
    values = y[:, None]
    if codes is not None:
        labels = _coded(y, task, codes)
        values = (labels[:, None] == np.arange(1, 1 + _largest(codes))).astype(np.float64)
    sums = np.zeros((len(data.specs), values.shape[1]))
    np.add.at(sums, task, values)
    n = np.bincount(task, minlength=len(sums))[:, None]
    found = (sums + _PRIOR_ROWS * values.mean(0)) / (n + _PRIOR_ROWS)
    return {"table": found.tolist()}


def _one(data: Training, t: int, make: Make) -> Fit:
    spec = data.specs[t]
    rows, truth = data.labelled(t)
    classes = spec.kind != "regression"
    single = classes and len(np.unique(truth)) < 2
    y = truth.astype(np.int64) if classes else truth
    estimator = None if single else make(classes, data.x[rows], y)
    if estimator is None:
        return Fit(Part((t,), constant=constant_channels(spec, truth)))
    return Fit(Part((t,)), estimator)


def _codes(data: Training) -> tuple[tuple[int, ...], ...] | None:
    """Task → class → its number among the labels of all tasks; None for regressions."""
    if data.specs[0].kind == "regression":
        return None
    numbers: dict[Any, int] = {}
    for names in data.names:
        for name in names:
            numbers.setdefault(name, len(numbers))
    return tuple(tuple(numbers[name] for name in names) for names in data.names)


def _coded(
    y: Float[np.ndarray, "rows"], task: Int[np.ndarray, "rows"], codes: Sequence[Sequence[int]]
) -> Int[np.ndarray, "rows"]:
    return np.array([codes[t][int(c)] for t, c in zip(task, y, strict=True)], dtype=np.int64)


def _largest(codes: Sequence[Sequence[int]]) -> int:
    return max(code for some in codes for code in some)
