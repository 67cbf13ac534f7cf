"""TaskSuite: several tasks over one kind of input, split into train, validation and test.

Two layouts: *aligned* (one table, several targets, missing labels masked) and *grouped* (one
target; a column says which task a row belongs to).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int8, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autometa.errors import DataError
from autometa.tasks.arrays import parts_from_arrays
from autometa.tasks.encoder import Encoder, encoder_from_json
from autometa.tasks.frame import parts_from_frame
from autometa.tasks.reading import ColumnType, ReadOptions, Table
from autometa.tasks.scales import TargetScale, TaskScale
from autometa.tasks.splits import FRACTIONS, SPLIT_NAMES, TEST, TRAIN, VAL
from autometa.tasks.task import Task, task_numbers
from autometa.tasks.usable import Unusable

_FORMAT = 1


class Rows(NamedTuple):
    """Rows of one split.

    Attributes:
        x: [rows, D] or [rows, C, H, W].
        y, mask: [rows, T] aligned, [rows] grouped.
        task: [rows] grouped, None aligned.
        index: position in the suite; train and val rows index `TaskSuite.x`, test rows are
            counted on from there.
        group: [rows], which group each row belongs to, where the split kept groups together.
    """

    x: Float[Tensor, "row *feature"]
    y: Float[Tensor, "row *target"]
    mask: Bool[Tensor, "row *target"]
    task: Int64[Tensor, " row"] | None
    index: Int64[Tensor, " row"]  # type: ignore[assignment]  # hides tuple.index, not used
    group: Int64[Tensor, " row"] | None = None

    def take(self, index: Tensor) -> Rows:
        """Some of the rows, by their numbers or a mask."""
        x, y, mask, task, own, group = self
        return Rows(
            x[index],
            y[index],
            mask[index],
            None if task is None else task[index],
            own[index],
            None if group is None else group[index],
        )


@dataclass(frozen=True, eq=False)
class TaskSuite:
    """Tasks and their rows. Build one with `from_frame`, `from_arrays` or `load_suite`.

    Test rows given to the constructor are sealed: the public tensors hold the training and
    validation rows only (in their order), and test rows come out of `open_test()` alone, which
    only the final comparison calls.

    Attributes:
        tasks: T tasks, in the order of y's columns (aligned) or of the numbers in `task`.
        x: inputs, standardised on the training rows: [N, D] or [N, C, H, W].
        y: regression targets standardised with the task's mean and std, class indices as float;
            0 where missing. [N, T] aligned, [N] grouped.
        mask: whether a label exists; same shape as y.
        task: the row's task, [N]; None if aligned.
        split: 0 train, 1 val (2 test, sealed), [N].
        encoder: how a new table or new images become x.
        fingerprint: hex digest of raw data, tasks and splits; kept by `without_test` and `merged`.
        target, task_column: names of the target and task columns of a grouped suite.
        group: number of the group of rows that the split kept together, [N]; None without groups.
        drawn: whether the validation rows were drawn from those that are not for test, so that
            others may take their place; not where the user chose them.
        notes: where cells were read as something else than their text, and what else was done to
            the table that its owner should know, one sentence each.
        columns: how columns that are no features are read; features are in `encoder`.
    """

    name: str
    layout: Literal["aligned", "grouped"]
    input_kind: Literal["table", "image"]
    tasks: tuple[Task, ...]
    x: Float[Tensor, "row *feature"]
    y: Float[Tensor, "row *target"]
    mask: Bool[Tensor, "row *target"]
    task: Int64[Tensor, " row"] | None
    split: Int8[Tensor, " row"]
    encoder: Encoder | None = None
    fingerprint: str = ""
    target: str | None = None
    task_column: str | None = None
    group: Int64[Tensor, " row"] | None = None
    drawn: bool = False
    notes: tuple[str, ...] = ()
    columns: Mapping[str, ColumnType] = field(default_factory=dict)
    _test: Rows | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _tensor_fingerprint(self))
        test = self.split == TEST
        if bool(test.any()):
            self._seal(test)

    @classmethod
    def from_frame(
        cls,
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
        sep: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        missing: str | Sequence[Any] | None = None,
        date_order: str | None = None,
    ) -> TaskSuite:
        """A suite from a table; every column without another role is a feature.

        Args:
            targets: target columns, one task each (aligned).
            target, task_column: one target, and the column whose values are the tasks (grouped).
                `target` alone is an aligned suite of one task.
            kinds: a kind for all tasks or one a target; guessed where not given.
            metrics: likewise a metric. One name for all applies to the tasks it fits.
            split_column: the user's own splits: `train`, `val` (`valid`, `validation`), `test`.
                Without `val`, validation rows are taken from the training rows.
            group_column: rows of one group never fall into two splits.
            time_column: dates or numbers; the latest rows are for test, those before them for
                validation. It is no feature.
            test: a separate table that holds the test rows.
            drop: columns to ignore.
            keep: columns that stay features though they only count or name the rows; others that
                do are left out, with a note.
            unusable: `drop`: tasks that cannot be learned or judged are left out, with a note,
                where two or more remain; `error`: they are an error.
            target_scale: how regression targets are standardised: `standard`, or `robust` by median
                and interquartile range, where values beyond 10 such deviations count as 10.
            task_scale: `own`: each task of a grouped suite has a mean and deviation of its own;
                `shared`: one for all; `auto`: own where tasks have no unit in common.
            seed, fractions: of the random split (train, val, test).
            sep, encoding: of a test table in a text file.
            decimal: `.` or `,` in numbers that are written as text; found out if not given.
            missing: texts (or numbers) that are empty cells.
            date_order: `dmy` or `mdy`, of dates such as 01/02/2024.

        Raises:
            DataError: one sentence that names the column, task or value, and what to do.
        """
        parts = parts_from_frame(
            df, targets=targets, target=target, task_column=task_column, name=name, kinds=kinds,
            metrics=metrics, split_column=split_column, group_column=group_column,
            time_column=time_column, test=test, drop=drop, keep=keep, unusable=unusable,
            target_scale=target_scale, task_scale=task_scale, seed=seed, fractions=fractions,
            options=ReadOptions.of(sep, decimal, encoding, missing, date_order),
        )  # fmt: skip
        return cls(**parts._asdict())

    @classmethod
    def from_arrays(
        cls,
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
    ) -> TaskSuite:
        """A suite from arrays.

        Args:
            X: [rows, features], or images [rows, H, W] or [rows, C, H, W].
            Y: [rows, targets] or [rows]; NaN (or None) is a missing label.
            names: of the targets.
            task: the task of each row: makes the suite grouped, Y has one column then.
            splits: `train` / `val` / `test` or 0 / 1 / 2 for each row.
            groups: rows of one group never fall into two splits.
            task_scale: as in `from_frame`.

        Raises:
            DataError: see `from_frame`.
        """
        parts = parts_from_arrays(
            X, Y, names=names, kinds=kinds, metrics=metrics, task=task, task_column=task_column,
            splits=splits, groups=groups, name=name, task_scale=task_scale,
            seed=seed, fractions=fractions,
        )  # fmt: skip
        return cls(**parts._asdict())

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.tasks)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each task."""
        return tuple(task.kind for task in self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The name of each task."""
        return tuple(task.name for task in self.tasks)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """(D,) or (C, H, W)."""
        return tuple(self.x.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether inputs are images."""
        return self.input_kind == "image"

    @property
    def is_grouped(self) -> bool:
        """Whether a row belongs to one task only."""
        return self.layout == "grouped"

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each split; `test` is 0 where the test rows were dropped."""
        return {
            "train": int((self.split == TRAIN).sum()),
            "val": int((self.split == VAL).sum()),
            "test": 0 if self._test is None else len(self._test.x),
        }

    def rows(self, split: str) -> Rows:
        """Rows of `train` or `val`.

        Raises:
            DataError: any other split; test rows come from `open_test`.
        """
        if split not in ("train", "val"):
            hint = " Test rows are for the final comparison only." if split == "test" else ""
            raise DataError(
                f"Parameter `split` should be `train` or `val`. Found `split = {split!r}`.{hint}"
            )
        index = torch.nonzero(self.split == SPLIT_NAMES.index(split)).squeeze(1)
        return _take(self, index)

    def open_test(self) -> Rows:
        """The test rows. Only the final comparison calls this.

        Raises:
            DataError: the suite was stripped of them (`without_test`, `merged`).
        """
        if self._test is None:
            raise DataError(
                f"Suite `{self.name}` has no test rows here: they were left out for training."
            )
        return self._test

    def without_test(self) -> TaskSuite:
        """The same suite, its test rows dropped; what searches and workers get."""
        return replace(self, _test=None)

    def merged(self) -> TaskSuite:
        """Training and validation rows all as training rows, for the final refit; no test rows.

        Standardisation stays as fitted on the original training rows.
        """
        return replace(self, split=torch.zeros_like(self.split), _test=None)

    def task_numbers(self, values: Any) -> Tensor:
        """Values of a task column to task indices, int64 [rows]; DataError on unknown ones."""
        return task_numbers(self.tasks, values)

    def describe(self) -> dict[str, Any]:
        """The facts of the suite as plain JSON."""
        return {
            "name": self.name,
            "layout": self.layout,
            "input": self.input_kind,
            "features": list(self.feature_shape),
            "rows": self.counts,
            "target": self.target,
            "task_column": self.task_column,
            "tasks": [task.to_json() for task in self.tasks],
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }

    def summary(self) -> str:
        """One line for people, and one for each note."""
        kinds = {kind: self.kinds.count(kind) for kind in dict.fromkeys(self.kinds)}
        metrics = dict.fromkeys(task.metric for task in self.tasks)
        shape = "×".join(map(str, self.feature_shape))
        rows = self.counts
        line = (
            f"{self.name}: {', '.join(f'{n} {kind}' for kind, n in kinds.items())} "
            f"task{'s' if self.n_tasks > 1 else ''} ({self.layout}, {', '.join(metrics)}), "
            f"{shape} {'pixels' if self.is_image else 'features'}, "
            f"{rows['train']} train / {rows['val']} val / {rows['test']} test rows"
        )
        return "\n".join([line, *(f"  {note}" for note in self.notes)])

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write safetensors and JSON into `folder` (made if need be); `load` is the inverse."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        _save_tensors(path / "rows.safetensors", _all_tensors(self))
        (path / "test.safetensors").unlink(missing_ok=True)
        if self._test is not None:
            _save_tensors(path / "test.safetensors", self._test._asdict())
        facts = {
            "format": _FORMAT,
            **{k: v for k, v in self.describe().items() if k not in ("rows", "features")},
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "columns": {name: kind.to_json() for name, kind in self.columns.items()},
            "drawn": self.drawn,
            "has_test": self._test is not None,
        }
        (path / "suite.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TaskSuite:
        """Read what `save` wrote.

        Raises:
            DataError: the folder holds no suite, or one that cannot be read.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / "suite.json").read_text(encoding="utf-8"))
            if facts.get("format") != _FORMAT:
                raise DataError(
                    f"Suite `{path}` should have format {_FORMAT}. Found {facts.get('format')}."
                )
            tensors = load_file(path / "rows.safetensors")
            test = load_file(path / "test.safetensors") if facts["has_test"] else None
            return cls(
                name=facts["name"],
                layout=facts["layout"],
                input_kind=facts["input"],
                tasks=tuple(Task.from_json(task) for task in facts["tasks"]),
                x=tensors["x"],
                y=tensors["y"],
                mask=tensors["mask"],
                task=tensors.get("task"),
                split=tensors["split"],
                encoder=None if facts["encoder"] is None else encoder_from_json(facts["encoder"]),
                fingerprint=facts["fingerprint"],
                target=facts["target"],
                task_column=facts["task_column"],
                group=tensors.get("group"),
                drawn=facts.get("drawn", False),
                notes=tuple(facts.get("notes", ())),
                columns=stored_columns(facts),
                _test=None if test is None else _rows(test),
            )
        except (OSError, json.JSONDecodeError, KeyError, TypeError, SafetensorError) as exc:
            raise DataError(f"Folder `{path}` holds no readable suite ({exc}).") from None

    def _seal(self, test: Tensor) -> None:
        """Move the test rows out of the public tensors."""
        open_rows, test_rows = torch.nonzero(~test).squeeze(1), torch.nonzero(test).squeeze(1)
        sealed = _take(self, test_rows)._replace(
            index=torch.arange(len(test_rows)) + len(open_rows)
        )
        for key, tensor in _all_tensors(self).items():
            object.__setattr__(self, key, None if tensor is None else tensor[open_rows])
        object.__setattr__(self, "_test", sealed)


