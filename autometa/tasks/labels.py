"""Target columns: which kind a task is, its classes, its metric, its labels as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import pandas as pd

from autometa.errors import DataError, nearest, not_one_of
from autometa.metrics import METRICS
from autometa.tasks.columns import scalar_type
from autometa.tasks.scales import TargetScale, TaskScale, center_and_spread, no_common_unit
from autometa.tasks.task import Kind, Label, Metric, Task

RARE_CLASS = 0.10
"""Below this share of the rarer class accuracy says little, so the default metric is AUC."""


@dataclass(frozen=True)
class Target:
    """One target column as numbers.

    Attributes:
        values: float64 [rows]: the number (regression) or the index into `classes`; NaN = missing.
    """

    name: str
    kind: Kind
    classes: tuple[Label, ...]
    values: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        """Bool [rows]."""
        return ~np.isnan(self.values)


class UselessTarget(DataError):
    """A target without values, or with one only.

    Attributes:
        reason: for a list of such targets.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Labels(NamedTuple):
    """A column of labels before it is known what they are for.

    Attributes:
        values: [rows] as they came.
        found: the type that those present share.
        numeric: float64 [rows] where they are numbers, NaN = missing.
        distinct: those that occur, in index order.
    """

    values: np.ndarray
    found: str
    numeric: np.ndarray | None
    distinct: list[Label]

    @property
    def codes(self) -> np.ndarray:
        """float64 [rows]: the index into `distinct`; NaN = missing."""
        index = {label: number for number, label in enumerate(self.distinct)}
        source: Any = self.values if self.numeric is None else self.numeric
        return np.array([np.nan if pd.isna(v) else index[v] for v in source], dtype=np.float64)


def read_labels(column: pd.Series, name: str) -> Labels:
    """Read a column of labels of any kind.

    Raises:
        DataError: all missing, mixed types, dates or infinite numbers.
    """
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise DataError(f"Target `{name}` holds dates; turn it into a number or a label first.")
    values = column.to_numpy(dtype=object)
    present = values[~pd.isna(values)]
    if len(present) == 0:
        raise UselessTarget(
            f"Target `{name}` has no value at all; leave it out or fill it in.", "has no value"
        )
    found = scalar_type(present)
    if found in ("date", "mixed"):
        types = sorted({type(v).__name__ for v in present})
        raise DataError(
            f"Target `{name}` should hold numbers only or labels of one type. "
            f"Found {', '.join(types)}."
        )
    numeric = _as_floats(column, name) if found == "number" else None
    distinct = _distinct(present if numeric is None else numeric[~np.isnan(numeric)], found)
    return Labels(values, found, numeric, distinct)


def read_target(column: pd.Series, name: str, kind: str | None = None) -> Target:
    """Read a target column; without `kind` it is guessed.

    Guess: two distinct values, text or booleans: `binary`; text or categories with more:
    `multiclass`; numbers: `regression` (whole numbers too, unless `kind` says otherwise).

    Raises:
        DataError: constant, free text, values that do not fit the kind asked for, or see
            `read_labels`.
    """
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    labels = read_labels(column, name)
    found, distinct = labels.found, labels.distinct
    if len(distinct) == 1:
        raise UselessTarget(
            f"Target `{name}` is constant (always `{distinct[0]}`): there is nothing to learn; "
            "leave it out.",
            f"is constant (always `{distinct[0]}`)",
        )
    kind = _checked_kind(kind, name, len(distinct), found) or _guess(
        len(distinct), found == "number" and not is_category
    )
    if kind == "regression" and labels.numeric is not None:
        return Target(name, "regression", (), labels.numeric)
    n_present = int((~pd.isna(labels.values)).sum())
    if found == "text" and len(distinct) > 50 and len(distinct) > 0.5 * n_present:
        raise DataError(
            f"Target `{name}` has {len(distinct)} different texts in {n_present} rows: it looks "
            "like free text or an identifier, not a class label."
        )
    return Target(name, cast(Kind, kind), tuple(distinct), labels.codes)


