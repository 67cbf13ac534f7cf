"""What networks and scikit-learn models have in common once they are trained: tables to tables."""

from __future__ import annotations

import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from autometa.ensembles import mixture
from autometa.errors import DataError, DataWarning, UserError, nearest
from autometa.model import conformal
from autometa.model.outputs import class_probabilities, labels_of, task_logits
from autometa.tasks import Task
from autometa.tasks.encoder import Encoder
from autometa.tasks.reading import ReadOptions, Table, rows_of, split_names
from autometa.tasks.task import task_numbers

_BLOCK = 64
"""Rows are predicted in multiples of this many. Products of one to three rows are summed up in
another order than those of many, and a row's prediction is to be the same whatever rows are beside
it."""


class Reading(NamedTuple):
    """What a model says of rows.

    Attributes:
        out: outputs, [task, row, output] aligned, [row, output] grouped.
        reach: half the length of each interval in standardised units, [task, row] or [row]; None
            where none was asked for.
    """

    out: Float[np.ndarray, "*cells output"]
    reach: Float[np.ndarray, "*cells"] | None = None

    def first(self, rows: int) -> Reading:
        """What is said of the first rows."""
        reach = None if self.reach is None else self.reach[..., :rows]
        return Reading(self.out[..., :rows, :], reach)