def stored_columns(facts: Mapping[str, Any]) -> dict[str, ColumnType]:
    """Types of a saved suite's columns; none of one that an earlier version wrote."""
    return {name: ColumnType.from_json(kind) for name, kind in facts.get("columns", {}).items()}


def _take(suite: TaskSuite, index: Tensor) -> Rows:
    task = None if suite.task is None else suite.task[index]
    group = None if suite.group is None else suite.group[index]
    return Rows(suite.x[index], suite.y[index], suite.mask[index], task, index, group)


def _rows(tensors: Mapping[str, Tensor]) -> Rows:
    x, y, mask, index = (tensors[key] for key in ("x", "y", "mask", "index"))
    return Rows(x, y, mask, tensors.get("task"), index, tensors.get("group"))


def _all_tensors(suite: TaskSuite) -> dict[str, Tensor | None]:
    return {key: getattr(suite, key) for key in ("x", "y", "mask", "task", "split", "group")}


def _save_tensors(path: Path, tensors: Mapping[str, Tensor | None]) -> None:
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, path)


def _tensor_fingerprint(suite: TaskSuite) -> str:
    """For suites built by hand from tensors: a digest of tensors and tasks."""
    digest = hashlib.sha256(json.dumps([task.to_json() for task in suite.tasks]).encode())
    for tensor in _all_tensors(suite).values():
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
