"""TaskSuite: sealed test rows, fingerprint, save and load, what the trainer reads."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import autometa
from autometa.errors import DataError
from autometa.networks import Problem
from autometa.tasks import Task, TaskSuite
from autometa.tasks.images import ImageEncoder


def table(rows: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "x": rng.normal(5, 2, rows),
            "c": rng.choice(["u", "v"], rows),
            "y": rng.random(rows),
            "k": rng.choice(["a", "b", "c"], rows),
            "t": rng.choice(["p", "q"], rows),
            "part": ["train"] * (rows - 40) + ["val"] * 20 + ["test"] * 20,
        }
    )


@pytest.fixture(params=["aligned", "grouped", "image"])
def suite(request):
    if request.param == "aligned":
        return TaskSuite.from_frame(table(), targets=["y", "k"], split_column="part")
    if request.param == "grouped":
        return TaskSuite.from_frame(table(), target="k", task_column="t", split_column="part")
    rng = np.random.default_rng(0)
    return TaskSuite.from_arrays(
        rng.integers(0, 256, (90, 6, 5), dtype=np.uint8),
        rng.random((90, 2)),
        splits=table()["part"].to_numpy(),
    )


def tensors(value, seen=None):
    """All tensors that public attributes lead to."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if not field.name.startswith("_"):
                yield from tensors(getattr(value, field.name))


class TestTestRows:
    def test_only_open_test_leads_to_them(self, suite):
        test = suite.open_test()
        assert len(test.x) == 20
        assert set(suite.split.tolist()) == {0, 1}
        assert len(suite.x) == len(suite.y) == len(suite.mask) == len(suite.split) == 70
        secret = {tuple(row) for row in test.x.flatten(1).tolist()}
        public = [*tensors(suite), *suite.rows("train"), *suite.rows("val")]
        for tensor in public:
            if tensor is None:
                continue
            assert len(tensor) <= 70
            if tensor.shape[1:] == test.x.shape[1:] and tensor.dtype == torch.float32:
                assert not secret & {tuple(row) for row in tensor.flatten(1).tolist()}
        with pytest.raises(DataError, match=r"Test rows are for the final comparison only"):
            suite.rows("test")

    def test_real_numbers_of_test_rows_are_nowhere_public(self):
        suite = TaskSuite.from_frame(table(), targets=["y", "k"], split_column="part")
        secret = suite.open_test()
        for tensor in (suite.x, suite.y):
            assert not torch.isin(secret.x[:, 0], tensor).any()
            assert not torch.isin(secret.y[:, 0], tensor).any()

    def test_without_test_they_are_gone(self, suite, tmp_path):
        stripped = suite.without_test()
        for other in (stripped, suite.merged(), pickle.loads(pickle.dumps(stripped))):  # noqa: S301
            with pytest.raises(DataError, match=r"has no test rows here"):
                other.open_test()
            with pytest.raises(DataError, match=r"`train` or `val`. Found `split = 'test'`"):
                other.rows("test")
            assert other.counts["test"] == 0
            assert other.fingerprint == suite.fingerprint
            assert other.tasks == suite.tasks
        folder = stripped.save(tmp_path / "s")
        assert sorted(p.name for p in folder.iterdir()) == ["rows.safetensors", "suite.json"]
        suite.save(folder)
        stripped.save(folder)  # saving again leaves no old test rows behind
        assert not (folder / "test.safetensors").exists()

    def test_only_the_contests_of_the_judge_open_them(self):
        package = Path(autometa.__file__).parent
        # `held_out` gives rows of all splits to their tasks, `episodic` seals those of test tasks,
        # `outline` tells other data by means over all rows, which no trial or method is shown
        allowed = {package / f"{n}.py" for n in ("contests", "contest_episodes")}
        own = ("suite", "held_out", "episodic", "outline")
        allowed |= {package / "tasks" / f"{n}.py" for n in own}
        callers = [
            path
            for path in package.rglob("*.py")
            if re.search(r"open_test\(|\._test\b", path.read_text(encoding="utf-8"))
        ]
        assert [p for p in callers if p not in allowed] == []


