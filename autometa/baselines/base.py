"""What a peer is: a method without networks that a user would try first."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from autometa.baselines.fitted import FittedPeer, Part
from autometa.errors import DataError
from autometa.metrics import TaskSpec, labels
from autometa.tasks import Rows, TaskSuite
from autometa.training.scoring import task_specs

Setting = dict[str, Any]
"""A setting of a peer: plain JSON."""

_PIXELS = 1024
"""Images of more numbers than this are not flattened for linear models and trees."""


@dataclass(frozen=True, eq=False)
class Training:
    """Training rows as estimators take them.

    Attributes:
        x: `[N, D]`, float32, images flattened.
        y, mask, task: as in `Rows`.
        names: class labels of each task, in index order; empty for regression.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    task: np.ndarray | None
    specs: tuple[TaskSpec, ...]
    names: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, suite: TaskSuite, rows: Rows | None) -> Training:
        """The rows, or the suite's training rows.

        Raises:
            DataError: a task has no labelled row among them.
        """
        chosen = suite.rows("train") if rows is None else rows
        found = cls(
            x=chosen.x.numpy().reshape(len(chosen.x), -1),
            y=chosen.y.numpy(),
            mask=chosen.mask.numpy(),
            task=None if chosen.task is None else chosen.task.numpy(),
            specs=task_specs(suite.without_test()),
            names=tuple(task.classes for task in suite.tasks),
        )
        for t, spec in enumerate(found.specs):
            if not len(found.labelled(t)[0]):
                raise DataError(f"Task {spec.name!r} has no labelled training row.")
        return found

    def labelled(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and truth of a task's labelled rows."""
        return labels(self.y, t, self.mask, self.task)

    def pooled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All labelled rows of a grouped suite: their numbers, tasks and truth.

        Raises:
            DataError: the tasks are columns of one table.
        """
        if self.task is None:
            raise DataError("Rows of aligned tasks belong to all of them and are not pooled.")
        rows = np.flatnonzero(self.mask)
        return rows, self.task[rows], self.y[rows].astype(np.float64)


class Fit(NamedTuple):
    """A part and its estimator; None where a constant predicts."""

    part: Part
    estimator: Any = None


class Peer(ABC):
    """A method without networks; one entry of `PEERS`. Never instantiated.

    Attributes:
        name: its name in `PEERS`.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def words(cls, suite: TaskSuite, setting: Setting) -> str:
        """How a verdict calls it here: "ridge regression, one a task"."""

    @classmethod
    @abstractmethod
    def applies(cls, suite: TaskSuite) -> str | None:
        """None, or a sentence that says why it is not fitted to this suite."""

    @classmethod
    @abstractmethod
    def settings(cls, suite: TaskSuite) -> list[Setting]:
        """Four to eight settings, the default first, the cheaper of the others next."""

    @classmethod
    @abstractmethod
    def fits(cls, data: Training, setting: Setting, seed: int) -> list[Fit]:
        """Parts with fitted estimators, every task in one of them; called by `fit`."""

    @final
    @classmethod
    def fit(
        cls,
        suite: TaskSuite,
        setting: Setting,
        *,
        seed: int,
        rows: Rows | None = None,
        threads: int = 1,
    ) -> FittedPeer:
        """Fit the peer.

        Args:
            setting: one of `settings`.
            rows: to fit on; the suite's training rows if None. `suite.merged()` has the validation
                rows among them.
            threads: to be used at most.

        Raises:
            DataError: a task has no labelled row to be fitted on.
        """
        data = Training.of(suite, rows)
        with threadpool_limits(limits=threads), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # validation judges what it is worth
            fits = cls.fits(data, setting, seed % 2**32)  # older studies may have a larger one
        parts, estimators = [], {}
        for part, estimator in fits:
            if estimator is not None:
                part = replace(part, estimator=str(part.tasks[0]))
                estimators[str(part.tasks[0])] = estimator
            parts.append(part)
        return FittedPeer(
            name=cls.name,
            words=cls.words(suite, setting),
            setting=dict(setting),
            specs=data.specs,
            layout=suite.layout,
            features=data.x.shape[1],
            parts=tuple(parts),
            estimators=estimators,
        )


def too_large(suite: TaskSuite) -> str | None:
    """Why pixels are not flattened for linear models and trees; None if they can be."""
    size = math.prod(suite.feature_shape)
    if not suite.is_image or size <= _PIXELS:
        return None
    return f"An image has {size} numbers, and at most {_PIXELS} are taken one by one."


def why_not_pooled(suite: TaskSuite) -> str | None:
    """Why one estimator cannot take the rows of all tasks; None if it can."""
    if not suite.is_grouped:
        return "All tasks have the same rows, so there is nothing to pool."
    if suite.n_tasks < 2:
        return "There is one task only, so there is nothing to pool."
    if "regression" in suite.kinds and len(set(suite.kinds)) > 1:
        return "Some tasks are numbers and some are classes."
    return too_large(suite)
