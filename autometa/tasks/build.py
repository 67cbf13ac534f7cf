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
from autometa.tasks.encoder import Encoder, Inputs
from autometa.tasks.labels import (
    Target,
    UselessTarget,
    kinds_by_target,
    make_aligned_tasks,
    make_grouped_tasks,
    read_target,
)
from autometa.tasks.reading import ColumnType, as_text
from autometa.tasks.scales import (
    CLIPPED_AT,
    TargetScale,
    TaskScale,
    check_scales,
    extremes,
    in_rows,
)
from autometa.tasks.splits import TRAIN, SplitPlan, make_splits
from autometa.tasks.task import Task
from autometa.tasks.usable import Unusable, check_unusable, leave_out, unusable_tasks

#: deviations up to which a square is a number of 32 bits
_REACH = 1e18
#: how a user asks for values far out to count as less far
_ROBUST = "(target_scale='robust', --target-scale robust)"


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
    notes: tuple[str, ...]
    columns: Mapping[str, ColumnType] = {}  # never written to


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
    unusable: Unusable = "drop",
    target_scale: TargetScale = "standard",
    task_scale: TaskScale = "auto",
    notes: Sequence[str] = (),
) -> Parts:
    """Read targets, split, fit tasks and encoder on the training rows, encode all rows.

    Rows without any label are left out. `task` makes the suite grouped; there is one target then.

    Args:
        unusable: whether tasks that cannot be learned or judged are left out, with a note, where
            two or more remain.
        notes: what there is to say of the table already.

    Raises:
        DataError: see `read_target`, `make_splits`, `leave_out` and the encoders.
    """
    if len(inputs) == 0:
        raise DataError("The table has no rows.")
    check_unusable(unusable)
    check_scales(target_scale, task_scale)
    wanted = kinds_by_target(kinds, list(targets))
    columns, useless = _read_targets(targets, wanted)
    said = list(notes)
    number: np.ndarray | None = None
    names = [t.name for t in columns]
    if task is not None:
        number, names = _number_tasks(task, task_column)
    every = tuple(targets) if task is None else tuple(names)
    out = dict(useless)
    while columns:
        labelled = np.any([t.labelled for t in columns], axis=0)
        if not labelled.all():
            empty = int((~labelled).sum())
            said.append(f"{empty} row{'s'[: empty - 1]} without any label left out.")
            inputs, plan, columns, number = _take(inputs, plan, columns, number, labelled)
        split = make_splits(plan, columns, number, len(names))
        found = unusable_tasks(split, columns, number, names)
        out |= found
        kept = [place for place, one in enumerate(names) if one not in found]
        if not found or unusable == "error" or len(kept) < 2:
            break
        if number is None:
            columns = [columns[place] for place in kept]
        else:
            rows = np.isin(number, kept)
            inputs, plan, columns, _ = _take(inputs, plan, columns, None, rows)
            number = np.searchsorted(kept, number[rows])
        names = [names[place] for place in kept]
    if out:  # all in one message, whatever the reason
        hint = _of_groups(plan) if len(out) > len(useless) else ""
        said.append(leave_out(out, len(every), unusable, hint))
    if isinstance(metrics, Mapping):  # of tasks that are left out no metric is needed
        metrics = {n: metric for n, metric in metrics.items() if n not in out}
    train = split == TRAIN
    if number is None:
        tasks = make_aligned_tasks(columns, train, metrics, target_scale)
        values = np.stack([t.values for t in columns], axis=1)
    else:
        tasks, values, unit = make_grouped_tasks(
            columns[0], number, names, train, metrics, target_scale, task_scale
        )
        if unit is not None:
            said.append(
                f"Tasks have no unit in common ({unit}), so each is standardised by itself "
                "(task_scale='shared', --task-scale shared, has one mean and deviation for all)."
            )
    advice = f"it counts as {CLIPPED_AT:g} deviations"
    if target_scale == "standard":
        advice = f"correct it, or let it count as {CLIPPED_AT:g} deviations {_ROBUST}"
    numbers = {t.name: t.values for t in columns if t.kind == "regression"}
    said += extremes("Target", numbers, advice)
    said += inputs.extremes()
    raw = inputs.digest()
    encoder, x = inputs.fit(train)
    return Parts(
        name=name,
        layout="aligned" if number is None else "grouped",
        input_kind=inputs.kind,
        tasks=tasks,
        x=x,
        y=_standardised(values, tasks, number, target_scale),
        mask=torch.from_numpy(~np.isnan(values)),
        task=None if number is None else torch.from_numpy(number),
        split=torch.from_numpy(split),
        encoder=encoder,
        fingerprint=_fingerprint(raw, tasks, values, number, split),
        target=None if number is None else columns[0].name,
        task_column=task_column,
        group=None if plan.groups is None else _numbered(plan.groups),
        drawn=plan.draws_validation,
        notes=tuple(said),
    )