class TestRows:
    def test_rows_partition_the_suite(self, suite):
        train, val, test = suite.rows("train"), suite.rows("val"), suite.open_test()
        assert (len(train.x), len(val.x), len(test.x)) == (50, 20, 20)
        assert torch.cat([train.index, val.index, test.index]).tolist() == list(range(90))
        torch.testing.assert_close(suite.x[val.index], val.x, rtol=0, atol=0)
        torch.testing.assert_close(suite.y[val.index], val.y, rtol=0, atol=0)
        assert (train.task is None) == (suite.layout == "aligned")

    def test_types(self, suite):
        for rows in (suite.rows("train"), suite.open_test()):
            assert rows.x.dtype == rows.y.dtype == torch.float32
            assert rows.mask.dtype == torch.bool
            assert rows.mask.shape == rows.y.shape
            assert rows.task is None or rows.task.dtype == torch.int64
        assert suite.split.dtype == torch.int8

    def test_merged_rows_are_training_rows(self, suite):
        merged = suite.merged()
        assert merged.counts == {"train": 70, "val": 0, "test": 0}
        torch.testing.assert_close(merged.x, suite.x, rtol=0, atol=0)
        assert len(merged.rows("val").x) == 0
        assert suite.counts == {"train": 50, "val": 20, "test": 20}  # the original is untouched

    def test_unknown_split(self, suite):
        with pytest.raises(DataError, match=r"should be `train` or `val`"):
            suite.rows("valid")


def test_save_and_load(suite, tmp_path):
    again = TaskSuite.load(suite.save(tmp_path / "suite"))
    assert again.describe() == suite.describe()
    assert again.tasks == suite.tasks
    assert again.encoder == suite.encoder
    for a, b in [
        *zip(suite.rows("train"), again.rows("train"), strict=True),
        *zip(suite.rows("val"), again.rows("val"), strict=True),
        *zip(suite.open_test(), again.open_test(), strict=True),
    ]:
        assert (a is None and b is None) or torch.equal(a, b)


def test_groups_stay_with_the_rows(tmp_path):
    frame = table()
    frame["site"] = [f"s{n % 12}" for n in range(len(frame))]
    suite = TaskSuite.from_frame(frame.drop(columns="part"), targets=["y"], group_column="site")
    again = TaskSuite.load(suite.save(tmp_path / "suite"))
    for one in (suite, again):
        groups = [
            set(r.group.tolist()) for r in (one.rows("train"), one.rows("val"), one.open_test())
        ]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 12
    assert suite.without_test().rows("val").group is not None


def test_load_errors(tmp_path):
    with pytest.raises(DataError, match=r"holds no readable suite"):
        TaskSuite.load(tmp_path)
    (tmp_path / "suite.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match=r"should have format 1. Found 99"):
        TaskSuite.load(tmp_path)
    (tmp_path / "suite.json").write_text("{")
    with pytest.raises(DataError, match=r"holds no readable suite"):
        TaskSuite.load(tmp_path)


class TestFingerprint:
    def fingerprint(self, frame, *, targets=("y", "k"), split_column="part", **options):
        options |= {"targets": targets, "split_column": split_column}
        return TaskSuite.from_frame(frame, **options).fingerprint

    def test_same_data_same_fingerprint(self):
        assert self.fingerprint(table()) == self.fingerprint(table(), name="other")
        narrow = table().astype({"c": "category"})
        assert self.fingerprint(narrow) == self.fingerprint(table())

    @pytest.mark.parametrize("column", ["x", "c", "y", "k", "part"])
    @pytest.mark.parametrize("row", [0, 60, 89])
    def test_one_cell_changes_it(self, column, row):
        frame = table()
        values = frame[column].tolist()
        others = {"c": "uv", "k": "abc", "part": ("train", "val", "test")}
        values[row] = next((v for v in others.get(column, ()) if v != values[row]), 0.123)
        frame[column] = values
        assert self.fingerprint(frame) != self.fingerprint(table())

    def test_options_change_it(self):
        seen = {
            self.fingerprint(table()),
            self.fingerprint(table(), targets=("k", "y")),
            self.fingerprint(table(), targets=("y",)),
            self.fingerprint(table(), drop=("x",)),
            self.fingerprint(table(), split_column=None, drop=("part",), seed=0),
            self.fingerprint(table(), split_column=None, drop=("part",), seed=1),
            self.fingerprint(table()[["c", "x", "y", "k", "t", "part"]]),
        }
        assert len(seen) == 7

    def test_stable_across_processes(self):
        code = (
            "from tests.tasks.test_suite import table\n"
            "from autometa.tasks import TaskSuite\n"
            "print(TaskSuite.from_frame(table(), targets=['y', 'k'], seed=5,"
            " drop=['part']).fingerprint)"
        )
        root = Path(autometa.__file__).parents[1]
        out = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        here = TaskSuite.from_frame(table(), targets=["y", "k"], seed=5, drop=["part"])
        assert out == here.fingerprint
        assert re.fullmatch(r"[0-9a-f]{64}", out)

    def test_suites_built_by_hand_have_one(self):
        def build(value):
            x = torch.full((4, 2), value)
            y, mask = torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool)
            split = torch.tensor([0, 0, 1, 2], dtype=torch.int8)
            task = Task("t", "regression", "rmse")
            return TaskSuite("hand", "aligned", "table", (task,), x, y, mask, None, split)

        assert build(0.0).fingerprint == build(0.0).fingerprint != build(1.0).fingerprint
        assert build(0.0).counts == {"train": 2, "val": 1, "test": 1}


