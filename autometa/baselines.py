"""Gradient-boosted trees, one model a task: what a good method without networks reaches.

A reference beside the networks, not tuned per suite: scikit-learn's histogram gradient boosting
with leaves fitted to the number of rows, so that a task of 22 rows is learned too (the library's
defaults predict its mean). The shallow, strongly regularised trees were chosen among a dozen
settings on seven suites, with 60 to 9,000 training rows in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from autometa.errors import DataError
from autometa.metrics import Mask, TaskOfRow, TaskSpec, Truth, labels

_TREES = 100  # at rate 0.05; 200 overfit tasks of a few dozen rows
_TREES_OF_ALL_CLASSES = 1000  # one tree a class and iteration: 55 classes would take minutes
_EARLY_STOP_ROWS = 1000  # from here a tenth can be spared to choose the number of trees, up to
_TREES_STOPPED = 500  # this many
_WIDE = 100  # features from which each split looks at a random share of them
_ABSENT = -30.0  # log probability of a class without training rows


def gbdt_predictions(
    x_train: Float[np.ndarray, "rows ..."],
    y_train: Truth,
    x: Float[np.ndarray, "new ..."],
    specs: Sequence[TaskSpec],
    *,
    mask_train: Mask = None,
    task_train: TaskOfRow = None,
    task: Int[np.ndarray, "new"] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "..."]:
    """Fit one model a task on its labelled training rows and predict the rows `x`.

    Args:
        x_train, x: `[N, D]` or images `[N, C, H, W]`, which are flattened.
        y_train: `[N, T]` (aligned) or `[N]` with `task_train` (grouped): standardised regression
            targets, class indices.
        mask_train: which training labels are known; all if None.
        task_train, task: the task of each row, both for grouped suites and neither for aligned.

    Returns:
        `[T, N, O]` or `[N, O]`, float32, as networks predict: standardised values, logits of
        binary tasks, log probabilities of classes; −inf in the channels beyond a task's classes.
        A task with a single class in its training rows gets the smoothed frequency.

    Raises:
        DataError: a task has no labelled training row, or only one of the task arrays is given.
    """
    if (task_train is None) != (task is None):
        raise DataError("Parameters `task_train` and `task` should both be given, or neither.")
    table, new = x_train.reshape(len(x_train), -1), x.reshape(len(x), -1)
    outputs = max([s.n_classes for s in specs if s.kind == "multiclass"], default=1)
    shape = (len(specs), len(x), outputs) if task is None else (len(x), outputs)
    out = np.full(shape, -np.inf, dtype=np.float32)
    with threadpool_limits(limits=1, user_api="openmp"):
        for t, spec in enumerate(specs):
            rows, truth = labels(y_train, t, mask_train, task_train)
            if not len(rows):
                raise DataError(f"Task {spec.name!r} has no labelled training row.")
            wanted = np.arange(len(x)) if task is None else np.flatnonzero(task == t)
            channels = _fit_predict(spec, table[rows], truth, new[wanted], seed)
            (out[t] if task is None else out)[wanted, : channels.shape[1]] = channels
    return out


def _fit_predict(
    spec: TaskSpec, x_train: np.ndarray, y: np.ndarray, x: np.ndarray, seed: int
) -> np.ndarray:
    """Predictions `[n, 1]`, or `[n, C]` of a multiclass task."""
    if spec.kind == "regression":
        if len(y) < 2 or not len(x):
            return np.full((len(x), 1), y.mean())
        model = HistGradientBoostingRegressor(**_settings(len(y), x.shape[1], 1, seed, True))
        return model.fit(x_train, y).predict(x)[:, None]
    n_classes = 2 if spec.kind == "binary" else spec.n_classes
    counts = np.bincount(y.astype(int), minlength=n_classes)
    present = np.flatnonzero(counts)
    if len(present) < 2 or not len(x):
        log_proba = np.tile(np.log((counts + 0.5) / (counts + 0.5).sum()), (len(x), 1))
    else:
        trees = 1 if len(present) == 2 else len(present)
        spare = bool(counts[present].min() >= 20)  # each class is in the tenth that is set aside
        model = HistGradientBoostingClassifier(**_settings(len(y), x.shape[1], trees, seed, spare))
        proba = model.fit(x_train, y.astype(int)).predict_proba(x)
        log_proba = np.full((len(x), n_classes), _ABSENT)
        log_proba[:, present] = np.log(np.maximum(proba, np.exp(_ABSENT)))
    return log_proba[:, 1:] - log_proba[:, :1] if spec.kind == "binary" else log_proba


def _settings(rows: int, features: int, per_iteration: int, seed: int, spare: bool) -> dict:
    stop = spare and rows >= _EARLY_STOP_ROWS
    trees = _TREES_STOPPED if stop else _TREES
    return {
        "max_iter": int(np.clip(_TREES_OF_ALL_CLASSES // per_iteration, 10, trees)),
        "min_samples_leaf": int(np.clip(rows // 10, 1, 20)),
        "learning_rate": 0.1 if stop else 0.05,
        "max_leaf_nodes": 8,
        "l2_regularization": 10.0,
        "max_features": 1.0 if features < _WIDE else max(0.1, _WIDE / features),
        "early_stopping": stop,
        "random_state": seed % 2**32,  # older studies may have a larger one
    }