def choose_metrics(
    names: Sequence[str],
    kinds: Sequence[str],
    rarer_shares: Sequence[float],
    asked: str | Mapping[str, str] | None,
) -> list[Metric]:
    """The metric of each task.

    Default: regression `rmse`, multiclass `accuracy`, binary `auc` if the rarer class of the
    median binary task holds under 10% of its training rows (`rarer_shares`), else `accuracy`.

    Raises:
        DataError: an unknown metric or task, or a metric that does not fit the kind.
    """
    per_task = {str(n).strip(): m for n, m in asked.items()} if isinstance(asked, Mapping) else {}
    check_names(per_task, names, "metrics")
    binary = [share for kind, share in zip(kinds, rarer_shares, strict=True) if kind == "binary"]
    binary_metric = "auc" if binary and float(np.median(binary)) < RARE_CLASS else "accuracy"
    fits_any = any(asked in METRICS[kind] for kind in kinds)
    out: list[Metric] = []
    for name, kind in zip(names, kinds, strict=True):
        allowed = METRICS[kind]
        metric = per_task.get(name)
        if isinstance(asked, str):
            if asked not in get_args(Metric):
                raise DataError(not_one_of("metrics", asked, get_args(Metric)))
            metric = asked if asked in allowed or not fits_any else None
        if metric is not None and metric not in allowed:
            raise DataError(
                f"Metric of task `{name}` ({kind}) should be one of {', '.join(allowed)}. "
                f"Found `{metric}`."
            )
        default = binary_metric if kind == "binary" else allowed[0]
        out.append(cast(Metric, metric or default))
    return out


def make_aligned_tasks(
    targets: Sequence[Target],
    train: np.ndarray,
    metrics: str | Mapping[str, str] | None,
    scale: TargetScale = "standard",
) -> tuple[Task, ...]:
    """One task a target column; `train` is the bool mask of training rows.

    Raises:
        DataError: a regression target is constant on the training rows, or see `choose_metrics`.
    """
    rows = [t.values[train & t.labelled] for t in targets]
    shares = [_rarer_share(t.kind, v) for t, v in zip(targets, rows, strict=True)]
    names = [t.name for t in targets]
    chosen = choose_metrics(names, [t.kind for t in targets], shares, metrics)
    out = []
    for target, values, metric in zip(targets, rows, chosen, strict=True):
        mean, std = _scaling(target, values, scale)
        out.append(Task(target.name, target.kind, metric, target.classes, mean, std))
    return tuple(out)


def make_grouped_tasks(
    target: Target,
    task: np.ndarray,
    names: Sequence[str],
    train: np.ndarray,
    metrics: str | Mapping[str, str] | None,
    scale: TargetScale = "standard",
    task_scale: TaskScale = "auto",
) -> tuple[tuple[Task, ...], np.ndarray, str | None]:
    """One task a value of the task column.

    A regression target has one mean and standard deviation for all tasks where they share a unit: a
    task of ten rows has no mean and deviation worth trusting. Where they cannot (`auto`, see
    `no_common_unit`), or are not to (`own`), each has its own. A multiclass task has the classes
    that occur in its rows.

    Returns:
        the tasks, the target's values with class indices renumbered within each task, and what
        shows that the tasks have no unit in common, None if nothing does or it was not asked.
    """
    values = target.values.copy()
    classes: list[tuple[Label, ...]] = []
    shares = []
    for number in range(len(names)):
        mine = task == number
        if target.kind == "multiclass":
            seen, local = np.unique(values[mine], return_inverse=True)
            values[mine] = local
            classes.append(tuple(target.classes[int(c)] for c in seen))
        else:
            classes.append(target.classes)
        shares.append(_rarer_share(target.kind, values[mine & train]))
    by_target = metrics
    if isinstance(metrics, Mapping) and set(metrics) <= {target.name}:
        by_target = metrics.get(target.name)  # one metric, named by the target column
    chosen = choose_metrics(names, [target.kind] * len(names), shares, by_target)
    known = train & ~np.isnan(values)
    unit = None
    if target.kind == "regression" and task_scale == "auto":
        unit = no_common_unit(values[known], task[known], len(names))
    if unit is None and task_scale != "own":
        scales = [_scaling(target, values[known], scale)] * len(names)
    else:
        own = [values[known & (task == number)] for number in range(len(names))]
        telling = [some for some in own if len(np.unique(some)) > 1]
        if not telling:
            raise DataError(_constant(target))
        usual = float(np.median([_scaling(target, some, scale)[1] for some in telling]))
        scales = [
            _scaling(target, some, scale)
            if len(np.unique(some)) > 1
            else (float(some.mean()), usual)
            for some in own
        ]
    tasks = tuple(
        Task(name, target.kind, metric, labels, mean, std)
        for name, metric, labels, (mean, std) in zip(names, chosen, classes, scales, strict=True)
    )
    return tasks, values, unit


