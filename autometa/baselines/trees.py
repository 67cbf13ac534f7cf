"""Forests: extremely randomised trees and random forests (Geurts et al. 2006; Breiman 2001)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from autometa.baselines.base import Fit, Peer, Setting, Training, too_large, why_not_pooled
from autometa.baselines.fitting import apart, means, one_hot, pooled, together
from autometa.tasks import TaskSuite

#: trees of a forest; fewer where rows are many, because a forest is as large as trees times rows
_TREES, _FEWEST, _LEAVES = 200, 50, 1_000_000


class TreesPeer(Peer):
    """A forest for all targets of a table at once, or for the pooled rows of all tasks.

    Aligned tasks of one kind with the same labelled rows are columns of one forest, which splits
    where they gain together; others get a forest each. Grouped tasks are pooled, with the task's
    training mean or an indicator a task as features, where they can be; a setting fits them apart.
    """

    name: ClassVar[str] = "trees"

    @classmethod
    def words(cls, suite: TaskSuite, setting: Setting) -> str:
        trees = "extremely randomised trees" if setting["forest"] == "extra" else "a random forest"
        if suite.n_tasks == 1:
            return trees
        if setting["tasks"] == "apart":
            return f"{trees}, one model a task"
        if setting["tasks"] == "joint":
            return f"{trees}, targets together"
        return f"{trees} of all tasks"

    @classmethod
    def applies(cls, suite: TaskSuite) -> str | None:
        return too_large(suite)

    @classmethod
    def settings(cls, suite: TaskSuite) -> list[Setting]:
        if not suite.is_grouped:
            return [
                _setting("extra", 3, 0.5, "joint"),
                _setting("extra", 10, 1.0, "joint"),
                _setting("random", 3, 0.3, "joint"),
                _setting("extra", 1, 0.5, "joint"),
                _setting("extra", 1, 1.0, "joint"),
                _setting("extra", 3, 0.5, "apart"),
                _setting("extra", 1, 1.0, "apart"),
            ]
        if why_not_pooled(suite) is not None:
            return [_setting("extra", leaf, 1.0, "apart") for leaf in (5, 20, 10, 2)]
        return [
            _setting("extra", 20, 1.0, "mean"),
            _setting("random", 20, 0.3, "mean"),
            _setting("random", 5, 0.3, "mean"),
            _setting("extra", 5, 1.0, "mean"),
            _setting("extra", 5, 1.0, "apart"),
            _setting("extra", 10, 0.5, "one_hot"),
        ]

    @classmethod
    def fits(cls, data: Training, setting: Setting, seed: int) -> list[Fit]:
        def make(classes: bool, x: np.ndarray, y: np.ndarray) -> Any:
            return _forest(classes, x, y, setting, seed)

        if setting["tasks"] == "apart":
            return apart(data, range(len(data.specs)), make)
        if setting["tasks"] == "joint":
            return together(data, make)
        added = means(data) if setting["tasks"] == "mean" else one_hot(1.0)
        return pooled(data, added, make)


def _setting(forest: str, leaf: int, features: float, tasks: str) -> Setting:
    """`leaf`: fewest rows of a leaf, a twentieth of all rows at most. `features`: share of them
    that a split looks at."""
    return {"forest": forest, "leaf": leaf, "features": features, "tasks": tasks}


def _forest(classes: bool, x: np.ndarray, y: np.ndarray, setting: Setting, seed: int) -> Any:
    extra, random = (
        (ExtraTreesClassifier, RandomForestClassifier)
        if classes
        else (ExtraTreesRegressor, RandomForestRegressor)
    )
    forest = (extra if setting["forest"] == "extra" else random)(
        n_estimators=int(np.clip(_LEAVES * setting["leaf"] // len(y), _FEWEST, _TREES)),
        min_samples_leaf=min(setting["leaf"], max(1, len(y) // 20)),
        max_features=setting["features"],
        random_state=seed,
    )
    return forest.fit(x, y)
