"""Small suites of every kind that peers are fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autometa.tasks import TaskSuite

ROWS = 240


def aligned(kinds: tuple[str, ...], missing: float = 0.0, rows: int = ROWS) -> TaskSuite:
    """A target a kind, each of a feature of its own."""
    rng = np.random.default_rng(len(kinds))
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    y = np.empty((rows, len(kinds)))
    for t, kind in enumerate(kinds):
        z = x[:, t] + 0.5 * x[:, 3]
        if kind == "regression":
            y[:, t] = z + 0.1 * rng.normal(size=rows)
        else:
            y[:, t] = z > 0 if kind == "binary" else np.digitize(z, [-0.5, 0.5])
    y[rng.random(y.shape) < missing] = np.nan
    names = [f"{kind}-{t}" for t, kind in enumerate(kinds)]
    by_name = dict(zip(names, kinds, strict=True))
    return TaskSuite.from_arrays(x, y, names=names, kinds=by_name, splits=split(rows))


def grouped(kind: str, n_tasks: int = 4, rows: int = ROWS) -> TaskSuite:
    """Tasks of one slope and very different levels; the last has half of the rows."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    small = np.arange(rows // 2) % max(1, n_tasks - 1)
    task = np.sort(np.r_[small, np.full(rows - len(small), n_tasks - 1)])
    z = x[:, 0] + np.linspace(-0.5, 0.5, n_tasks)[task] + 0.1 * rng.normal(size=rows)
    if kind == "multiclass":
        y = np.digitize(z, [-0.7, 0.7])
        y[(task == 0) & (y == 2)] = 0  # the first task has two of three classes
    else:
        y = z if kind == "regression" else z > 0
    metrics = "auc" if kind == "binary" else None
    return TaskSuite.from_arrays(
        x, y.astype(float), task=task, kinds=kind, metrics=metrics, splits=split(rows)
    )


def split(rows: int) -> np.ndarray:
    return np.array(["train", "train", "val", "train", "test"])[np.arange(rows) % 5]


SUITES: dict[str, Callable[[], TaskSuite]] = {
    "regression": lambda: aligned(("regression",) * 3),
    "binary with gaps": lambda: aligned(("binary", "binary"), missing=0.3),
    "mixed with gaps": lambda: aligned(("regression", "binary", "multiclass"), missing=0.2),
    "multiclass": lambda: aligned(("multiclass", "multiclass")),
    "grouped regression": lambda: grouped("regression"),
    "grouped auc": lambda: grouped("binary", rows=400),
    "grouped classes": lambda: grouped("multiclass", rows=400),
}