def test_conveniences(suite):
    assert suite.n_tasks == len(suite.tasks) == len(suite.kinds) == len(suite.task_names)
    assert Problem.of(suite).class_mask().shape == (suite.n_tasks, Problem.of(suite).width)
    assert Problem.of(suite).class_mask().sum(dim=1).tolist() == [t.n_outputs for t in suite.tasks]
    assert suite.feature_shape == tuple(suite.x.shape[1:])
    assert suite.is_image == (len(suite.feature_shape) == 3)
    assert suite.is_grouped == (suite.task is not None)
    assert suite.name in suite.summary()
    assert json.loads(json.dumps(suite.describe())) == suite.describe()
    assert "50 train / 20 val / 20 test rows" in suite.summary()


class TestImages:
    def test_pixels_are_standardised_on_training_images(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (60, 3, 4, 5), dtype=np.uint8)
        splits = np.array([0] * 40 + [1] * 10 + [2] * 10)
        suite = TaskSuite.from_arrays(images, rng.random(60), splits=splits)
        assert suite.feature_shape == (3, 4, 5)
        x = suite.rows("train").x
        torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std(correction=0), torch.tensor(1.0))
        other = images.copy()
        other[40:] = 255
        again = TaskSuite.from_arrays(other, rng.random(60), splits=splits)
        assert again.encoder == suite.encoder
        torch.testing.assert_close(suite.encoder.encode(images[50:]), suite.open_test().x)

    def test_new_images(self):
        encoder = ImageEncoder((1, 2, 3), 10.0, 2.0)
        pixels = np.array([[[10, 12, 14], [10, 8, 6]]])
        expected = torch.tensor([[[[0.0, 1, 2], [0, -1, -2]]]])
        assert torch.equal(encoder.encode(pixels), expected)
        assert torch.equal(encoder.encode(pixels.reshape(1, 6)), expected)
        with pytest.raises(DataError, match=r"shape \[rows, 1, 2, 3\]. Found \[1, 3, 2\]"):
            encoder.encode(pixels.reshape(1, 3, 2))


def test_arrays_of_numbers_have_an_encoder():
    rng = np.random.default_rng(0)
    x, y = rng.random((50, 4)), rng.random((50, 3))
    x[:, 2] = 1.0
    y[rng.random((50, 3)) < 0.2] = np.nan
    suite = TaskSuite.from_arrays(x, y, names=["a", "b", "c"])
    assert suite.task_names == ("a", "b", "c")
    assert suite.feature_shape == (3,)  # the constant column is gone
    mask = torch.cat([suite.mask, suite.open_test().mask])
    assert int(mask.sum()) == int((~np.isnan(y)).sum())
    new = suite.encoder.encode(x)
    train = suite.rows("train").x
    assert (new[:, None] == train[None]).all(dim=2).any(dim=0).all()  # each row is found again
    with pytest.raises(DataError, match=r"array \[rows, 4\]. Found shape \[50, 2\]"):
        suite.encoder.encode(x[:, :2])


def test_restore_is_the_inverse_of_standardising():
    task = Task("t", "regression", "rmse", mean=10.0, std=4.0)
    assert task.restore(np.array([-1.0, 0.0, 2.0])).tolist() == [6.0, 10.0, 18.0]
    task = Task("t", "multiclass", "accuracy", ("a", 3, 2.5))
    assert task.restore(np.array([2, 0, 1])).tolist() == [2.5, "a", 3]
    assert task.n_outputs == 3
    assert Task.from_json(task.to_json()) == task
