"""Tables as users have them: check the columns' roles, then `build`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from autometa.errors import DataError, nearest
from autometa.tasks.build import Parts, build
from autometa.tasks.columns import read_column
from autometa.tasks.encoder import TableInputs
from autometa.tasks.identifiers import identifiers
from autometa.tasks.reading import (
    ColumnType,
    ReadOptions,
    Remark,
    Role,
    Table,
    as_text,
    conform,
    decide,
    joined,
    read_table,
    split_names,
)
from autometa.tasks.scales import TargetScale, TaskScale
from autometa.tasks.splits import FRACTIONS, SplitPlan
from autometa.tasks.usable import Unusable


def parts_from_frame(
    df: pd.DataFrame | Table,
    *,
    targets: Sequence[Any] | None = None,
    target: Any = None,
    task_column: Any = None,
    name: str = "table",
    kinds: str | Mapping[str, str] | None = None,
    metrics: str | Mapping[str, str] | None = None,
    split_column: Any = None,
    group_column: Any = None,
    time_column: Any = None,
    test: pd.DataFrame | str | os.PathLike[str] | None = None,
    drop: Sequence[Any] = (),
    keep: Sequence[Any] = (),
    unusable: Unusable = "drop",
    target_scale: TargetScale = "standard",
    task_scale: TaskScale = "auto",
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    options: ReadOptions | None = None,
) -> Parts:
    """See `TaskSuite.from_frame`."""
    options = options or ReadOptions()
    table = df if isinstance(df, Table) else Table(df)
    frame = _named(table.frame, "table")
    wanted = _target_names(targets, target, task_column, frame.columns)
    dropped = split_names(drop, frame.columns)
    kept = split_names(keep, frame.columns)
    roles = {
        **{f"targets[{i}]": column for i, column in enumerate(wanted)},
        **{f"drop[{i}]": column for i, column in enumerate(dropped)},
    }
    single = {
        "task_column": None if task_column is None else _name(task_column),
        "split_column": None if split_column is None else _name(split_column),
        "group_column": None if group_column is None else _name(group_column),
        "time_column": None if time_column is None else _name(time_column),
    }
    roles |= {role: column for role, column in single.items() if column is not None}
    _check_roles(roles, frame)
    _check_kept(kept, roles, frame)
    if len(frame) == 0:
        raise DataError("The table has no rows.")
    meant: dict[str, Role] = dict.fromkeys(wanted, "target")
    meant |= {
        column: "feature" if role == "time_column" else "name"
        for role, column in single.items()
        if column is not None
    }
    whole = frame
    frame = frame.drop(columns=list(dict.fromkeys(dropped)))
    types, remarks = decide(frame, meant, options, typed=table.typed, separator=table.separator)
    frame = pd.DataFrame({n: conform(frame[n], n, types[n]).column for n in frame.columns})
    is_test = None
    if test is not None:
        other = test if isinstance(test, pd.DataFrame) else read_table(test, options)
        other = other if isinstance(other, Table) else Table(other)
        rest = _named(other.frame, "test table")
        _check_test(rest, whole, roles, dropped)
        rest, found = _like(rest, frame, types, single["split_column"], options)
        remarks = (*remarks, *other.remarks, *found)
        frame, is_test = _append(frame, rest)
    if single["task_column"] is not None and is_test is not None:
        _same_tasks(frame[single["task_column"]], is_test, single["task_column"])
    # one column may say both the task and the group; neither it nor the split is a feature
    features = frame.drop(columns=list(meant))
    counting = identifiers(features, kept)
    notes = [
        f"Column `{column}` is left out: it {why} and would tell their order{_kept(column, why)}."
        for column, why in counting.items()
    ]
    inputs = TableInputs.read(features.drop(columns=list(counting)), types)
    plan = SplitPlan(
        seed=seed,
        fractions=tuple(fractions),
        own=_own_splits(frame, single["split_column"], is_test),
        groups=_groups(frame, single["group_column"]),
        is_test=is_test,
        time=_times(frame, single["time_column"]),
    )
    if plan.time is not None and (plan.own is not None or plan.groups is not None):
        rival = "split_column" if plan.own is not None else "group_column"
        raise DataError(
            f"Parameter `time_column` should be left out with `{rival}`: both say which rows are "
            f"for test. Found `time_column = {single['time_column']}`."
        )
    if plan.time is None and plan.own is None and plan.groups is None:
        notes += _dated(inputs)
    parts = build(
        inputs,
        {column: frame[column] for column in wanted},
        plan,
        name=name,
        task=None if single["task_column"] is None else frame[single["task_column"]],
        task_column=single["task_column"],
        kinds=kinds,
        metrics=metrics,
        unusable=unusable,
        target_scale=target_scale,
        task_scale=task_scale,
        notes=[*table.remarks, *remarks, *notes],
    )
    return parts._replace(columns={column: types[column] for column in meant})


def _named(df: pd.DataFrame, what: str) -> pd.DataFrame:
    """The table with text column names, no name twice."""
    if not isinstance(df, pd.DataFrame):
        raise DataError(f"The {what} should be a pandas DataFrame. Found `{type(df).__name__}`.")
    if isinstance(df.columns, pd.MultiIndex):
        raise DataError(f"The {what} should have one row of column names. Found a MultiIndex.")
    names = [_name(c) for c in df.columns]
    no_duplicates(names, f"the {what}")
    return df.set_axis(names, axis=1).reset_index(drop=True)


def _name(column: Any) -> str:
    """A column's name; blanks at its ends cannot be seen."""
    return str(column).strip()


