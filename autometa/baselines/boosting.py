"""Gradient-boosted trees: one model a task, or one for the pooled rows of all tasks.

scikit-learn's histogram gradient boosting with leaves fitted to the number of rows, so that a task
of 22 rows is learned too (the library's defaults predict its mean).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from autometa.baselines.base import Fit, Peer, Setting, Training, why_not_pooled
from autometa.baselines.fitting import apart, means, one_hot, pooled
from autometa.tasks import TaskSuite

_TREES_OF_ALL_CLASSES = 1000  # one tree a class and iteration: 55 classes would take minutes
_EARLY_STOP_ROWS = 1000  # from here a tenth can be spared to choose the number of trees, up to
_TREES_STOPPED = 500  # this many
_WIDE = 100  # features from which each split looks at a random share of them

_SHALLOW: Setting = {"trees": 100, "rate": 0.05, "leaves": 8, "leaf": 20, "l2": 10.0, "stop": True}
"""Strongly regularised; chosen among a dozen on seven suites with 60 to 9,000 training rows."""


class BoostingPeer(Peer):
    """Histogram gradient boosting, one model a task."""

    name: ClassVar[str] = "boosting"

    @classmethod
    def words(cls, suite: TaskSuite, setting: Setting) -> str:
        return "gradient-boosted trees" + (", one model a task" if suite.n_tasks > 1 else "")

    @classmethod
    def applies(cls, suite: TaskSuite) -> str | None:
        return _why_not_images(suite)

    @classmethod
    def settings(cls, suite: TaskSuite) -> list[Setting]:
        return [
            _SHALLOW,
            _setting(100, 0.03, 4, 20, 10.0),
            _setting(200, 0.05, 4, 5, 1.0),
            _setting(300, 0.05, 8, 5, 1.0),
            _setting(300, 0.05, 16, 10, 1.0),
            _setting(500, 0.1, 16, 20, 1.0),
        ]

    @classmethod
    def fits(cls, data: Training, setting: Setting, seed: int) -> list[Fit]:
        def make(classes: bool, x: np.ndarray, y: np.ndarray) -> Any:
            return _boosted(classes, x, y, setting, seed)

        return apart(data, range(len(data.specs)), make)


class PooledBoostingPeer(Peer):
    """One model of the rows of all tasks, told the task by its training mean or an indicator."""

    name: ClassVar[str] = "boosting_pooled"

    @classmethod
    def words(cls, suite: TaskSuite, setting: Setting) -> str:
        return "gradient-boosted trees of all tasks"

    @classmethod
    def applies(cls, suite: TaskSuite) -> str | None:
        return why_not_pooled(suite) or _why_not_images(suite)

    @classmethod
    def settings(cls, suite: TaskSuite) -> list[Setting]:
        mean, indicators = {"tasks": "mean"}, {"tasks": "one_hot"}
        return [
            _SHALLOW | mean,
            _setting(100, 0.05, 8, 20, 10.0) | mean,
            _setting(300, 0.05, 4, 20, 10.0) | mean,
            _setting(300, 0.05, 8, 20, 10.0) | mean,
            _setting(300, 0.05, 16, 20, 1.0) | mean,
            _setting(300, 0.1, 8, 20, 1.0) | indicators,
        ]

    @classmethod
    def fits(cls, data: Training, setting: Setting, seed: int) -> list[Fit]:
        def make(classes: bool, x: np.ndarray, y: np.ndarray) -> Any:
            return _boosted(classes, x, y, setting, seed)

        added = means(data) if setting["tasks"] == "mean" else one_hot(1.0)
        return pooled(data, added, make)


def _setting(trees: int, rate: float, leaves: int, leaf: int, l2: float) -> Setting:
    """`leaf`: fewest rows of a leaf, a tenth of all rows at most. The number of trees is fixed."""
    return {"trees": trees, "rate": rate, "leaves": leaves, "leaf": leaf, "l2": l2, "stop": False}


def _boosted(classes: bool, x: np.ndarray, y: np.ndarray, setting: Setting, seed: int) -> Any:
    """A fitted model; None for a regression of one row."""
    if not classes:
        if len(y) < 2:
            return None
        return HistGradientBoostingRegressor(**_arguments(x, 1, setting, seed, True)).fit(x, y)
    counts = np.unique(y, return_counts=True)[1]
    trees = 1 if len(counts) == 2 else len(counts)
    spare = bool(counts.min() >= 20)  # each class is in the tenth that is set aside
    return HistGradientBoostingClassifier(**_arguments(x, trees, setting, seed, spare)).fit(x, y)


def _arguments(
    x: np.ndarray, per_iteration: int, setting: Setting, seed: int, spare: bool
) -> dict[str, Any]:
    rows, features = x.shape
    stop = setting["stop"] and spare and rows >= _EARLY_STOP_ROWS
    trees = _TREES_STOPPED if stop else setting["trees"]
    return {
        "max_iter": int(np.clip(_TREES_OF_ALL_CLASSES // per_iteration, 10, trees)),
        "min_samples_leaf": int(np.clip(rows // 10, 1, setting["leaf"])),
        "learning_rate": 2 * setting["rate"] if stop else setting["rate"],
        "max_leaf_nodes": setting["leaves"],
        "l2_regularization": setting["l2"],
        "max_features": 1.0 if features < _WIDE else max(0.1, _WIDE / features),
        "early_stopping": stop,
        "random_state": seed,
    }


def _why_not_images(suite: TaskSuite) -> str | None:
    return "Boosted trees are not fitted to pixels." if suite.is_image else None
