"""Every mistake a user can make with data gets one sentence that names it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from autometa.errors import DataError
from autometa.tasks import TaskSuite, load_suite


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.random(60),
            "y": rng.random(60),
            "z": rng.random(60),
            "label": ["a", "b", "c"] * 20,
            "shop": ["n", "s"] * 30,
        }
    )


def fails(frame, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        TaskSuite.from_frame(frame, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    assert caught.value.exit_code == 2


class TestRoles:
    def test_target_misspelt(self, frame):
        fails(frame, r"`lable` \(targets\) is not in the table. Did you mean `label`\?",
              targets=["lable"])  # fmt: skip

    def test_task_column_misspelt(self, frame):
        fails(frame, r"`shp` \(task_column\).*Did you mean `shop`", target="y", task_column="shp")

    @pytest.mark.parametrize("role", ["split_column", "group_column"])
    def test_other_column_misspelt(self, frame, role):
        fails(frame, rf"`nope` \({role}\) is not in the table", target="y", **{role: "nope"})

    def test_drop_misspelt(self, frame):
        fails(frame, r"`xx` \(drop\)", target="y", drop=["xx"])

    def test_no_target(self, frame):
        fails(frame, "Which columns are to be predicted", task_column="shop")

    def test_both_ways_of_naming_targets(self, frame):
        fails(frame, "either `targets`", targets=["y"], target="z")

    def test_empty_targets(self, frame):
        fails(frame, "at least one column", targets=[])

    def test_target_twice(self, frame):
        fails(frame, "`y` appears twice in `targets`", targets=["y", "y"])

    def test_several_targets_with_a_task_column(self, frame):
        fails(frame, "should be one target. Found 2", targets=["y", "z"], task_column="shop")

    def test_column_with_two_roles(self, frame):
        fails(frame, "given as `targets` and as `task_column`", target="shop", task_column="shop")
        fails(frame, "given as `targets` and as `drop`", target="y", drop=["y"])

    def test_kinds_and_metrics(self, frame):
        fails(frame, "`kinds` names `ww`, which is no task", target="y", kinds={"ww": "binary"})
        fails(frame, r"Found `kinds = \['binary'\]`", target="y", kinds=["binary"])
        fails(frame, r"Found `binry`. Did you mean `binary`", target="y", kinds="binry")
        fails(frame, "two values to be binary. Found 3", target="label", kinds="binary")
        fails(frame, "should hold numbers for regression", target="label", kinds="regression")
        fails(frame, r"Metric of task `label` \(multiclass\)", target="label", metrics="auc")
        fails(frame, "should be one of rmse, accuracy, auc. Found `r2`", target="y", metrics="r2")
        mixed = ["y", "label"]
        fails(frame, r"Metric of task `y` \(regression\)", targets=mixed, metrics="auc")


class TestTable:
    def test_no_rows(self, frame):
        fails(frame[:0], "no rows", target="y")

    def test_no_frame(self):
        fails([[1, 2]], "pandas DataFrame. Found `list`", target="y")

    def test_duplicate_columns(self, frame):
        fails(frame.set_axis(["x", "x", "z", "label", "shop"], axis=1), "`x` appears twice",
              target="z")  # fmt: skip

    def test_constant_target(self, frame):
        fails(frame.assign(y=3), r"`y` is constant \(always `3`\)", target="y")
        fails(frame.assign(y="a"), r"`y` is constant", targets=["z", "y"])

    def test_target_constant_on_training_rows(self, frame):
        part = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
        y = [0.0] * 40 + list(np.arange(20.0))
        fails(frame.assign(part=part, y=y), "`y` is constant on its training rows", target="y",
              split_column="part")  # fmt: skip

    def test_all_missing_target(self, frame):
        fails(frame.assign(y=np.nan), "`y` has no value at all", targets=["z", "y"])

    def test_mixed_labels(self, frame):
        fails(frame.assign(y=[1, "a"] * 30), "`y`.*labels of one type. Found int, str", target="y")

    def test_dates_as_target(self, frame):
        fails(frame.assign(y=pd.date_range("2020-01-01", periods=60)), "holds dates", target="y")

    def test_free_text_target(self, frame):
        long = pd.concat([frame] * 3, ignore_index=True)
        long["y"] = [f"note {i}" for i in range(180)]
        fails(long, "180 different texts", target="y")

    def test_free_text_features_are_named_together(self, frame):
        long = pd.concat([frame] * 3, ignore_index=True)
        long["note"] = [f"note {i}" for i in range(180)]
        long["code"] = [f"no {i}" for i in range(180)]
        fails(long, r"free text .* columns `note`, `code`; drop it \(drop=\['note', 'code'\]",
              target="y")  # fmt: skip
        assert TaskSuite.from_frame(long, target="y", drop=["note", "code"]).n_tasks == 1

    @pytest.mark.parametrize("column", ["x", "y"])
    def test_infinite(self, frame, column):
        frame.loc[7, column] = np.inf
        fails(frame, rf"`{column}` holds an infinite number \(row 7\)", target="y")

    def test_lists_in_cells(self, frame):
        fails(frame.assign(x=[[1]] * 60), "`x` holds a `list` in a cell", target="y")

    def test_no_feature_left(self, frame):
        fails(frame[["y"]], "no usable feature", target="y")
        fails(frame[["y"]].assign(c=1), "no usable feature", target="y")


class TestSplits:
    def test_unknown_split_value(self, frame):
        part = ["train"] * 40 + ["tset"] * 20
        fails(frame.assign(part=part), "Found `tset` in row 40. Did you mean `test`", target="y",
              split_column="part")  # fmt: skip

    def test_no_test_rows(self, frame):
        fails(frame.assign(part=["train", "val"] * 30), "marks no row as `test`", target="y",
              split_column="part")  # fmt: skip

    def test_task_without_rows_in_a_split_is_named(self, frame):
        frame["part"] = ["train"] * 36 + ["val"] * 12 + ["test"] * 12
        frame.loc[36:47, "z"] = np.nan
        fails(frame, "Task `z` has no labelled row in the val split", targets=["y", "z"],
              split_column="part")  # fmt: skip

    def test_tiny_grouped_task_is_named(self, frame):
        frame.loc[:1, "shop"] = "tiny"
        fails(frame, r"Task `tiny` has no labelled row in the test split \(2 in all\)",
              target="y", task_column="shop", unusable="error")  # fmt: skip

    def test_task_with_one_class_is_named(self, frame):
        frame["ill"] = np.where(frame["shop"] == "n", "no", ["yes", "no", "no"] * 20)
        frame.loc[frame["shop"] == "n", "ill"] = "no"
        fails(frame, r"Task `n` has one class only \(`no`\)", target="ill", task_column="shop")

    def test_group_in_two_splits(self, frame):
        frame["part"] = ["train"] * 36 + ["val"] * 12 + ["test"] * 12
        fails(frame, "has rows in two splits", target="y", split_column="part",
              group_column="shop")  # fmt: skip

    def test_too_few_groups(self, frame):
        fails(frame, "at least 3 groups to be split. Found 2", target="y", group_column="shop")

    @pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.6, 0.4, 0.0), (0.6, 0.6, 0.2)])
    def test_fractions(self, frame, fractions):
        fails(frame, "`fractions` should be three positive numbers", target="y",
              fractions=fractions)  # fmt: skip

    def test_seed(self, frame):
        fails(frame, "Found `seed = -1`", target="y", seed=-1)

    def test_test_table(self, frame):
        fails(frame, "test table lacks column `x`", target="y", test=frame.drop(columns="x"))
        fails(frame, "test table has no rows", target="y", test=frame[:0])
        fails(frame, "does not exist", target="y", test="no/such.csv")
        fails(frame, "test table has task `new`", target="y", task_column="shop",
              test=frame.assign(shop="new"))  # fmt: skip
        both = frame.assign(part=["train", "val", "test"] * 20)
        fails(both, "keep one of them", target="y", split_column="part", test=both)

    def test_empty_cells_in_roles(self, frame):
        frame.loc[3, "shop"] = None
        fails(frame, "`shop` is empty in row 3", target="y", task_column="shop")
        fails(frame, "`shop` has empty cells", target="y", group_column="shop")


class TestArrays:
    def test_shapes(self):
        x, y = np.random.default_rng(0).random((30, 4)), np.arange(30.0)
        cases = [
            ((x[0], y), {}, "`X` should have shape"),
            ((x, y[:29]), {}, "`Y` should have one row for each of the 30 rows"),
            ((x, np.zeros((30, 2, 2))), {}, "`Y` should have shape"),
            ((x, y), {"names": ["a", "b"]}, "`names` should have 1 names"),
            ((x, np.stack([y, y], 1)), {"task": y}, "should have one column. Found 2"),
            ((np.zeros((30, 8, 8, 3)), y), {}, "channels first"),
            ((np.zeros((30, 8, 8)), y), {}, "training images are equal"),
            ((np.full((30, 8, 8), np.nan), y), {}, "finite"),
        ]
        for args, options, match in cases:
            with pytest.raises(DataError, match=match):
                TaskSuite.from_arrays(*args, **options)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content", "match"),
        [
            ("notes.doc", b"Dear diary, today", "should be a table .*Found suffix `.doc`"),
            ("notes.csv", b"Dear diary\ntoday, I went, out\nand, then,,, more\n", "not a table"),
            ("empty.csv", b"", "is empty"),
            ("binary.csv", bytes(range(128, 256)) * 20, "not a table"),
            ("twice.csv", b"a,b,a\n1,2,3\n", "`a` appears twice"),
            ("bad.parquet", b"not parquet", "not a readable Parquet"),
            ("bad.npz", b"not npz", "not a readable npz"),
        ],
    )
    def test_not_a_table(self, tmp_path, name, content, match):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=match) as caught:
            load_suite(tmp_path / name, targets=["a"])
        assert "\n" not in str(caught.value)

    def test_prose_that_reads_as_one_column(self, tmp_path):
        (tmp_path / "prose.csv").write_text("Dear diary\ntoday I went out\n")
        with pytest.raises(DataError, match=r"`y` .* is not in the table"):
            load_suite(tmp_path / "prose.csv", target="y")

    def test_pickles_are_refused(self, tmp_path):
        np.savez(tmp_path / "p.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
        with pytest.raises(DataError, match=r"plain arrays"):
            load_suite(tmp_path / "p.npz")

    def test_missing(self, tmp_path, monkeypatch):
        monkeypatch.delenv("AUTOMETA_DATA", raising=False)
        with pytest.raises(DataError, match=r"does not exist"):
            load_suite(tmp_path / "no.csv", target="y")
        with pytest.raises(DataError, match=r"Did you mean `multidigits`.*AUTOMETA_DATA"):
            load_suite("multidigit")
        with pytest.raises(DataError, match=r"fixed but for its seed. Found option `drop`"):
            load_suite("multidigits", drop=["x"])
        with pytest.raises(DataError, match=r"`sed` is not known. Did you mean `seed`"):
            load_suite("multidigits", sed=1)

    def test_data_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AUTOMETA_DATA", str(tmp_path))
        with pytest.raises(DataError, match=r"readable datasets.json"):
            load_suite("school")
        (tmp_path / "datasets.json").write_text('{"s": {"file": "s.csv", "layout": "odd"}}')
        with pytest.raises(DataError, match=r"Entry `s` .* is not valid .`layout`"):
            load_suite("s")
        (tmp_path / "datasets.json").write_text(
            '{"s": {"file": "s.csv", "layout": "multi_target", "targets": ["y"]}}'
        )
        with pytest.raises(DataError, match=r"listed in datasets.json, does not exist"):
            load_suite("s")

    @pytest.mark.parametrize(
        ("yaml", "match"),
        [
            (
                "data: d.csv\ntagret: y\n",
                "`s.suite.yaml.tagret` is not known. Did you mean `target`",
            ),
            ("target: y\n", "`s.suite.yaml.data` is missing"),
            ("data: [\n", "not valid YAML"),
            ("- 1\n", "should be a YAML mapping"),
            (
                "data: d.csv\ntarget: y\nlayout: grouped\n",
                "`layout` .* is `grouped`, but its columns make it aligned",
            ),
            ("data: nope.csv\ntarget: y\n", "does not exist"),
        ],
    )
    def test_suite_yaml(self, tmp_path, frame, yaml, match):
        frame.to_csv(tmp_path / "d.csv", index=False)
        (tmp_path / "s.suite.yaml").write_text(yaml)
        with pytest.raises(DataError, match=match):
            load_suite(tmp_path / "s.suite.yaml")