class Predictor(ABC):
    """A trained model, whatever it is made of.

    Attributes:
        tasks: what it predicts, in order.
        encoder: how a table or images become its input; None where they are given as they are.
        target, task_column: names of the columns of a grouped suite.
        facts: where it comes from: suite, study, seed, scores.
        calibration: what its intervals are made of; None where nothing is known of its errors.
    """

    tasks: tuple[Task, ...]
    encoder: Encoder | None
    target: str | None
    task_column: str | None
    facts: dict[str, Any]
    calibration: conformal.Calibration | None

    @property
    @abstractmethod
    def layout(self) -> Literal["aligned", "grouped"]:
        """Whether every row has all tasks, or one of them."""

    @property
    @abstractmethod
    def feature_shape(self) -> tuple[int, ...]:
        """Of one row, encoded."""

    @abstractmethod
    def _check_ready(self, interval: float | None, proba: bool) -> None:
        """Raise UserError where it can predict nothing yet, or cannot have what is asked for."""

    @abstractmethod
    def _read(
        self, x: Tensor, task: Tensor | None, wanted: Sequence[int], level: float | None
    ) -> Reading:
        """Predict encoded rows.

        Args:
            x: [row, *feature].
            task: [row] where grouped, else None.
            wanted: the tasks that are looked at.
            level: of the intervals; None for none.
        """

    def predict(
        self,
        table: pd.DataFrame | Table | np.ndarray | Tensor | str | os.PathLike[str],
        tasks: str | Sequence[Any] | None = None,
        *,
        proba: bool = False,
        interval: float | None = None,
        **written: Any,
    ) -> pd.DataFrame:
        """Predictions in original units and labels.

        Args:
            table: rows as they were given to the search, or a file of them, read as the table of
                training was; extra columns are ignored. Images as an array [row, height, width]
                or [row, channel, height, width].
            tasks: aligned models: which targets to predict (all if not given). Grouped models:
                the task of each row, or one task for all; taken from the table's task column if
                not given.
            proba: class probabilities instead of labels, one column a class.
            interval: e.g. 0.9: the ends of the interval that holds the new value with this
                probability, in columns `…_lower` and `…_upper` beside those of numbers. Of models
                of many tasks these are split conformal, calibrated on validation rows; of adapted
                ones Gaussian, where the learner says how sure it is.
            written: `sep`, `decimal`, `encoding`, `missing`, `date_order`: how this table is
                written, as of `TaskSuite.from_frame`.

        Returns:
            One row an input row, with the table's index. Aligned: a column a target (with
            `proba`, `target=label` columns). Grouped: the task column and `prediction`.

        Raises:
            DataError: a column is missing, a task is unknown.
            UserError: the model was trained in episodes and not adapted, or knows no `interval`.

        Warns:
            DataWarning: values were never seen in training, or cells count as empty.
        """
        self._check_ready(interval, proba)
        options = ReadOptions.of(**written)
        rows, told = rows_of(table, options)
        aligned = self.layout == "aligned"
        chosen = self._chosen(tasks) if aligned else range(len(self.tasks))
        if interval is not None:
            check_interval(interval, proba, [self.tasks[number] for number in chosen])
        if self.encoder is None:
            x = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
        else:
            x, found = self.encoder.read(rows, options)
            told = (*told, *found)
        for remark in told:
            warnings.warn(remark, DataWarning, stacklevel=2)
        index = rows.index if isinstance(rows, pd.DataFrame) else pd.RangeIndex(len(x))
        n_rows, filled = len(x), _filled(x)
        if aligned:
            reading = self._read(filled, None, chosen, interval).first(n_rows)
            return self._aligned_frame(reading, index, chosen, proba)
        numbers = self._numbers(rows, tasks, n_rows)
        reading = self._read(
            filled, _filled(numbers), torch.unique(numbers).tolist(), interval
        ).first(n_rows)
        return self._grouped_frame(reading, index, numbers, proba)

    def outputs(self, x: Tensor, task: Tensor | None = None) -> Float[np.ndarray, "*cells output"]:
        """Raw outputs, as networks put them out: what metrics are computed from.

        Args:
            x: [row, *feature], encoded as the suite's rows are (`TaskSuite.rows`).
            task: [row], which task each row is of, where the model is grouped; else None.

        Returns:
            [task, row, output] aligned, [row, output] grouped, of an ensemble of its members
            together: of a regression the standardised value, of a binary task the log odds, of
            one with more classes their log probabilities up to a constant; a task with fewer
            outputs than the widest fills the first ones.

        Raises:
            UserError: the model was trained in episodes and not adapted.
            DataError: rows without their tasks or of other features, or tasks without need.
        """
        self._check_ready(None, False)
        if tuple(x.shape[1:]) != self.feature_shape:
            raise DataError(
                f"Parameter `x` should have rows of shape {self.feature_shape}. Found rows of "
                f"shape {tuple(x.shape[1:])}."
            )
        if (task is None) != (self.layout == "aligned"):
            raise DataError(
                "Parameter `task` should be left out where every row has all tasks."
                if task is not None
                else "Parameter `task` should say the task of each row. Found none."
            )
        wanted = range(len(self.tasks)) if task is None else torch.unique(task).tolist()
        return self._read(x, task, wanted, None).out

    def _chosen(self, tasks: str | Sequence[Any] | None) -> Sequence[int]:
        """Numbers of the targets that an aligned model is asked for."""
        names = [task.name for task in self.tasks]
        wanted = names if tasks is None else split_names(tasks, names)
        if not wanted:
            raise DataError(
                f"Parameter `tasks` should name at least one of {', '.join(map(str, names))}."
            )
        for name in wanted:
            if name not in names:
                raise DataError(f"The model has no target `{name}`.{nearest(name, names)}")
        return [names.index(name) for name in wanted]

    def _numbers(self, table: Any, tasks: Any, rows: int) -> Tensor:
        """The task of each row that a grouped model is asked for."""
        column = self.task_column or "task"
        if tasks is None:
            names = [str(name).strip() for name in getattr(table, "columns", ())]
            if column not in names:
                raise DataError(
                    f"The table has no column `{column}`, which says the task of each row. Add "
                    "it, or name the task."
                )
            tasks = table.iloc[:, names.index(column)]
        elif isinstance(tasks, str) or np.ndim(tasks) == 0:
            tasks = [tasks] * rows
        numbers = task_numbers(self.tasks, tasks)
        if len(numbers) != rows:
            raise DataError(f"There are {rows} rows and {len(numbers)} tasks given for them.")
        return numbers

    def _aligned_frame(
        self, reading: Reading, index: pd.Index, chosen: Sequence[int], proba: bool
    ) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for number in chosen:
            task, out = self.tasks[number], reading.out[number]
            if proba and task.kind != "regression":
                shares = class_probabilities(task, out)
                for label, share in zip(task.classes, shares.T, strict=True):
                    columns[f"{task.name}={label}"] = share
                continue
            columns[task.name] = labels_of(task, out)
            if reading.reach is not None and task.kind == "regression":
                ends = ends_of(task, out, reading.reach[number])
                columns[f"{task.name}_lower"], columns[f"{task.name}_upper"] = ends
        return pd.DataFrame(columns, index=index)

    def _grouped_frame(
        self, reading: Reading, index: pd.Index, numbers: Tensor, proba: bool
    ) -> pd.DataFrame:
        found = pd.Series([None] * len(numbers), dtype=object)
        shares = pd.DataFrame(index=range(len(numbers)))
        ends = np.full((2, len(numbers)), np.nan)
        for number in torch.unique(numbers).tolist():
            task, rows = self.tasks[number], (numbers == number).numpy()
            out = reading.out[rows]
            found[rows] = list(labels_of(task, out))
            if reading.reach is not None and task.kind == "regression":
                ends[:, rows] = ends_of(task, out, reading.reach[rows])
            if proba and task.kind != "regression":
                for label, share in zip(
                    task.classes, class_probabilities(task, out).T, strict=True
                ):
                    shares.loc[rows, f"{self.target or 'prediction'}={label}"] = share
        if proba and len(shares.columns):
            result = shares
        else:
            result = pd.DataFrame({"prediction": found.infer_objects()})
        if reading.reach is not None:
            result = result.assign(prediction_lower=ends[0], prediction_upper=ends[1])
        names = [self.tasks[number].name for number in numbers.tolist()]
        result.insert(0, self.task_column or "task", names)
        return result.set_axis(index, axis=0)