def kinds_by_target(
    kinds: str | Mapping[str, str] | None, names: Sequence[str]
) -> dict[str, str | None]:
    """`kinds=` as users write it to one entry a target (None: to be guessed).

    Raises:
        DataError: a name that is no target, or neither a kind nor a mapping of targets to kinds.
    """
    if isinstance(kinds, str) or kinds is None:
        return dict.fromkeys(names, kinds)
    if not isinstance(kinds, Mapping):
        raise DataError(
            "Parameter `kinds` should be one kind for all targets or a mapping from targets to "
            f"kinds. Found `kinds = {kinds!r}`."
        )
    given = {str(name).strip(): kind for name, kind in kinds.items()}
    check_names(given, names, "kinds")
    return {name: given.get(name) for name in names}


def check_names(given: Mapping[str, Any], names: Sequence[str], parameter: str) -> None:
    """Raise DataError if a key of `given` names no task."""
    for name in given:
        if name not in names:
            raise DataError(
                f"Parameter `{parameter}` names `{name}`, which is no task.{nearest(name, names)}"
            )


def _guess(distinct: int, plain_number: bool) -> Kind:
    if distinct == 2:
        return "binary"
    return "regression" if plain_number else "multiclass"


def _checked_kind(kind: str | None, name: str, distinct: int, found: str) -> str | None:
    if kind is None:
        return None
    if kind not in get_args(Kind):
        raise DataError(not_one_of(f"kinds[{name}]", kind, get_args(Kind)))
    if kind == "regression" and found != "number":
        raise DataError(f"Target `{name}` should hold numbers for regression. Found {found}.")
    if kind == "binary" and distinct != 2:
        raise DataError(
            f"Target `{name}` should have two values to be binary. Found {distinct}; "
            "use multiclass."
        )
    return kind


def _as_floats(column: pd.Series, name: str) -> np.ndarray:
    values = column.to_numpy(dtype=object)
    numeric = np.array([np.nan if pd.isna(v) else float(v) for v in values], dtype=np.float64)
    if np.isinf(numeric).any():
        row = int(np.flatnonzero(np.isinf(numeric))[0])
        raise DataError(
            f"Target `{name}` holds an infinite number (row {row}); replace it or leave it empty."
        )
    return numeric


def _distinct(present: np.ndarray, found: str) -> list[Label]:
    """Distinct labels in index order, as plain Python values; whole numbers as int."""
    if found == "number":
        numbers = np.unique(present)
        whole = bool((numbers == np.floor(numbers)).all())
        return [int(v) if whole else float(v) for v in numbers]
    if found == "bool":
        return sorted({bool(v) for v in present})
    return sorted({str(v) for v in present})


def _rarer_share(kind: str, values: np.ndarray) -> float:
    if kind != "binary" or len(values) == 0:
        return 1.0
    positive = float(values.mean())
    return min(positive, 1 - positive)


def _scaling(target: Target, values: np.ndarray, scale: TargetScale) -> tuple[float, float]:
    if target.kind != "regression":
        return 0.0, 1.0
    if len(values) == 0 or values.max() == values.min():
        raise DataError(_constant(target))
    mean, std = center_and_spread(values, scale)
    if not np.isfinite(std) or std == 0:
        raise DataError(f"Target `{target.name}` spans numbers too large to standardise.")
    return mean, std


def _constant(target: Target) -> str:
    return (
        f"Target `{target.name}` is constant on the training rows: there is nothing to learn; "
        "leave it out or choose another split (seed)."
    )
