"""The labelled rows of a task that a model has not seen: what `Model.adapt` learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from autometa.errors import DataError, nearest
from autometa.tasks.encoder import Encoder, TableEncoder
from autometa.tasks.episodic import EpisodicSuite
from autometa.tasks.labels import Labels, read_labels
from autometa.tasks.reading import (
    ColumnType,
    ReadOptions,
    Table,
    as_text,
    conform,
    decide,
    joined,
)
from autometa.tasks.task import Kind, Label, Metric, Task


@dataclass(frozen=True)
class NewTask:
    """What a model knows of a task before it has seen a row of it.

    Attributes:
        target: the column that held the labels of the training tasks; None where each had its own.
        task_column: the column that named them; None where there was none.
        classes: (negative, positive) of binary training tasks; empty where a task's classes are
            those of its labelled rows.
        mean, std: of a regression target, over the training tasks.
        own_scale: targets have no common unit: mean and std are those of the labelled rows.
        reading: how the cells of `target` are read; None where each task had a column of its own.
    """

    kind: Kind
    metric: Metric
    target: str | None = None
    task_column: str | None = None
    classes: tuple[Label, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    own_scale: bool = False
    reading: ColumnType | None = None

    @classmethod
    def of(cls, suite: EpisodicSuite) -> NewTask:
        """What is known of every task of an episodic suite."""
        return cls(
            suite.kind,
            suite.metric,
            suite.target,
            suite.task_column,
            suite.labels,
            suite.target_mean,
            suite.target_std,
            suite.units is not None,
            suite.columns.get(suite.target) if suite.target is not None else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NewTask:
        """Inverse of `to_json`."""
        stored = data.get("reading")
        reading = None if stored is None else ColumnType.from_json(stored)
        return cls(**{**data, "classes": tuple(data["classes"]), "reading": reading})


class Support(NamedTuple):
    """Labelled rows of one task, as a learner takes them.

    Attributes:
        x: [row, *feature].
        y: [row]; standardised values or class indices.
        task: how predictions become labels again; named by the target.
        group: what the table's task column calls it, where it has one.
        unlabelled: rows without a label, which were left out.
        remarks: where cells were read as something else than their text.
    """

    x: Float[Tensor, "row *feature"]
    y: Float[Tensor, " row"]
    task: Task
    group: str | None
    unlabelled: int
    remarks: tuple[str, ...] = ()


def read_support(
    new: NewTask,
    encoder: Encoder | None,
    support: pd.DataFrame | Table | np.ndarray | Tensor,
    *,
    target: str | None = None,
    labels: Sequence[Any] | np.ndarray | pd.Series | Tensor | None = None,
    options: ReadOptions | None = None,
) -> Support:
    """Check and encode the labelled rows of a new task.

    Args:
        support: a table with the features and the target, or arrays or images with `labels`.
        target: the target column; that of training, or the only column that is no feature, if not
            given. With `labels` the name of what is predicted.
        options: what the user says of how the table's cells are written.

    Raises:
        DataError: no rows, no labels, a column that is missing or holds something else, one class.
    """
    table = support if isinstance(support, Table) else None
    support = support.frame if isinstance(support, Table) else support
    if isinstance(support, pd.DataFrame):
        support = _named(support)
    if np.ndim(support) < 2:
        raise DataError(
            f"The new task should be a table, or an array of rows. Found {np.ndim(support)} "
            f"dimension{'s' * (np.ndim(support) == 0)}."
        )
    if len(support) == 0:
        raise DataError("The table of the new task has no rows.")
    group = None
    if isinstance(support, pd.DataFrame):
        group = _group(support, new)
    if labels is None:
        if not isinstance(support, pd.DataFrame):
            raise DataError("Arrays need `labels`: one label for each row.")
        name = _target_column(new, encoder, support, target)
        column, remarks = _labels(support[name], name, new, table, options)
        support = support.drop(columns=name)
    else:
        name = str(target or new.target or "target")
        column, remarks = _given(labels, len(support)), ()
    if column.isna().all():
        raise DataError(f"Target `{name}` has no value; at least one row needs a label.")
    task, values = _task(new, read_labels(column, name), name)
    known = ~np.isnan(values)
    rows = support[known] if isinstance(support, pd.DataFrame) else np.asarray(support)[known]
    if encoder is None:
        if isinstance(rows, pd.DataFrame):
            rows = rows.drop(columns=[c for c in (new.task_column,) if c in rows])
        x = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    else:
        x, found = encoder.read(rows, options)
        remarks = (*remarks, *found)
    y = torch.from_numpy(((values[known] - task.mean) / task.std).astype(np.float32))
    if table is not None:
        remarks = (*table.remarks, *remarks)
    return Support(x, y, task, group, int((~known).sum()), remarks)


def _labels(
    column: pd.Series,
    name: str,
    new: NewTask,
    table: Table | None,
    options: ReadOptions | None,
) -> tuple[pd.Series, tuple[str, ...]]:
    """The labels read as those of training were; a column of another name as what it is."""
    kind, remarks = new.reading, tuple[str, ...]()
    if kind is None or name != new.target:
        typed, separator = (True, None) if table is None else (table.typed, table.separator)
        types, remarks = decide(
            column.to_frame(name),
            {name: "target"},
            options or ReadOptions(),
            typed=typed,
            separator=separator,
        )
        kind = types[name]
    found = conform(column, name, kind, options)
    return found.column, (*remarks, *joined(found.remarks))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    frame = table.rename(columns=lambda name: str(name).strip()).reset_index(drop=True)
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"Column `{twice}` appears twice in the table; rename or remove one.")
    return frame


def _group(table: pd.DataFrame, new: NewTask) -> str | None:
    """The new task's name, where the table's task column tells one.

    Classes may come from several groups, as they do in episodes that mix them.
    """
    if new.task_column is None or new.task_column not in table:
        return None
    found = sorted({v for v in as_text(table[new.task_column].to_numpy(dtype=object)) if v})
    if new.kind != "multiclass" and len(found) > 1:
        raise DataError(
            f"The table should hold the rows of one new task. Found {len(found)} in column "
            f"`{new.task_column}`: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}."
        )
    return found[0] if len(found) == 1 else None


def _target_column(
    new: NewTask, encoder: Encoder | None, table: pd.DataFrame, target: str | None
) -> str:
    features = [c.name for c in encoder.columns] if isinstance(encoder, TableEncoder) else []
    source = encoder.source if isinstance(encoder, TableEncoder) else ()
    others = [c for c in table.columns if c not in {*features, *source, new.task_column}]
    wanted = target if target is not None else new.target
    if wanted is None:
        if len(others) == 1:
            return str(others[0])
        found = f"Found {', '.join(others[:10])}." if others else "The table has features only."
        raise DataError(
            f"Which column holds the labels of the new task? Name it as {_TARGET}. {found}"
        )
    if wanted in features:
        raise DataError(f"Column `{wanted}` is a feature of the model; name another as {_TARGET}.")
    if wanted not in table:
        hint = nearest(wanted, others)
        if not hint and others and target is None:
            hint = f" Name another as {_TARGET}: it has {', '.join(others[:10])}."
        raise DataError(
            f"Column `{wanted}`, which should hold the labels, is not in the table.{hint}"
        )
    return str(wanted)


def _given(labels: Any, rows: int) -> pd.Series:
    column = labels if isinstance(labels, pd.Series) else pd.Series(np.asarray(labels).tolist())
    if len(column) != rows or np.ndim(labels) != 1:
        raise DataError(
            f"Parameter `labels` should have one label for each of the {rows} rows. "
            f"Found shape {list(np.shape(labels))}."
        )
    return column.reset_index(drop=True)


def _task(new: NewTask, labels: Labels, name: str) -> tuple[Task, Float[np.ndarray, " row"]]:
    """How the new task's predictions become labels, and its values or class indices."""
    task = Task(name, new.kind, new.metric, new.classes, new.mean, new.std)
    if new.kind == "regression":
        if labels.numeric is None:
            raise DataError(f"Target `{name}` should hold numbers. Found {labels.found}.")
        if new.own_scale:
            mean, std = _scale(labels.numeric[~np.isnan(labels.numeric)], name)
            task = replace(task, mean=mean, std=std)
        return task, labels.numeric
    n_classes = len(labels.distinct)
    if n_classes < 2:
        raise DataError(
            f"Target `{name}` should have at least two classes to learn from. Found one "
            f"(`{labels.distinct[0]}`)."
        )
    unknown = [c for c in labels.distinct if c not in new.classes]
    if new.classes and not (unknown and new.target is None):  # else each column has its own
        if unknown:
            raise DataError(
                f"Target `{name}` should hold {' or '.join(f'`{c}`' for c in new.classes)}, as in "
                f"training. Found `{unknown[0]}`."
            )
        place = np.array([new.classes.index(c) for c in labels.distinct], dtype=np.float64)
        codes, known = labels.codes, ~np.isnan(labels.codes)
        codes[known] = place[codes[known].astype(np.int64)]
        return task, codes
    if new.kind == "binary" and n_classes > 2:
        raise DataError(f"Target `{name}` should have two classes. Found {n_classes}.")
    return replace(task, classes=tuple(labels.distinct)), labels.codes


def _scale(values: np.ndarray, name: str) -> tuple[float, float]:
    """Mean and deviation of labels whose unit no other task has, as in `drawing.support_units`."""
    mean, std = float(values.mean()), float(values.std())
    if not std > 1e-9 * np.abs(values).max():
        raise DataError(
            f"Target `{name}` should have at least two different values: as in training, its unit "
            f"is taken from the labelled rows. Found `{values[0]:g}` only."
        )
    return mean, std


_TARGET = "`target` (on the command line `--target`)"
