"""Splits: fractions, stratification, groups, users' own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from autometa.tasks import TaskSuite
from autometa.tasks.labels import Target
from autometa.tasks.splits import SplitPlan, make_splits


def shares(split: np.ndarray) -> np.ndarray:
    return np.bincount(split, minlength=3) / len(split)


def target(values, kind="regression") -> Target:
    values = np.asarray(values, dtype=float)
    classes = () if kind == "regression" else tuple(range(int(np.nanmax(values)) + 1))
    return Target("y", kind, classes, values)


def test_fractions_and_seeds():
    values = np.random.default_rng(0).random(1000)
    a = make_splits(SplitPlan(seed=0), [target(values)], None, 1)
    np.testing.assert_allclose(shares(a), [0.6, 0.2, 0.2], atol=0.002)
    assert (a == make_splits(SplitPlan(seed=0), [target(values)], None, 1)).all()
    assert (a != make_splits(SplitPlan(seed=1), [target(values)], None, 1)).mean() > 0.3
    b = make_splits(SplitPlan(fractions=(0.8, 0.15, 0.05)), [target(values)], None, 1)
    np.testing.assert_allclose(shares(b), [0.8, 0.15, 0.05], atol=0.002)


def test_regression_is_stratified_by_quantiles():
    values = np.random.default_rng(0).lognormal(0, 2, 500)
    split = make_splits(SplitPlan(), [target(values)], None, 1)
    top = values >= np.quantile(values, 0.9)
    np.testing.assert_allclose(shares(split[top]), [0.6, 0.2, 0.2], atol=0.03)


def test_one_classification_target_is_stratified_by_class():
    values = np.array([0] * 300 + [1] * 60 + [2] * 10 + [3] * 1)
    split = make_splits(SplitPlan(), [target(values, "multiclass")], None, 1)
    for label, count in ((0, 300), (1, 60), (2, 10)):
        got = np.bincount(split[values == label], minlength=3)
        np.testing.assert_allclose(got, np.array([0.6, 0.2, 0.2]) * count, atol=1.01)
    assert split[values == 3] == [0]  # a single row of a class is for training


def test_several_targets_are_stratified_together():
    rng = np.random.default_rng(0)
    values = [np.where(rng.random(1000) < p, 1, 0) for p in (0.02, 0.1, 0.5)]
    targets = [target(v, "binary") for v in values]
    split = make_splits(SplitPlan(), targets, None, 3)
    np.testing.assert_allclose(shares(split), [0.6, 0.2, 0.2], atol=0.02)
    for v in values:
        count = v.sum()
        got = np.bincount(split[v == 1], minlength=3)
        np.testing.assert_allclose(got / count, [0.6, 0.2, 0.2], atol=0.03 + 0.5 / count)


def test_sparse_labels_are_spread():
    rng = np.random.default_rng(0)
    values = [np.where(rng.random(300) < 0.04, rng.random(300), np.nan) for _ in range(5)]
    values.append(rng.random(300))
    split = make_splits(SplitPlan(), [target(v) for v in values], None, 6)
    for v in values:
        assert (np.bincount(split[~np.isnan(v)], minlength=3) > 0).all()


def test_grouped_rows_are_stratified_within_tasks():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(20), rng.integers(5, 60, 20))
    values = (rng.random(len(task)) < 0.3).astype(float)
    split = make_splits(SplitPlan(), [target(values, "binary")], task, 20)
    for number in range(20):
        mine = split[task == number]
        np.testing.assert_allclose(
            np.bincount(mine, minlength=3), np.array([0.6, 0.2, 0.2]) * len(mine), atol=1.5
        )
        assert (values[(task == number) & (split == 0)] == 1).any() or not (
            values[task == number] == 1
        ).any()


def test_groups_stay_together_and_cover_all_tasks():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"x": rng.random(400), "y": rng.random(400), "patient": rng.integers(0, 50, 400)}
    )
    frame["clinic"] = rng.choice(["a", "b", "c"], 400)
    frame["x"] = frame["patient"] + 0.001 * frame["x"]  # lets us read the patient off the input
    for options in ({"target": "y"}, {"target": "y", "task_column": "clinic"}):
        suite = TaskSuite.from_frame(
            frame, group_column="patient", drop=[] if len(options) == 2 else ["clinic"], **options
        )
        patients = []
        for rows in (suite.rows("train"), suite.rows("val"), suite.open_test()):
            raw = rows.x[:, 0].double().numpy() * suite.encoder.scale[0] + suite.encoder.mean[0]
            patients.append(set(np.floor(raw + 1e-4).astype(int)))
            if rows.task is not None:
                assert rows.task.unique().numel() == 3
        assert not patients[0] & patients[1]
        assert not patients[0] & patients[2]
        assert not patients[1] & patients[2]
        assert sum(map(len, patients)) == frame["patient"].nunique()
        counts = np.array(list(suite.counts.values())) / 400
        np.testing.assert_allclose(counts, [0.6, 0.2, 0.2], atol=0.06)


class TestOwnSplits:
    FRAME = pd.DataFrame({"x": np.arange(50.0), "y": np.arange(50.0) % 7})

    @pytest.mark.parametrize(
        "names", [("train", "val", "test"), ("Training", "validation ", "TEST"), (0, 1, 2)]
    )
    def test_split_column(self, names):
        part = np.repeat(np.array(names, dtype=object), [30, 12, 8])
        suite = TaskSuite.from_frame(
            self.FRAME.assign(part=part), target="y", kinds="multiclass", split_column="part"
        )
        assert suite.counts == {"train": 30, "val": 12, "test": 8}
        assert suite.encoder.features == ("x",)
        x = suite.open_test().x[:, 0].numpy() * suite.encoder.scale[0] + suite.encoder.mean[0]
        np.testing.assert_allclose(x, np.arange(42.0, 50.0), rtol=1e-5)

    def test_validation_rows_are_taken_from_training_rows(self):
        part = ["train"] * 40 + ["test"] * 10
        suite = TaskSuite.from_frame(self.FRAME.assign(part=part), target="y", split_column="part")
        assert suite.counts == {"train": 30, "val": 10, "test": 10}

    @pytest.mark.parametrize("as_file", [False, True])
    def test_test_table(self, tmp_path, as_file):
        test = self.FRAME[40:].assign(extra=1)
        if as_file:
            test.to_csv(tmp_path / "test.csv", index=False)
            test = tmp_path / "test.csv"
        suite = TaskSuite.from_frame(self.FRAME[:40], target="y", test=test)
        assert suite.counts == {"train": 30, "val": 10, "test": 10}
        x = suite.open_test().x[:, 0].numpy() * suite.encoder.scale[0] + suite.encoder.mean[0]
        np.testing.assert_allclose(x, np.arange(40.0, 50.0), rtol=1e-5)

    def test_test_table_beside_a_split_column(self):
        part = ["train"] * 30 + ["val"] * 10
        suite = TaskSuite.from_frame(
            self.FRAME[:40].assign(part=part), target="y", split_column="part", test=self.FRAME[40:]
        )
        assert suite.counts == {"train": 30, "val": 10, "test": 10}
