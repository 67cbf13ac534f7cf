"""Folds of the rows that are not for test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autometa.tasks import TaskSuite
from autometa.tasks.folds import ENOUGH, fold_numbers

FOLDS = 5


def table(rows: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=list("abc"))
    frame["y"] = frame["a"] + rng.normal(size=rows)
    frame["z"] = np.where(rng.random(rows) < 0.2, "rare", "common")
    frame["task"] = rng.choice(["p", "q", "r"], rows)
    frame["plot"] = rng.integers(0, 17, rows)
    return frame


def aligned(**options: Any) -> TaskSuite:
    options = {"targets": ["y", "z"], "drop": ["task", "plot"], **options}
    return TaskSuite.from_frame(table(), **options)


def grouped(**options: Any) -> TaskSuite:
    options = {"target": "y", "task_column": "task", "drop": ["z", "plot"], **options}
    return TaskSuite.from_frame(table(), **options)


@pytest.mark.parametrize("make", [aligned, grouped])
def test_every_row_that_is_not_for_test_has_a_fold(make: Any, tmp_path: Path) -> None:
    suite = make()
    fold = fold_numbers(suite, FOLDS)
    assert fold is not None
    sizes = np.bincount(fold.numpy())
    assert len(sizes) == FOLDS
    assert sizes.sum() == suite.counts["train"] + suite.counts["val"]
    assert sizes.max() - sizes.min() <= 2 * suite.n_tasks
    again = TaskSuite.load(suite.without_test().save(tmp_path / "suite"))
    assert fold_numbers(again, FOLDS).tolist() == fold.tolist(), "a worker finds the same"


def test_folds_are_stratified() -> None:
    suite = aligned()
    fold = fold_numbers(suite, FOLDS).numpy()
    rare = suite.y[:, 1].numpy() == suite.tasks[1].classes.index("rare")
    counts = np.bincount(fold[rare], minlength=FOLDS)
    assert counts.max() - counts.min() <= 1
    by_task = grouped()
    fold = fold_numbers(by_task, FOLDS).numpy()
    for number in range(by_task.n_tasks):
        counts = np.bincount(fold[by_task.task.numpy() == number], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


def test_a_group_is_in_one_fold() -> None:
    suite = aligned(drop=["task"], group_column="plot")
    fold = fold_numbers(suite, FOLDS).numpy()
    for group in np.unique(suite.group.numpy()):
        assert len(set(fold[suite.group.numpy() == group])) == 1


def test_validation_rows_that_were_chosen_stay(tmp_path: Path) -> None:
    frame = table().drop(columns=["task", "plot"])
    frame["split"] = ["train", "train", "val", "test"] * 30
    own = TaskSuite.from_frame(frame, targets=["y", "z"], split_column="split")
    assert not own.drawn
    assert fold_numbers(own, FOLDS) is None
    frame["split"] = ["train", "train", "train", "test"] * 30
    drawn = TaskSuite.from_frame(frame, targets=["y", "z"], split_column="split")
    assert fold_numbers(drawn, FOLDS) is not None
    assert TaskSuite.load(drawn.save(tmp_path / "suite")).drawn


def test_many_validation_rows_are_enough() -> None:
    suite = TaskSuite.from_frame(table(5 * ENOUGH)[["a", "b", "y"]], targets=["y"])
    assert suite.counts["val"] == ENOUGH
    assert fold_numbers(suite, FOLDS) is None


def test_no_folds_where_leaving_one_out_leaves_nothing_to_learn() -> None:
    frame = table()[["a", "b", "y"]]
    frame["z"] = ["one"] * 117 + ["other"] * 3
    frame["split"] = ["train", "train", "train", "test"] * 29 + ["train", "train", "test", "test"]
    suite = TaskSuite.from_frame(frame, targets=["y", "z"], split_column="split")
    other = suite.y[suite.mask[:, 1], 1] == suite.tasks[1].classes.index("other")
    assert int(other.sum()) == 1
    assert fold_numbers(suite, FOLDS) is None