def no_duplicates(names: Sequence[str], where: str) -> None:
    twice = (
        [n for n in dict.fromkeys(names) if list(names).count(n) > 1]
        if (len(set(names)) < len(names))
        else []
    )
    if twice:
        raise DataError(f"Column `{twice[0]}` appears twice in {where}; rename or remove one.")


def _target_names(targets: Any, target: Any, task_column: Any, known: Iterable[str]) -> list[str]:
    if targets is not None and target is not None:
        raise DataError("Give either `targets` (several columns) or `target` (one), not both.")
    given = target if targets is None else targets
    if given is None:
        raise DataError(
            "Which columns are to be predicted? Give `targets` (one task a column), or `target` "
            "and `task_column` (one task a value of that column)."
        )
    columns = split_names(given, known)
    if not columns:
        raise DataError("Parameter `targets` should name at least one column. Found none.")
    no_duplicates(columns, "`targets`")
    if task_column is not None and len(columns) != 1:
        raise DataError(
            "With a task column there should be one target. "
            f"Found {len(columns)}: {', '.join(columns[:5])}."
        )
    return columns


def _check_roles(roles: dict[str, str], frame: pd.DataFrame) -> None:
    for role, column in roles.items():
        if column not in frame.columns:
            shown = role.split("[")[0]
            raise DataError(
                f"Column `{column}` ({shown}) is not in the table."
                f"{nearest(column, frame.columns)} It has {', '.join(frame.columns[:10])}"
                f"{' …' if frame.shape[1] > 10 else ''}."
            )
    used: dict[str, str] = {}
    for role, column in roles.items():
        kind = role.split("[")[0]
        before = used.setdefault(column, kind)
        if before != kind and {before, kind} != {"task_column", "group_column"}:
            raise DataError(f"Column `{column}` is given as `{before}` and as `{kind}`; keep one.")


def _check_test(
    test: pd.DataFrame, frame: pd.DataFrame, roles: dict[str, str], dropped: Sequence[str]
) -> None:
    if len(test) == 0:
        raise DataError("The test table has no rows.")
    ignored = {*dropped, roles.get("split_column")}
    missing = [c for c in frame.columns if c not in test.columns and c not in ignored]
    if missing:
        raise DataError(
            f"The test table lacks column `{missing[0]}`.{nearest(missing[0], test.columns)} "
            f"It needs the same columns as the table ({len(missing)} missing)."
        )