def _read_targets(
    targets: Mapping[str, pd.Series], kinds: Mapping[str, str | None]
) -> tuple[list[Target], dict[str, str]]:
    """Those that can be read, and name → why not, for those that are empty or constant."""
    columns, useless = [], {}
    for name, column in targets.items():
        try:
            columns.append(read_target(column, name, kinds[name]))
        except UselessTarget as exc:
            if len(targets) < 3:  # the sentence on the one says it better
                raise
            useless[name] = exc.reason
    return columns, useless


def _take(
    inputs: Inputs,
    plan: SplitPlan,
    columns: Sequence[Target],
    number: np.ndarray | None,
    rows: np.ndarray,
) -> tuple[Inputs, SplitPlan, list[Target], np.ndarray | None]:
    """Only these rows (a bool mask) of everything."""
    return (
        inputs.take(rows),
        plan.take(rows),
        [Target(t.name, t.kind, t.classes, t.values[rows]) for t in columns],
        None if number is None else number[rows],
    )


def _of_groups(plan: SplitPlan) -> str:
    """What a message adds where whole groups are split."""
    if plan.groups is None:
        return ""
    names = sorted({str(one) for one in plan.groups})
    shown = ", ".join(f"`{one}`" for one in names[:5])
    return f" (rows of a group stay together: {shown}{' …' if len(names) > 5 else ''})"


def _numbered(groups: np.ndarray) -> Tensor:
    """int64 [rows]: the groups as numbers."""
    return torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))


def _number_tasks(task: pd.Series, column: str | None) -> tuple[np.ndarray, list[str]]:
    """int64 [rows] and the task names: numbers in their order, then text in its order."""
    text = as_text(task.to_numpy(dtype=object))
    if any(value is None for value in text):
        row = next(i for i, value in enumerate(text) if value is None)
        raise DataError(f"Task column `{column}` is empty in row {row}; every row needs a task.")
    names = sorted(set(text), key=numeric_first)
    index = {value: number for number, value in enumerate(names)}
    return np.fromiter((index[value] for value in text), np.int64, len(text)), names


def numeric_first(text: str) -> tuple[int, float, str]:
    """What names of tasks are ordered by: numbers in their order, then text in its order."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _standardised(
    values: np.ndarray, tasks: Sequence[Task], number: np.ndarray | None, scale: TargetScale
) -> Tensor:
    mean = np.array([task.mean for task in tasks])
    std = np.array([task.std for task in tasks])
    if number is not None:
        mean, std = mean[number], std[number]
    with np.errstate(over="ignore"):
        y = np.nan_to_num((values - mean) / std, nan=0.0)
    if scale == "robust":
        numbers = np.array([task.kind == "regression" for task in tasks])
        numbers = numbers if number is None else numbers[number]
        y = np.where(numbers, np.clip(y, -CLIPPED_AT, CLIPPED_AT), y)
    _check_reach(y, values, tasks, number)
    return torch.from_numpy(y.astype(np.float32))


def _check_reach(
    y: np.ndarray, values: np.ndarray, tasks: Sequence[Task], number: np.ndarray | None
) -> None:
    """Raise DataError on the first target whose error no network can be judged by."""
    far = np.argwhere(np.abs(y) > _REACH)
    if len(far) == 0:
        return
    row = int(far[0][0])
    task = tasks[int(far[0][1]) if number is None else int(number[row])]
    raise DataError(
        f"Target `{task.name}` holds {values[tuple(far[0])]:g} in {in_rows(np.unique(far[:, 0]))}, "
        f"more than {_REACH:g} deviations from what is usual in training; correct it, leave the "
        f"cell empty, or let it count as {CLIPPED_AT:g} deviations {_ROBUST}."
    )


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
