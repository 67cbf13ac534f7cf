"""Arrays as users have them: check their shapes, then `build`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from autometa.errors import DataError
from autometa.tasks.build import Parts, build
from autometa.tasks.encoder import TableInputs
from autometa.tasks.frame import no_duplicates
from autometa.tasks.images import ImageInputs
from autometa.tasks.reading import ReadOptions, as_text, conform, decide
from autometa.tasks.scales import TaskScale
from autometa.tasks.splits import FRACTIONS, SplitPlan


def parts_from_arrays(
    X: np.ndarray | Tensor,
    Y: np.ndarray | Tensor,
    *,
    names: Sequence[str] | None = None,
    kinds: str | Mapping[str, str] | None = None,
    metrics: str | Mapping[str, str] | None = None,
    task: Sequence[Any] | np.ndarray | None = None,
    task_column: str = "task",
    splits: Sequence[Any] | np.ndarray | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    name: str = "arrays",
    task_scale: TaskScale = "auto",
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> Parts:
    """See `TaskSuite.from_arrays`."""
    inputs, labels = np.asarray(X), np.asarray(Y)
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or labels.shape[1] == 0:
        raise DataError(
            f"Parameter `Y` should have shape [rows] or [rows, targets]. Found {list(np.shape(Y))}."
        )
    if inputs.ndim not in (2, 3, 4):
        raise DataError(
            "Parameter `X` should have shape [rows, features], [rows, H, W] or [rows, C, H, W]. "
            f"Found {list(inputs.shape)}."
        )
    for label, values in (("Y", labels), ("task", task), ("splits", splits), ("groups", groups)):
        if values is not None and len(values) != len(inputs):
            raise DataError(
                f"Parameter `{label}` should have one row for each of the {len(inputs)} rows of "
                f"`X`. Found {len(values)}."
            )
    if task is not None and labels.shape[1] != 1:
        raise DataError(f"With `task`, `Y` should have one column. Found {labels.shape[1]}.")
    columns = _default_names(labels.shape[1]) if names is None else [str(n) for n in names]
    if len(columns) != labels.shape[1]:
        raise DataError(
            f"Parameter `names` should have {labels.shape[1]} names, one a column of `Y`. "
            f"Found {len(columns)}."
        )
    no_duplicates(columns, "`names`")
    plan = SplitPlan(
        seed=seed,
        fractions=tuple(fractions),
        own=None if splits is None else np.asarray(splits, dtype=object),
        groups=None if groups is None else as_text(np.asarray(groups, dtype=object)),
    )
    return build(
        _table(inputs) if inputs.ndim == 2 else ImageInputs(_images(inputs)),
        {column: pd.Series(labels[:, i]) for i, column in enumerate(columns)},
        plan,
        name=name,
        task=None if task is None else pd.Series(np.asarray(task)),
        task_column=None if task is None else task_column,
        kinds=kinds,
        metrics=metrics,
        task_scale=task_scale,
    )


def _default_names(count: int) -> list[str]:
    return ["target"] if count == 1 else [f"task_{i}" for i in range(count)]


def _table(array: np.ndarray) -> TableInputs:
    names = [f"x{i}" for i in range(array.shape[1])]
    wide = array.astype(np.float64) if array.dtype.kind == "f" else array
    frame = pd.DataFrame(wide, columns=names).infer_objects()
    types = decide(frame, {}, ReadOptions(), typed=True).types
    return TableInputs.read(
        pd.DataFrame({n: conform(frame[n], n, types[n]).column for n in names}), types
    )


def _images(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "uifb":
        raise DataError(f"Images should be numbers. Found dtype `{array.dtype}`.")
    images = array[:, None] if array.ndim == 3 else array
    if images.shape[-1] in (1, 3) and images.shape[1] > 4:
        raise DataError(
            "Images should have their channels first, [rows, C, H, W]. "
            f"Found {list(array.shape)}: use X.transpose(0, 3, 1, 2)."
        )
    return images.astype(np.uint8) if images.dtype == bool else images