def _like(
    test: pd.DataFrame,
    frame: pd.DataFrame,
    types: Mapping[str, ColumnType],
    split_column: str | None,
    options: ReadOptions,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The test table read as the table was, and what is to be said of it."""
    columns: dict[str, pd.Series] = {}
    remarks: list[Remark] = []
    for name in frame.columns:
        if name == split_column or name not in test:
            columns[name] = pd.Series([None] * len(test), dtype=object)
            continue
        kind = types[name]
        if kind.kind == "category":
            known = {v for v in as_text(frame[name].to_numpy(dtype=object)) if v is not None}
            kind = replace(kind, levels=tuple(sorted(known)))
        found = conform(test[name], name, kind)
        columns[name] = found.column
        remarks += [
            remark._replace(text=f"in the test table {remark.text}") for remark in found.remarks
        ]
    return pd.DataFrame(columns), joined(remarks)


def _append(frame: pd.DataFrame, test: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Both tables as one, and which rows are the test table's."""
    both: dict[str, pd.Series] = {}
    for name in frame.columns:
        parts = [frame[name], test[name]]
        if any(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
            parts = [part.astype(object) for part in parts]
            both[name] = pd.concat(parts, ignore_index=True).astype("category")
        elif {part.dtype for part in parts} == {frame[name].dtype}:
            both[name] = pd.concat(parts, ignore_index=True)
        else:
            both[name] = pd.concat([p.astype(object) for p in parts], ignore_index=True)
            if frame[name].dtype.kind in "iuf" and test[name].dtype.kind in "iufb":
                both[name] = both[name].astype(np.float64)
    return pd.DataFrame(both), np.arange(len(frame) + len(test)) >= len(frame)


def _same_tasks(column: pd.Series, is_test: np.ndarray, name: str) -> None:
    text = as_text(column.to_numpy(dtype=object))
    known = set(text[~is_test])
    unknown = [value for value in text[is_test] if value not in known]
    if unknown:
        raise DataError(
            f"The test table has task `{unknown[0]}` (column `{name}`), which the table does not "
            f"have.{nearest(unknown[0], known)}"
        )


def _kept(column: str, why: str) -> str:
    """How a column of numbers is kept; texts that name the rows are of no use to a network."""
    if why.startswith("names"):
        return ""
    return f" (keep={column!r}, --keep {shlex.quote(column)} keeps it)"


def _check_kept(kept: Sequence[str], roles: Mapping[str, str], frame: pd.DataFrame) -> None:
    for column in kept:
        if column not in frame.columns:
            raise DataError(
                f"Column `{column}` (keep) is not in the table.{nearest(column, frame.columns)}"
            )
        role = next((role for role, name in roles.items() if name == column), None)
        if role is not None:
            raise DataError(
                f"Column `{column}` is given as `keep` and as `{role.split('[')[0]}`; keep one."
            )


def _times(frame: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """When each row was: dates in seconds, or numbers (a year) as they are."""
    if column is None:
        return None
    kind, values = read_column(frame[column], column)
    if kind == "category":
        raise DataError(f"Time column `{column}` should hold dates or numbers. Found text.")
    if np.isnan(values).any():
        row = int(np.flatnonzero(np.isnan(values))[0])
        raise DataError(f"Time column `{column}` is empty in row {row}; every row needs a time.")
    return values


def _dated(inputs: TableInputs) -> list[str]:
    """A note where rows have dates and are split at random all the same."""
    dates = [name for name, (kind, _) in inputs.columns.items() if kind == "datetime"]
    if not dates:
        return []
    return [
        f"Column `{dates[0]}` holds dates, and rows are split at random: scores then are those of "
        "days between known ones. To be judged on later rows, split by time "
        f"(time_column={dates[0]!r}, --time-column {dates[0]})."
    ]


def _own_splits(
    frame: pd.DataFrame, column: str | None, is_test: np.ndarray | None
) -> np.ndarray | None:
    if column is None:
        return None
    values = frame[column].to_numpy(dtype=object)
    if is_test is not None and any(
        str(v).strip().lower() in ("test", "testing", "2") for v in values[~is_test]
    ):
        raise DataError(
            f"Split column `{column}` marks test rows and a test table is given; keep one of them."
        )
    return values


def _groups(frame: pd.DataFrame, column: str | None) -> np.ndarray | None:
    if column is None:
        return None
    text = as_text(frame[column].to_numpy(dtype=object))
    if any(value is None for value in text):
        raise DataError(f"Group column `{column}` has empty cells; every row needs a group.")
    return text