def _filled(rows: Tensor) -> Tensor:
    """Rows up to a multiple of `_BLOCK`, the first one again and again."""
    lacking = -len(rows) % _BLOCK if len(rows) else 0
    return torch.cat([rows, rows[:1].expand(lacking, *rows.shape[1:])]) if lacking else rows


def check_interval(interval: float, proba: bool, tasks: Sequence[Task]) -> None:
    """Raise UserError where prediction intervals of these tasks cannot be had."""
    if not 0 < interval < 1:
        raise UserError(
            "Parameter `interval` should be a probability between 0 and 1, such as 0.9. "
            f"Found `interval = {interval}`."
        )
    if proba:
        raise UserError("Give either `proba` (of classes) or `interval` (of numbers), not both.")
    if all(task.kind != "regression" for task in tasks):
        names = ", ".join(f"`{task.name}`" for task in tasks[:3])
        more = f" and {len(tasks) - 3} more tasks have" if len(tasks) > 3 else " have"
        raise UserError(
            f"Parameter `interval` is for numbers; {names}{more if len(tasks) > 1 else ' has'} "
            f"classes, use `proba`. Found `interval = {interval}`."
        )


def read_members(
    members: Float[np.ndarray, "member *cells output"],
    predictor: Predictor,
    task: Tensor | None,
    wanted: Sequence[int],
    level: float | None,
) -> Reading:
    """What the members of a model of many tasks say together, with conformal intervals.

    Args:
        members: outputs of each.
        task, wanted, level: as in `Predictor._read`.

    Raises:
        UserError: nothing, or too little for this level, is known of the model's errors.
    """
    logits = task_logits(predictor.tasks)
    cells = logits if task is None else logits[task]
    out = mixture(torch.from_numpy(members), cells).numpy()
    if level is None:
        return Reading(out)
    if predictor.calibration is None:
        raise UserError(
            "Parameter `interval` should be left out: nothing is known of the model's errors on "
            "rows that it has not learned from. Train it again with this version, with validation "
            f"rows. Found `interval = {level}`."
        )
    names = [one.name for one in predictor.tasks]
    numbers = None if task is None else task.numpy()
    return Reading(
        out, conformal.reach(predictor.calibration, members, names, wanted, level, numbers)
    )


def ends_of(
    task: Task, out: Float[np.ndarray, "row output"], reach: Float[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Ends of the intervals of a regression task, in its units."""
    middle = out[:, 0].astype(np.float64)
    return task.restore(middle - reach), task.restore(middle + reach)


def inference_seconds(predictor: Predictor, n_rows: int = 1000) -> float:
    """Seconds to predict this many rows, encoded already, on the CPU."""
    x = torch.randn(n_rows, *predictor.feature_shape, generator=torch.Generator().manual_seed(0))
    every = range(len(predictor.tasks))
    task = None if predictor.layout == "aligned" else torch.arange(n_rows) % len(every)
    some = slice(min(n_rows, 10))
    predictor._read(x[some], None if task is None else task[some], every, None)  # warm-up
    began = time.perf_counter()
    predictor._read(x, task, every, None)
    return time.perf_counter() - began
