"""Users' tables: kinds, labels, missing values, splits, encoder."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import DataError
from autometa.networks import Problem
from autometa.tasks import TaskSuite, load_suite
from autometa.tasks.encoder import encoder_from_json


def people(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """A table as users have it: three targets, missing cells and labels, a category, a date."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, rows)
    frame = pd.DataFrame(
        {
            "age": age,
            "city": rng.choice(["Rome", "Oslo", "Lima"], rows),
            "member": rng.random(rows) < 0.5,
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, rows), "D"),
            "constant": 7,
            "25400": age * 2 + rng.normal(0, 1, rows),
            "ill": np.where(age + rng.normal(0, 5, rows) > 40, "yes", "no"),
            "level": rng.choice(["low", "mid", "high"], rows),
        }
    )
    frame.loc[rng.choice(rows, rows // 7, replace=False), "age"] = np.nan
    frame.loc[rng.choice(rows, rows // 10, replace=False), "city"] = None
    frame.loc[rng.choice(rows, rows * 3 // 10, replace=False), "25400"] = np.nan
    return frame


TARGETS = ["25400", "ill", "level"]


class TestCsvWithThreeTargets:
    @pytest.fixture
    def suite(self, tmp_path):
        people().to_csv(tmp_path / "people.csv", index=False)
        return load_suite(tmp_path / "people.csv", targets=TARGETS)

    def test_kinds_and_labels(self, suite):
        assert suite.name == "people"
        assert suite.task_names == ("25400", "ill", "level")
        assert suite.kinds == ("regression", "binary", "multiclass")
        assert [t.metric for t in suite.tasks] == ["rmse", "accuracy", "accuracy"]
        assert suite.tasks[1].classes == ("no", "yes")
        assert suite.tasks[2].classes == ("high", "low", "mid")
        assert Problem.of(suite).width == 3
        assert Problem.of(suite).class_mask().tolist() == [
            [True, False, False],
            [True, False, False],
            [True, True, True],
        ]

    def test_missing_labels_are_masked(self, suite):
        test = suite.open_test()
        mask = torch.cat([suite.mask, test.mask])
        y = torch.cat([suite.y, test.y])
        assert mask.sum(dim=0).tolist() == [140, 200, 200]
        assert (y[~mask] == 0).all()
        assert torch.isfinite(y).all()
        labelled = suite.rows("train").y[:, 0][suite.rows("train").mask[:, 0]]
        torch.testing.assert_close(labelled.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(labelled.std(correction=0), torch.tensor(1.0))

    def test_labels_come_back_in_original_units(self, suite):
        frame = people()
        rows = suite.rows("val")
        original = suite.tasks[0].restore(rows.y[:, 0][rows.mask[:, 0]].numpy())
        known = frame["25400"].dropna().to_numpy()
        nearest = np.abs(original[:, None] - known[None]).min(axis=1)
        assert nearest.max() < 1e-4
        labels = suite.tasks[2].restore(rows.y[:, 2].numpy())
        assert set(labels) == {"low", "mid", "high"}
        assert all(type(label) is str for label in labels)

    def test_features(self, suite):
        names = suite.encoder.features
        assert names[:2] == ("age", "age=<missing>")
        assert {"city=Rome", "city=Oslo", "city=Lima", "city=<other>"} <= set(names)
        assert "since" in names  # dates in a CSV are text
        assert not any("constant" in n or n in TARGETS for n in names)
        assert suite.feature_shape == (len(names),)

    def test_same_table_from_memory_is_the_same_suite(self, suite):
        # a CSV rounds nothing here but holds no types: dates, booleans and categories are read back
        memory = TaskSuite.from_frame(people(), targets=TARGETS)
        assert memory.fingerprint == suite.fingerprint
        torch.testing.assert_close(memory.x, suite.x)


def test_encoder_sees_training_rows_only():
    frame = people()
    frame["part"] = ["train"] * 120 + ["val"] * 40 + ["test"] * 40
    suite = TaskSuite.from_frame(frame, targets=TARGETS, split_column="part")
    x = suite.rows("train").x
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.ones(x.shape[1]))
    other = frame.copy()
    other.loc[120:, "age"] = 1e6
    other.loc[120:, "city"] = "Paris"
    other.loc[120:, "25400"] = -1e6
    changed = TaskSuite.from_frame(other, targets=TARGETS, split_column="part")
    assert changed.encoder == suite.encoder
    assert changed.tasks == suite.tasks
    torch.testing.assert_close(changed.rows("train").x, x, rtol=0, atol=0)
    assert changed.fingerprint != suite.fingerprint


def test_encoder_reads_new_tables():
    suite = TaskSuite.from_frame(people(), targets=TARGETS)
    again = encoder_from_json(json.loads(json.dumps(suite.encoder.to_json())))
    assert again == suite.encoder
    new = people(50, seed=1).assign(extra="ignored")
    x = again.encode(new[new.columns[::-1]])  # the order of the columns does not matter
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, suite.encoder.encode(new), rtol=0, atol=0)
    unseen = new.assign(city="Paris")
    other = suite.encoder.features.index("city=<other>")
    assert (suite.encoder.encode(unseen)[:, other] > 0).all()
    empty = new.assign(age=np.nan)
    age, missing = (suite.encoder.features.index(n) for n in ("age", "age=<missing>"))
    encoded = suite.encoder.encode(empty)
    assert (encoded[:, missing] > 0).all()
    assert encoded[:, age].unique().numel() == 1  # the training median
    with pytest.raises(DataError, match=r"lacks column `city`"):
        suite.encoder.encode(new.drop(columns="city"))
    with pytest.raises(DataError, match=r"`age` should hold numbers"):
        suite.encoder.encode(new.assign(age="old"))
    with pytest.raises(DataError, match=r"infinite"):
        suite.encoder.encode(new.assign(age=np.inf))


def test_encoded_rows_equal_the_suite_rows():
    frame = people()
    frame["part"] = ["train"] * 120 + ["val"] * 40 + ["test"] * 40
    suite = TaskSuite.from_frame(frame, targets=TARGETS, split_column="part")
    torch.testing.assert_close(suite.encoder.encode(frame[:160]), suite.x, rtol=0, atol=0)
    torch.testing.assert_close(suite.encoder.encode(frame[160:]), suite.open_test().x)


def test_whole_numbers_read_alike_in_a_category():
    frame = pd.DataFrame(
        {"zone": pd.Categorical([1, 2, 3, 1] * 20), "y": np.random.default_rng(0).random(80)}
    )
    suite = TaskSuite.from_frame(frame, target="y")
    ints = suite.encoder.encode(pd.DataFrame({"zone": [1, 2, 3]}))
    floats = suite.encoder.encode(pd.DataFrame({"zone": [1.0, 2.0, 3.0]}))
    text = suite.encoder.encode(pd.DataFrame({"zone": ["1", "2", "3"]}))
    torch.testing.assert_close(ints, floats, rtol=0, atol=0)
    torch.testing.assert_close(ints, text, rtol=0, atol=0)
    assert len(ints.unique(dim=0)) == 3


def test_frequent_levels_are_kept_when_there_are_many():
    rng = np.random.default_rng(0)
    code = np.minimum(rng.geometric(0.03, 3000), 200)
    frame = pd.DataFrame({"code": [f"c{c}" for c in code], "y": rng.random(3000)})
    suite = TaskSuite.from_frame(frame, target="y")
    assert len(suite.encoder.features) == 51
    assert suite.encoder.features[-1] == "code=<other>"


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        ([True, False], "binary", (False, True)),
        ([0, 1], "binary", (0, 1)),
        ([3, 8], "binary", (3, 8)),
        ([0.5, 1.5], "binary", (0.5, 1.5)),
        (["b", "a"], "binary", ("a", "b")),
        (["b", "a", "c"], "multiclass", ("a", "b", "c")),
        ([0, 1, 2], "regression", ()),
        ([0.1, 1.5, 2.0], "regression", ()),
    ],
)
def test_kind_is_guessed(labels, kind, classes):
    frame = pd.DataFrame({"x": np.arange(60.0), "y": labels * (60 // len(labels))})
    task = TaskSuite.from_frame(frame, target="y").tasks[0]
    assert task.kind == kind
    assert task.classes == classes
    assert [type(c) for c in task.classes] == [type(c) for c in classes]


def test_categories_of_numbers_are_classes():
    frame = pd.DataFrame({"x": np.arange(60.0), "y": pd.Categorical([1, 2, 3] * 20)})
    task = TaskSuite.from_frame(frame, target="y").tasks[0]
    assert (task.kind, task.classes) == ("multiclass", (1, 2, 3))


def test_whole_number_classes_with_missing_labels_stay_whole():
    # pandas turns an int column with empty cells into floats
    frame = pd.DataFrame({"x": np.arange(60.0), "a": [0, 1, 2] * 20, "b": [0.0, 1, np.nan] * 20})
    suite = TaskSuite.from_frame(frame, targets=["a", "b"], kinds={"a": "multiclass"})
    assert suite.tasks[0].classes == (0, 1, 2)
    assert suite.tasks[1].classes == (0, 1)
    assert all(type(c) is int for t in suite.tasks for c in t.classes)
    assert suite.rows("train").mask.sum(dim=0)[0] == suite.counts["train"]


def test_booleans_with_missing_labels():
    y = np.array([True, False, None] * 20, dtype=object)
    frame = pd.DataFrame({"x": np.arange(60.0), "z": np.arange(60.0), "y": y})
    suite = TaskSuite.from_frame(frame, targets=["z", "y"])
    assert suite.tasks[1].classes == (False, True)
    restored = suite.tasks[1].restore(np.array([1, 0]))
    assert restored.tolist() == [True, False]
    assert type(restored[0]) is bool


def test_rows_without_any_label_are_left_out():
    frame = pd.DataFrame({"x": np.arange(50.0), "a": np.arange(50.0), "b": np.arange(50.0)[::-1]})
    frame.loc[:9, ["a", "b"]] = np.nan
    suite = TaskSuite.from_frame(frame, targets=["a", "b"])
    assert sum(suite.counts.values()) == 40


def test_a_class_that_only_the_test_split_has_does_not_crash():
    frame = pd.DataFrame(
        {
            "x": np.arange(30.0),
            "y": ["a", "b"] * 13 + ["c"] * 4,
            "part": ["train"] * 18 + ["val"] * 8 + ["test"] * 4,
        }
    )
    suite = TaskSuite.from_frame(frame, target="y", split_column="part")
    assert suite.tasks[0].classes == ("a", "b", "c")
    assert suite.open_test().y.unique().tolist() == [2.0]


def test_metric_of_rare_classes_is_auc():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(400), "n": rng.random(400)})
    for name, positives in (("a", 20), ("b", 30), ("c", 200)):
        frame[name] = rng.permutation(400) < positives
    suite = TaskSuite.from_frame(frame, targets=["a", "b", "c", "n"])
    assert [t.metric for t in suite.tasks] == ["auc", "auc", "auc", "rmse"]
    suite = TaskSuite.from_frame(frame, targets=["a", "c"])
    assert [t.metric for t in suite.tasks] == ["accuracy", "accuracy"]  # median share 0.28
    suite = TaskSuite.from_frame(frame, targets=["a", "c", "n"], metrics="auc")
    assert [t.metric for t in suite.tasks] == ["auc", "auc", "rmse"]
    suite = TaskSuite.from_frame(frame, targets=["a", "c"], metrics={"c": "auc"})
    assert [t.metric for t in suite.tasks] == ["accuracy", "auc"]


class TestGrouped:
    @pytest.fixture
    def frame(self):
        rng = np.random.default_rng(0)
        shop = rng.choice([2, 10, 1], 300)
        return pd.DataFrame(
            {"shop": shop, "x": rng.random(300), "y": rng.random(300) + shop, "k": shop * 0 + 5}
        )

    def test_tasks_are_the_values_of_the_column(self, frame):
        suite = TaskSuite.from_frame(frame, target="y", task_column="shop")
        assert suite.layout == "grouped"
        assert suite.task_names == ("1", "2", "10")
        assert suite.encoder.features == ("x",)
        assert suite.y.ndim == 1
        assert suite.mask.all()
        assert suite.target == "y"
        assert suite.task_column == "shop"
        for number, task in enumerate(suite.tasks):
            mine = task.restore(suite.y.numpy()[suite.task.numpy() == number]) - int(task.name)
            assert mine.min() > -1e-5
            assert mine.max() < 1 + 1e-5
        assert suite.task_numbers([10, 1, "2"]).tolist() == [2, 0, 1]
        assert suite.task_numbers(pd.Series([10.0, 1.0])).tolist() == [2, 0]
        with pytest.raises(DataError, match=r"names task `11`"):
            suite.task_numbers([11])

    def test_every_task_has_rows_in_every_split(self, frame):
        small = pd.concat([frame, frame[:3].assign(shop=77)], ignore_index=True)
        suite = TaskSuite.from_frame(small, target="y", task_column="shop")
        for rows in (suite.rows("train"), suite.rows("val"), suite.open_test()):
            assert rows.task.unique().numel() == 4

    def test_unlabelled_rows_are_dropped(self, frame):
        frame.loc[:49, "y"] = np.nan
        suite = TaskSuite.from_frame(frame, target="y", task_column="shop")
        assert sum(suite.counts.values()) == 250

    def test_classes_are_the_tasks_own(self, frame):
        frame["label"] = [f"{s}{'ab'[i % 2]}" for i, s in enumerate(frame["shop"])]
        suite = TaskSuite.from_frame(frame.drop(columns="y"), target="label", task_column="shop")
        assert suite.tasks[2].classes == ("10a", "10b")
        assert suite.y.unique().tolist() == [0.0, 1.0]
        assert suite.kinds == ("multiclass",) * 3
        assert Problem.of(suite).width == 2
