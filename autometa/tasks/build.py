"""From raw inputs, target columns and a split plan to the parts of a suite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autometa.errors import DataError
from autometa.tasks.columns import as_text
from autometa.tasks.encoder import Encoder, Inputs
from autometa.tasks.labels import (
    Target,
    kinds_by_target,
    make_aligned_tasks,
    make_grouped_tasks,
    read_target,
)
from autometa.tasks.splits import TRAIN, SplitPlan, check_splits, make_splits
from autometa.tasks.task import Task


class Parts(NamedTuple):
    """What a `TaskSuite` is made of; see there."""

    name: str
    layout: str
    input_kind: str
    tasks: tuple[Task, ...]
    x: Tensor
    y: Tensor
    mask: Tensor
    task: Tensor | None
    split: Tensor
    encoder: Encoder
    fingerprint: str
    target: str | None
    task_column: str | None
    group: Tensor | None
    drawn: bool


def build(
    inputs: Inputs,
    targets: Mapping[str, pd.Series],
    plan: SplitPlan,
    *,
    name: str,
    task: pd.Series | None = None,
    task_column: str | None = None,
    kinds: str | Mapping[str, str] | None = None,
    metrics: str | Mapping[str, str] | None = None,
) -> Parts:
    """Read targets, split, fit tasks and encoder on the training rows, encode all rows.

    Rows without any label are left out. `task` makes the suite grouped; there is one target then.

    Raises:
        DataError: see `read_target`, `make_splits`, `check_splits` and the encoders.
    """
    if len(inputs) == 0:
        raise DataError("The table has no rows.")
    wanted = kinds_by_target(kinds, list(targets))
    columns = [read_target(column, n, wanted[n]) for n, column in targets.items()]
    number, names = (None, list(targets)) if task is None else _number_tasks(task, task_column)
    labelled = np.any([t.labelled for t in columns], axis=0)
    if not labelled.all():
        inputs, plan = inputs.take(labelled), plan.take(labelled)
        columns = [Target(t.name, t.kind, t.classes, t.values[labelled]) for t in columns]
        number = None if number is None else number[labelled]
    split = make_splits(plan, columns, number, len(names))
    check_splits(split, columns, number, names)
    train = split == TRAIN
    if number is None:
        tasks = make_aligned_tasks(columns, train, metrics)
        values = np.stack([t.values for t in columns], axis=1)
    else:
        tasks, values = make_grouped_tasks(columns[0], number, names, train, metrics)
    raw = inputs.digest()
    encoder, x = inputs.fit(train)
    return Parts(
        name=name,
        layout="aligned" if number is None else "grouped",
        input_kind=inputs.kind,
        tasks=tasks,
        x=x,
        y=_standardised(values, tasks, number),
        mask=torch.from_numpy(~np.isnan(values)),
        task=None if number is None else torch.from_numpy(number),
        split=torch.from_numpy(split),
        encoder=encoder,
        fingerprint=_fingerprint(raw, tasks, values, number, split),
        target=None if number is None else columns[0].name,
        task_column=task_column,
        group=None if plan.groups is None else _numbered(plan.groups),
        drawn=plan.draws_validation,
    )


def _numbered(groups: np.ndarray) -> Tensor:
    """int64 [rows]: the groups as numbers."""
    return torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))


def _number_tasks(task: pd.Series, column: str | None) -> tuple[np.ndarray, list[str]]:
    """int64 [rows] and the task names: numbers in their order, then text in its order."""
    text = as_text(task.to_numpy(dtype=object))
    if any(value is None for value in text):
        row = next(i for i, value in enumerate(text) if value is None)
        raise DataError(f"Task column `{column}` is empty in row {row}; every row needs a task.")
    names = sorted(set(text), key=_numeric_first)
    index = {value: number for number, value in enumerate(names)}
    return np.fromiter((index[value] for value in text), np.int64, len(text)), names


def _numeric_first(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _standardised(values: np.ndarray, tasks: Sequence[Task], number: np.ndarray | None) -> Tensor:
    mean = np.array([task.mean for task in tasks])
    std = np.array([task.std for task in tasks])
    if number is not None:
        mean, std = mean[number], std[number]
    y = np.nan_to_num((values - mean) / std, nan=0.0)
    return torch.from_numpy(y.astype(np.float32))


def _fingerprint(
    raw: bytes,
    tasks: Sequence[Task],
    values: np.ndarray,
    number: np.ndarray | None,
    split: np.ndarray,
) -> str:
    """Hex digest of raw data, tasks and splits.

    Standardised values are left out: they may differ in the last bit between machines.
    """
    facts: list[Any] = [[t.name, t.kind, t.metric, list(t.classes)] for t in tasks]
    digest = hashlib.sha256(raw)
    digest.update(json.dumps(facts).encode())
    digest.update(np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8").tobytes())
    if number is not None:
        digest.update(number.astype("<i8").tobytes())
    digest.update(split.tobytes())
    return digest.hexdigest()
