"""Every form of cells in every place where a column may stand: the meaning is right, and said."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import DataError
from autometa.tasks import TaskSuite, load_suite
from autometa.tasks.reading import read_table
from tests.tables.forms import FORMS, ROWS, Form

EACH = pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])


def beside(rows: int = ROWS) -> pd.DataFrame:
    """Columns that are plain: a feature and a target."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({"f": rng.normal(size=rows), "y": rng.normal(size=rows)})


def write(path: Path, form: Form, rows: slice | np.ndarray = slice(None)) -> Path:
    """The table as a file: cells as they are."""
    frame = beside()
    frame.insert(0, "c", form.cells)
    frame.iloc[rows].to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL)
    return path


def typed(form: Form) -> pd.DataFrame:
    """The table as a program has it."""
    return beside().assign(c=form.typed())[["c", "f", "y"]]


def check_said(suite: TaskSuite, pattern: str | None, folder: Path) -> None:
    """What was said, in the summary and in the saved suite, or that there was nothing to say."""
    mine = [note for note in suite.notes if "`c`" in note and "split at random" not in note]
    if not pattern:
        assert pattern == "" or not [note for note in mine if "blanks at the ends" not in note]
        return
    assert any(re.search(pattern, remark) for remark in mine), suite.notes
    stored = json.loads((suite.save(folder) / "suite.json").read_text())
    for remark in mine:
        assert remark in suite.summary()
        assert remark in stored["notes"]


def same_rows(suite: TaskSuite, other: TaskSuite) -> None:
    """Inputs and labels are the same to the bit, in all splits."""
    for one, two in ((suite, other), (suite.open_test(), other.open_test())):
        torch.testing.assert_close(one.x, two.x, rtol=0, atol=0)
        torch.testing.assert_close(one.y, two.y, rtol=0, atol=0)
        assert torch.equal(one.mask, two.mask)


@EACH
def test_feature(form, tmp_path):
    suite = load_suite(write(tmp_path / "t.csv", form), target="y")
    other = TaskSuite.from_frame(typed(form), target="y")
    assert suite.encoder.features == other.encoder.features
    same_rows(suite, other)
    check_said(suite, form.said, tmp_path / "suite")


@EACH
def test_target(form, tmp_path):
    path = write(tmp_path / "t.csv", form)
    if form.is_date:
        with pytest.raises(DataError, match="Target `c` holds dates"):
            load_suite(path, target="c")
        return
    suite = load_suite(path, target="c")
    other = TaskSuite.from_frame(typed(form), target="c")
    assert suite.tasks == other.tasks
    assert suite.tasks[0].kind == other.tasks[0].kind
    same_rows(suite, other)
    check_said(suite, form.said, tmp_path / "suite")


@EACH
def test_task_column(form, tmp_path):
    path = write(tmp_path / "t.csv", form)
    names = form.names
    if None in names:
        with pytest.raises(DataError, match="Task column `c` is empty in row 3"):
            load_suite(path, target="y", task_column="c")
        return
    frequent = {name for name in names if names.count(name) >= 6}
    rows = np.array([name in frequent for name in names])  # others are too few to be split
    write(path, form, rows)
    suite = load_suite(path, target="y", task_column="c")
    wanted = frequent - {"Yes"}  # said to be `yes`
    assert set(suite.task_names) == wanted
    later = read_table(write(tmp_path / "later.csv", form, np.flatnonzero(rows)[::-7])).frame["c"]
    found = [suite.task_names[i] for i in suite.task_numbers(later).tolist()]
    assert (
        found == [("yes" if n == "Yes" else n) for n in np.array(names)[rows][::-7]][: len(found)]
    )
    check_said(suite, form.said_as_name, tmp_path / "suite")


@EACH
def test_predict_time(form, tmp_path):
    suite = load_suite(write(tmp_path / "t.csv", form), target="y")
    whole = suite.encoder.encode(typed(form))
    for number, rows in enumerate(
        (np.arange(1), np.arange(ROWS)[::-1], np.arange(3, ROWS, 5), np.arange(ROWS - 2, ROWS))
    ):
        path = write(tmp_path / f"later-{number}.csv", form, rows)
        later = read_table(path)
        x, told = suite.encoder.read(later.frame)
        torch.testing.assert_close(x, whole[rows.copy()], rtol=0, atol=0)
        assert all(re.search("never seen|without `g`", one) for one in told)


@EACH
def test_test_file(form, tmp_path):
    train, test = np.arange(0, 160), np.arange(160, ROWS)
    suite = load_suite(
        write(tmp_path / "t.csv", form, train),
        target="y",
        test=write(tmp_path / "test.csv", form, test),
    )
    frame = typed(form)
    other = TaskSuite.from_frame(frame.iloc[train], target="y", test=frame.iloc[test])
    assert suite.counts == other.counts
    same_rows(suite, other)


def test_there_are_enough_cells():
    assert len(FORMS) * 5 >= 150
    assert len({form.name for form in FORMS}) == len(FORMS)
