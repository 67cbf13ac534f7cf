"""One task of a suite: what it predicts, how it is scored, how predictions become labels again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autometa.errors import DataError, nearest
from autometa.tasks.reading import as_text, match_names

Kind: TypeAlias = Literal["regression", "binary", "multiclass"]
Metric: TypeAlias = Literal["rmse", "accuracy", "auc"]
Label: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: the target column (aligned suites) or the value of the task column (grouped ones).
        kind: `regression`, `binary` or `multiclass`.
        metric: `rmse` in original units, `accuracy` or `auc`.
        classes: original labels in index order; for `binary` (negative, positive). Empty for
            regression.
        mean, std: standardisation of a regression target, fitted on training rows:
            original = y * std + mean. (0, 1) for the other kinds.
    """

    name: str
    kind: Kind
    metric: Metric
    classes: tuple[Label, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def n_outputs(self) -> int:
        """Network outputs this task reads: 1 (regression, binary logit) or one a class."""
        return len(self.classes) if self.kind == "multiclass" else 1

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Standardised predictions to original units, or class indices to original labels."""
        if self.kind == "regression":
            return np.asarray(values, dtype=np.float64) * self.std + self.mean
        labels = np.empty(len(self.classes), dtype=object)
        labels[:] = self.classes
        return labels[np.asarray(values).astype(np.int64)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """Inverse of `to_json`."""
        return cls(**{**data, "classes": tuple(data["classes"])})


def task_numbers(tasks: Sequence[Task], values: Any) -> Tensor:
    """Values of a task column (strings or numbers) to task indices.

    Returns:
        int64 [rows].

    Raises:
        DataError: a value is missing or names no task of the suite.
    """
    known = {task.name: number for number, task in enumerate(tasks)}
    given = pd.Series(values).to_numpy(dtype=object)
    names = match_names(given, known)
    out = np.empty(len(names), dtype=np.int64)
    for row, name in enumerate(names):
        if name is None:
            unknown = as_text(given[row : row + 1])[0]
            raise DataError(
                f"The task column names task `{unknown}` in row {row}, which the suite does not "
                f"have.{nearest(unknown, known)} It has {len(known)} tasks, "
                f"e.g. {', '.join(list(known)[:5])}."
            )
        out[row] = known[name]
    return torch.from_numpy(out)
