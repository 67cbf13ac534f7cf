"""Ridge and logistic regression: one a task, or one for the pooled rows of all tasks."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV

from autometa.baselines.base import Fit, Peer, Setting, Training, too_large, why_not_pooled
from autometa.baselines.fitting import apart, one_hot, pooled, together
from autometa.tasks import TaskSuite

#: penalties that are compared by leaving out one row in turn, all from one decomposition
_ALPHAS = np.logspace(-3, 5, 25)
_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 0.1)
_ITERATIONS = 500


class RidgePeer(Peer):
    """min ‖y − Xw‖² + α‖w‖² a task; for classes its logistic counterpart, C = 1/α.

    In the first setting each regression has the penalty of its own that predicts left-out training
    rows best; in the others all tasks have the same one.
    """

    name: ClassVar[str] = "ridge"

    @classmethod
    def words(cls, suite: TaskSuite, setting: Setting) -> str:
        return f"{_method(suite)}, one a task" if suite.n_tasks > 1 else _method(suite)

    @classmethod
    def applies(cls, suite: TaskSuite) -> str | None:
        return too_large(suite)

    @classmethod
    def settings(cls, suite: TaskSuite) -> list[Setting]:
        own: list[Setting] = [{"alpha": None}] if "regression" in suite.kinds else []
        return own + [{"alpha": alpha} for alpha in _PENALTIES]

    @classmethod
    def fits(cls, data: Training, setting: Setting, seed: int) -> list[Fit]:
        def make(classes: bool, x: np.ndarray, y: np.ndarray) -> Any:
            return _linear(classes, x, y, setting["alpha"])

        regressions = all(spec.kind == "regression" for spec in data.specs)
        if data.task is None and regressions:
            return together(data, make)
        return apart(data, range(len(data.specs)), make)


class PooledRidgePeer(Peer):
    """One linear model of all rows, with an indicator a task as further features.

    An indicator of scale s has a penalty of α/s²: with a large one each task has a level of its
    own, with a small one levels are drawn together.
    """

    name: ClassVar[str] = "ridge_pooled"

    @classmethod
    def words(cls, suite: TaskSuite, setting: Setting) -> str:
        return f"{_method(suite)} of all tasks with task indicators"

    @classmethod
    def applies(cls, suite: TaskSuite) -> str | None:
        return why_not_pooled(suite)

    @classmethod
    def settings(cls, suite: TaskSuite) -> list[Setting]:
        if "regression" in suite.kinds:
            scaled: list[Setting] = [{"alpha": None, "scale": s} for s in (1.0, 10.0, 0.3, 0.1)]
            return [*scaled, {"alpha": 100.0, "scale": 3.0}, {"alpha": 1000.0, "scale": 10.0}]
        alphas = (1.0, 10.0, 100.0)
        return [{"alpha": a, "scale": s} for s in (1.0, 10.0) for a in alphas]

    @classmethod
    def fits(cls, data: Training, setting: Setting, seed: int) -> list[Fit]:
        def make(classes: bool, x: np.ndarray, y: np.ndarray) -> Any:
            return _linear(classes, x, y, setting["alpha"])

        return pooled(data, one_hot(setting["scale"]), make)


def _linear(classes: bool, x: np.ndarray, y: np.ndarray, alpha: float | None) -> Any:
    """A fitted model; None for a regression of fewer than three rows, which has no slope.

    Args:
        alpha: the penalty; None: chosen by leaving out one row in turn (of classes: 1).
    """
    x = x.astype(np.float64)
    if classes:
        inverse = 1.0 / (alpha or 1.0)
        return LogisticRegression(C=inverse, max_iter=_ITERATIONS).fit(x, y)
    if len(y) < 3:
        return None
    if alpha is None:
        return RidgeCV(alphas=_ALPHAS, alpha_per_target=y.ndim > 1).fit(x, y)
    return Ridge(alpha=alpha).fit(x, y)


def _method(suite: TaskSuite) -> str:
    linear = "ridge regression" if "regression" in suite.kinds else ""
    logistic = "logistic regression" if set(suite.kinds) != {"regression"} else ""
    return " and ".join(part for part in (linear, logistic) if part)
