"""A fitted peer of a few lines, and how one is stored, for tests of what holds them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import skops.io
from sklearn.linear_model import Ridge

from autometa.tasks import TaskSuite


class StubPeer:
    """A ridge a task; classes by the sign of what it says, or by its nearest number."""

    words = "ridge regression, one a task"

    def __init__(self, facts: dict[str, Any], estimators: dict[str, Any]) -> None:
        self.facts = facts
        self.estimators = estimators

    @classmethod
    def fit(cls, suite: TaskSuite) -> StubPeer:
        rows = suite.rows("train")
        x, y, mask = rows.x.numpy(), rows.y.numpy(), rows.mask.numpy()
        widths = [task.n_outputs for task in suite.tasks]
        estimators = {}
        for number in range(len(suite.tasks)):
            known = mask[:, number] if rows.task is None else (rows.task == number).numpy() & mask
            truth = y[known, number] if rows.task is None else y[known]
            estimators[f"task-{number}"] = Ridge().fit(x[known], truth)
        return cls({"words": cls.words, "widths": widths, "layout": suite.layout}, estimators)

    def predict(self, x: np.ndarray, task: np.ndarray | None) -> np.ndarray:
        widths = self.facts["widths"]
        cells = (len(widths), len(x)) if task is None else (len(x),)
        out = np.full((*cells, max(widths)), -np.inf, dtype=np.float32)
        for number, width in enumerate(widths):
            rows = np.arange(len(x)) if task is None else np.flatnonzero(task == number)
            if not len(rows):
                continue
            found = self.estimators[f"task-{number}"].predict(x[rows])[:, None]
            if width > 1:
                found = -np.square(found - np.arange(width))
            (out[number] if task is None else out)[rows, :width] = found
        return out

    def to_json(self) -> dict[str, Any]:
        return self.facts

    @classmethod
    def from_parts(cls, facts: Mapping[str, Any], estimators: Mapping[str, Any]) -> StubPeer:
        return cls(dict(facts), dict(estimators))


def write_estimators(estimators: Mapping[str, Any], path: Path) -> Path:
    skops.io.dump(dict(estimators), path, compression=zipfile.ZIP_DEFLATED)
    return path


def read_estimators(path: Path) -> Any:
    return skops.io.load(path, trusted=[])


#: what `autometa.model.peer` imports when it stores and loads
MODULES = {
    "autometa.baselines.storing": SimpleNamespace(
        write_estimators=write_estimators, read_estimators=read_estimators
    ),
    "autometa.baselines.fitted": SimpleNamespace(FittedPeer=StubPeer),
}
