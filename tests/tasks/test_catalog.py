"""Catalog and files: embedded suites, suite YAML, npz, and the data folder."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from autometa.errors import DataError
from autometa.networks import Problem
from autometa.tasks import TaskSuite, catalog, load_suite

DATA = os.environ.get("AUTOMETA_DATA")  # read now: every test starts without it
needs_data = pytest.mark.skipif(not DATA, reason="AUTOMETA_DATA names no folder of data sets")


class TestMultidigits:
    @pytest.fixture
    def suite(self):
        return load_suite("multidigits")

    def test_no_source_image_is_in_two_splits(self):
        digits = load_digits()
        for seed in (0, 1):
            pairs = catalog.multidigits_pairs(digits.target, seed)
            used = {split: set(np.concatenate(p).tolist()) for split, p in pairs.items()}
            assert not used["train"] & used["val"]
            assert not used["train"] & used["test"]
            assert not used["val"] & used["test"]
            assert all(set(digits.target[list(u)]) == set(range(10)) for u in used.values())

    def test_images_are_the_pairs(self, suite):
        digits = load_digits()
        pairs = catalog.multidigits_pairs(digits.target, 0)
        for split, rows in (
            ("train", suite.rows("train")),
            ("val", suite.rows("val")),
            ("test", suite.open_test()),
        ):
            left, right = pairs[split]
            assert rows.y.tolist() == list(
                map(list, zip(digits.target[left], digits.target[right], strict=True))
            )
            pixels = rows.x[:, 0].numpy() * suite.encoder.std + suite.encoder.mean
            corner = pixels[:, :3, :3]  # only the left digit reaches it
            np.testing.assert_allclose(corner, digits.images[left][:, :3, :3], atol=1e-4)
            corner = pixels[:, 8:, 8:]  # only the right one
            np.testing.assert_allclose(corner, digits.images[right][:, 5:, 5:], atol=1e-4)
            middle = np.maximum(digits.images[left][:, 3:, 3:], digits.images[right][:, :5, :5])
            np.testing.assert_allclose(pixels[:, 3:8, 3:8], middle, atol=1e-4)

    def test_facts(self, suite):
        assert suite.counts == {"train": 6000, "val": 1000, "test": 2000}
        assert suite.feature_shape == (1, 11, 11)
        assert suite.task_names == ("left", "right")
        assert suite.tasks[0].classes == tuple(range(10))
        assert suite.is_image
        assert suite.fingerprint != load_suite("multidigits", seed=1).fingerprint


def test_breast_cancer_has_mixed_kinds():
    suite = load_suite("breast-cancer")
    assert suite.kinds.count("regression") == 10
    assert suite.tasks[0].classes == ("benign", "malignant")
    assert suite.feature_shape == (20,)
    assert not any("worst" in f or "diagnosis" in f for f in suite.encoder.features)
    train = suite.rows("train")
    # worst radius is predictable from the means: least squares explains most of it
    solution = torch.linalg.lstsq(train.x, train.y[:, 1:]).solution
    val = suite.rows("val")
    error = ((val.x @ solution - val.y[:, 1:]) ** 2).mean(dim=0)
    assert error.max() < 0.7
    assert error[0] < 0.1


def test_embedded_facts_are_true():
    for name in catalog.EMBEDDED:
        facts, suite = catalog.describe(name), load_suite(name)
        assert facts["layout"] == suite.layout
        assert facts["tasks"] == suite.n_tasks
        assert facts["rows"] == sum(suite.counts.values())
        assert facts["kind"] == (suite.kinds[0] if len(set(suite.kinds)) == 1 else "mixed")
        json.dumps(facts)


class TestFiles:
    FRAME = pd.DataFrame(
        {
            "x": np.random.default_rng(0).random(60),
            "25400": np.random.default_rng(1).random(60),
            "shop": ["a", "b", "c"] * 20,
        }
    )

    @pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
    def test_tables(self, tmp_path, suffix):
        path = tmp_path / f"t.{suffix}"
        if suffix == "parquet":
            self.FRAME.to_parquet(path)
        else:
            self.FRAME.to_csv(path, sep="\t" if suffix == "tsv" else ",", index=False)
        suite = load_suite(path, target="25400", task_column="shop")
        assert suite.name == "t"
        assert suite.task_names == ("a", "b", "c")
        memory = TaskSuite.from_frame(self.FRAME, target="25400", task_column="shop")
        assert suite.fingerprint == memory.fingerprint

    def test_numbers_name_columns(self, tmp_path):
        self.FRAME.to_csv(tmp_path / "t.csv", index=False)
        assert load_suite(tmp_path / "t.csv", targets=[25400]).task_names == ("25400",)

    def test_pandas_index_and_semicolons(self, tmp_path):
        self.FRAME.to_csv(tmp_path / "t.csv", sep=";")
        suite = load_suite(tmp_path / "t.csv", target="25400", drop=["shop"])
        assert suite.encoder.features == ("x",)  # the row number is no feature

    def test_suite_yaml(self, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        self.FRAME[:45].to_csv(folder / "t.csv", index=False)
        self.FRAME[45:].to_csv(folder / "new.csv", index=False)
        (tmp_path / "shops.suite.yaml").write_text(
            "description: three shops\ndata: data/t.csv\nlayout: grouped\ntarget: 25400\n"
            "task_column: shop\ntest: data/new.csv\nseed: 3\n"
        )
        suite = load_suite(tmp_path / "shops.suite.yaml")
        assert suite.name == "shops"
        assert suite.layout == "grouped"
        assert suite.counts["test"] == 15
        options = {"target": "25400", "task_column": "shop", "test": self.FRAME[45:]}
        memory = TaskSuite.from_frame(self.FRAME[:45], seed=3, **options)
        assert suite.fingerprint == memory.fingerprint
        other = load_suite(tmp_path / "shops.suite.yaml", seed=4)
        assert other.fingerprint != suite.fingerprint

    def test_saved_suite(self, tmp_path):
        suite = TaskSuite.from_frame(self.FRAME, target="25400", task_column="shop")
        suite.save(tmp_path / "saved")
        assert load_suite(tmp_path / "saved").fingerprint == suite.fingerprint
        with pytest.raises(DataError, match=r"saved ready to use. Found option `seed`"):
            load_suite(tmp_path / "saved", seed=2)

    def test_npz(self, tmp_path):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (90, 5, 5), dtype=np.uint8)
        alphabet, letter = np.arange(90) % 2, np.arange(90) % 6 // 2
        np.savez(
            tmp_path / "i.npz", images=images, alphabet=alphabet, letter=letter,
            alphabet_names=np.array(["Greek", "Latin"]), y=rng.random((90, 2)),
            names=np.array(["p", "q"]),
        )  # fmt: skip
        suite = load_suite(tmp_path / "i.npz")
        assert suite.task_names == ("p", "q")
        assert suite.is_image
        suite = load_suite(
            tmp_path / "i.npz", target="letter", task_column="alphabet", kinds="multiclass"
        )
        assert suite.task_names == ("Greek", "Latin")
        assert suite.tasks[0].classes == (0, 1, 2)
        suite = load_suite(tmp_path / "i.npz", targets=["letter", "alphabet"])
        assert suite.kinds == ("regression", "binary")
        with pytest.raises(DataError, match=r"`lettr` .* Did you mean `letter`"):
            load_suite(tmp_path / "i.npz", target="lettr")


def test_names_lists_the_data_folder(tmp_path, monkeypatch):
    frame = pd.DataFrame({"x": np.arange(40.0), "a": np.arange(40.0), "b": np.arange(40.0) % 5})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    entry = {"file": "mine.csv", "layout": "multi_target", "targets": ["a", "b"], "rows": 40}
    entry |= {"kind": "regression", "origin": "here", "licence": "none"}
    (tmp_path / "datasets.json").write_text(json.dumps({"mine": entry}))
    monkeypatch.setenv("AUTOMETA_DATA", str(tmp_path))
    assert catalog.names() == ["multidigits", "breast-cancer", "sinusoid", "mine"]
    assert catalog.describe("mine") == {
        "name": "mine", "layout": "aligned", "kind": "regression", "tasks": 2, "rows": 40,
        "origin": "here", "licence": "none",
    }  # fmt: skip
    assert load_suite("mine").task_names == ("a", "b")
    part = load_suite("mine", targets=["b"])
    assert part.task_names == ("b",)
    assert part.encoder.features == ("x",)  # a target not chosen is no feature
    with pytest.raises(DataError, match=r"`x` is not one of suite `mine`"):
        load_suite("mine", targets=["x"])
    monkeypatch.delenv("AUTOMETA_DATA")
    assert catalog.names() == ["multidigits", "breast-cancer", "sinusoid"]
    monkeypatch.setenv("AUTOMETA_DATA", "")
    assert catalog.data_folder() is None, "set to nothing counts as not set"
    assert catalog.names() == ["multidigits", "breast-cancer", "sinusoid"]


@needs_data
class TestDataFolder:
    @pytest.fixture(autouse=True)
    def data_folder(self, monkeypatch):
        monkeypatch.setenv("AUTOMETA_DATA", str(DATA))

    def test_school(self):
        start = time.perf_counter()
        suite = load_suite("school")
        assert time.perf_counter() - start < 5  # 0.15 s on an idle machine
        assert suite.n_tasks == 139
        assert suite.layout == "grouped"
        assert set(suite.kinds) == {"regression"}
        assert sum(suite.counts.values()) == 15362
        for rows in (suite.rows("train"), suite.rows("val"), suite.open_test()):
            assert rows.task.unique().numel() == 139
        assert catalog.describe("school")["tasks"] == 139

    def test_landmine_is_judged_by_auc(self):
        suite = load_suite("landmine")
        assert suite.n_tasks == 29
        assert {t.metric for t in suite.tasks} == {"auc"}
        assert {t.classes for t in suite.tasks} == {(0, 1)}
        test = suite.open_test()
        for task in range(29):
            train = suite.rows("train")
            rate = train.y[train.task == task].mean()
            assert abs(rate - test.y[test.task == task].mean()) < 0.03

    def test_omniglot(self):
        start = time.perf_counter()
        suite = load_suite("omniglot_background")
        assert time.perf_counter() - start < 15  # 0.6 s on an idle machine
        assert suite.n_tasks == 30
        assert sum(len(t.classes) for t in suite.tasks) == 964
        assert "Greek" in suite.task_names
        assert suite.feature_shape == (1, 28, 28)
        assert suite.counts == {"train": 11568, "val": 3856, "test": 3856}
        train = suite.rows("train")
        per_class = torch.bincount(train.task * 100 + train.y.long())
        assert set(per_class[per_class > 0].tolist()) <= {11, 12, 13}  # of 20 drawers
        assert Problem.of(suite).class_mask().sum() == 964

    def test_every_entry_loads(self):
        for name in catalog.names():
            facts = catalog.describe(name)
            if name in catalog.EMBEDDED or name == "omniglot_background":
                continue
            suite = load_suite(name)
            assert suite.n_tasks == facts["tasks"], name
            assert sum(suite.counts.values()) <= facts["rows"], name
            assert torch.isfinite(suite.x).all(), name
