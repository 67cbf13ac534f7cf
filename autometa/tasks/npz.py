"""Suites in `.npz` files: inputs, labels and roles as named arrays."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autometa.errors import DataError, nearest
from autometa.tasks.splits import FRACTIONS
from autometa.tasks.suite import TaskSuite

_INPUTS = ("x", "X", "images")
_LABELS = ("y", "Y")


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a `.npz` file; nothing is unpickled.

    Raises:
        DataError: no such file, not an npz, or it holds Python objects.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"File `{file}` does not exist.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as exc:
        reason = " ".join(str(exc).split())[:120].rstrip(".")
        raise DataError(
            f"File `{file}` is not a readable npz of plain arrays ({reason})."
        ) from None


def suite_from_npz(
    path: str | os.PathLike[str],
    *,
    targets: Sequence[Any] | None = None,
    target: Any = None,
    task_column: Any = None,
    name: str | None = None,
    kinds: str | Mapping[str, str] | None = None,
    metrics: str | Mapping[str, str] | None = None,
    split_column: Any = None,
    group_column: Any = None,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> TaskSuite:
    """A suite from named arrays.

    Inputs are the array `x` (or `X`, `images`). Labels are the arrays that `targets` or `target`
    name, else `y` (or `Y`), its columns named by an array `names` where there is one. The other
    parameters name arrays too. An array `<task_column>_names` turns the numbers of the task
    column into names.

    Raises:
        DataError: an array is missing; see `TaskSuite.from_arrays`.
    """
    arrays = read_npz(path)
    inputs = _first(arrays, _INPUTS)
    if inputs is None:
        raise DataError(
            f"File `{path}` should hold its inputs in an array `x` (or `images`). "
            f"Found {', '.join(arrays)}."
        )
    if targets is not None and target is not None:
        raise DataError("Give either `targets` (several arrays) or `target` (one), not both.")
    wanted = [target] if target is not None else ([] if targets is None else list(targets))
    names: list[str] | None
    if wanted:
        names = [str(n) for n in wanted]
        columns = [_array(arrays, n, "target") for n in names]
        if any(c.ndim != 1 or len(c) != len(inputs) for c in columns):
            raise DataError(f"Targets {names} should be arrays with one value an input.")
        labels = columns[0] if len(columns) == 1 else _stack(columns)
    else:
        found = _first(arrays, _LABELS)
        if found is None:
            raise DataError(
                f"Which arrays of `{path}` are to be predicted? Give `targets`, or `target` and "
                f"`task_column`. It has {', '.join(arrays)}."
            )
        labels = found
        names = [str(n) for n in arrays["names"]] if "names" in arrays else None
    return TaskSuite.from_arrays(
        inputs,
        labels,
        names=names,
        kinds=kinds,
        metrics=metrics,
        task=None if task_column is None else _tasks(arrays, str(task_column)),
        task_column="task" if task_column is None else str(task_column),
        splits=None if split_column is None else _array(arrays, str(split_column), "split"),
        groups=None if group_column is None else _array(arrays, str(group_column), "group"),
        name=name or Path(path).stem,
        seed=seed,
        fractions=fractions,
    )


def _array(arrays: Mapping[str, np.ndarray], name: str, role: str) -> np.ndarray:
    if name not in arrays:
        raise DataError(
            f"Array `{name}` ({role}) is not in the file.{nearest(name, arrays)} "
            f"It has {', '.join(arrays)}."
        )
    return arrays[name]


def _first(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _stack(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns side by side, each value keeping its own type."""
    out = np.empty((len(columns[0]), len(columns)), dtype=object)
    for i, column in enumerate(columns):
        out[:, i] = column.tolist()
    return out


def _tasks(arrays: Mapping[str, np.ndarray], column: str) -> np.ndarray:
    values = _array(arrays, column, "task_column")
    names = arrays.get(f"{column}_names")
    if names is None or values.dtype.kind not in "ui":
        return values
    if len(values) and int(values.max()) >= len(names):
        raise DataError(
            f"Array `{column}` holds {int(values.max())}, but `{column}_names` has "
            f"{len(names)} names."
        )
    return names[values]
