"""What a table means: rows that are counted, times, units, outliers, tasks that cannot be used."""

from __future__ import annotations

import re
import warnings
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from autometa.errors import DataError
from autometa.tasks import TaskSuite
from autometa.tasks.identifiers import identifiers
from tests.small import sales as base


def suite(frame: pd.DataFrame, **options: Any) -> TaskSuite:
    return TaskSuite.from_frame(frame, **{"targets": ["price", "demand", "returned"], **options})


class TestIdentifiers:
    ORDER = np.random.default_rng(1).permutation(300)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("Unnamed: 0", np.arange(300)),
            ("rownames", np.arange(1, 301)),
            ("", ORDER + 1),
            ("id", ORDER * 7 + 1000),
            ("customer_id", ORDER * 3.0),
            ("customerId", ORDER * 7 + 13),
            ("Order ID", [f"C-{k:04d}" for k in ORDER]),
            ("anything", ORDER),
            ("anything", ORDER + 1.0),
        ],
    )
    def test_a_column_that_counts_or_names_the_rows_is_left_out(self, name: str, values: Any):
        made = suite(base().assign(**{name: values}))
        assert not any(feature.startswith(name or "=") for feature in made.encoder.features)
        assert any(note.startswith(f"Column `{name}` is left out") for note in made.notes)
        asks = "--keep" in made.notes[0]
        assert asks is not isinstance(values[0], str)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("year", np.arange(1700, 2000)),
            ("idea", np.linspace(0, 1, 300)),
            ("humid", ORDER * 7 + 13),
            ("id", ORDER % 100),
            ("id", ORDER + 0.5),
            ("paid", ORDER * 3 + 5),
        ],
    )
    def test_other_numbers_stay(self, name: str, values: Any):
        made = suite(base().assign(**{name: values}))
        assert name in made.encoder.features
        assert made.notes == ()

    def test_keep_overrules(self):
        made = suite(base().assign(id=self.ORDER), keep=["id"])
        assert "id" in made.encoder.features
        with pytest.raises(DataError, match=r"Column `ids` \(keep\) is not in the table"):
            suite(base().assign(id=self.ORDER), keep=["ids"])
        with pytest.raises(DataError, match="`price` is given as `keep` and as `targets`"):
            suite(base(), keep=["price"])

    def test_a_model_does_not_ask_for_it_again(self):
        made = suite(base().assign(id=self.ORDER))
        assert made.encoder.encode(base()[:5]).shape == (5, 5)

    def test_what_is_the_only_feature_stays(self):
        frame = pd.DataFrame({"i": np.arange(50), "y": np.arange(50.0) ** 2})
        assert identifiers(frame[["i"]]) == {}
        assert TaskSuite.from_frame(frame, target="y").encoder.features == ("i",)


class TestTime:
    def dated(self) -> pd.DataFrame:
        days = pd.date_range("2020-01-01", periods=300).to_numpy()
        return base().assign(day=days).sample(frac=1, random_state=0, ignore_index=True)

    def test_later_rows_are_for_test(self):
        frame = self.dated()
        made = suite(frame, time_column="day")
        assert made.counts == {"train": 180, "val": 60, "test": 60}
        assert "day" not in made.encoder.features
        order = np.argsort(frame["day"].to_numpy(), kind="stable")
        price = made.tasks[0].restore(made.open_test().y[:, 0].numpy())
        np.testing.assert_allclose(
            np.sort(price), np.sort(frame["price"].to_numpy()[order[240:]]), rtol=1e-5
        )
        price = made.tasks[0].restore(made.rows("val").y[:, 0].numpy())
        np.testing.assert_allclose(
            np.sort(price), np.sort(frame["price"].to_numpy()[order[180:240]]), rtol=1e-5
        )
        assert not made.drawn

    def test_rows_of_one_time_stay_together(self):
        year = np.repeat([2001, 2002, 2003, 2004], 75)
        made = suite(base().assign(year=year), time_column="year")
        assert made.counts == {"train": 150, "val": 75, "test": 75}

    def test_a_dated_table_that_is_split_at_random_says_so(self):
        made = suite(self.dated())
        assert any("rows are split at random" in n and "--time-column day" in n for n in made.notes)

    @pytest.mark.parametrize(
        ("change", "options", "match"),
        [
            ({"day": "soon"}, {}, "should hold dates or numbers. Found text"),
            ({"day": [np.nan] + [1.0] * 299}, {}, "is empty in row 0"),
            ({"day": 5}, {}, "at least 3 different times to be split. Found 1"),
            (
                {},
                {"group_column": "returned", "targets": ["price"]},
                "left out with `group_column`",
            ),
        ],
    )
    def test_what_makes_no_sense(self, change: Any, options: Any, match: str):
        with pytest.raises(DataError, match=match):
            suite(self.dated().assign(**change), time_column="day", **options)


class TestUnits:
    def water(self, **options: Any) -> TaskSuite:
        """Three tasks with units of their own; every fourth row has no label."""
        r = np.random.default_rng(2)
        x = r.normal(size=(360, 4))
        task = np.repeat(["pH", "conductivity", "turbidity"], 120)
        scale = np.repeat([0.5, 300.0, 20.0], 120)
        middle = np.repeat([7.0, 900.0, 40.0], 120)
        y = middle + scale * (x @ r.normal(size=4) / 2 + 0.1 * r.normal(size=360))
        frame = pd.DataFrame(x, columns=list("abcd")).assign(what=task, value=y)
        return TaskSuite.from_frame(frame, target="value", task_column="what", **options)

    def test_each_task_is_standardised_by_itself(self):
        made = self.water()
        by_name = {task.name: task for task in made.tasks}
        assert by_name["pH"].std == pytest.approx(0.5, rel=0.6)
        assert by_name["conductivity"].mean == pytest.approx(900, rel=0.2)
        rows = made.rows("train")
        for number in range(3):
            own = rows.y[rows.task == number]
            assert abs(float(own.mean())) < 1e-5
            assert float(own.std(correction=0)) == pytest.approx(1, abs=1e-5)
        assert any("no unit in common" in note for note in made.notes)

    def test_it_can_be_said(self):
        shared = self.water(task_scale="shared")
        assert len({(task.mean, task.std) for task in shared.tasks}) == 1
        frame = base().assign(shop=np.tile(["a", "b"], 150))
        options: dict[str, Any] = {"targets": None, "target": "price", "task_column": "shop"}
        frame = frame.drop(columns=["demand", "returned"])
        assert len({task.std for task in suite(frame, **options).tasks}) == 1
        assert len({task.std for task in suite(frame, task_scale="own", **options).tasks}) == 2
        with pytest.raises(DataError, match=r"`task_scale` should be one of auto, shared, own"):
            suite(frame, task_scale="each", **options)


class TestExtremes:
    def test_an_outlier_is_named(self):
        frame = base()
        frame.loc[17, "price"] = 1e9
        (note,) = suite(frame).notes
        assert note.startswith("Target `price` holds 1e+09 in row 17")
        assert "--target-scale robust" in note

    def test_robust_standardisation_keeps_the_others_apart(self):
        frame = base()
        frame.loc[17, "price"] = 1e9
        plain, robust = suite(frame), suite(frame, target_scale="robust")
        clean = suite(base())
        assert plain.tasks[0].std > 1e6
        assert robust.tasks[0].std == pytest.approx(clean.tasks[0].std, rel=0.2)
        every = np.concatenate([robust.y[:, 0].numpy(), robust.open_test().y[:, 0].numpy()])
        assert every.max() == 10.0
        assert np.sort(every)[-2] < 5
        assert [note.split(":")[-1] for note in robust.notes] == [" it counts as 10 deviations."]
        with pytest.raises(DataError, match="`target_scale` should be one of standard, robust"):
            suite(frame, target_scale="median")

    @pytest.mark.parametrize("factor", [1e-200, 1e-30, 1.0, 1e30, 1e150, 1e200])
    def test_the_unit_of_a_column_does_not_matter(self, factor: float):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = suite(base().assign(f0=base()["f0"] * factor, price=base()["price"] * factor))
            plain = suite(base())
        np.testing.assert_allclose(made.x.numpy(), plain.x.numpy(), atol=1e-5)
        np.testing.assert_allclose(made.y.numpy(), plain.y.numpy(), atol=1e-5)

    @pytest.mark.parametrize("value", [1e25, 1e60, -1e300])
    def test_a_later_value_that_no_network_can_take_is_named(self, value: float):
        made, later = suite(base()), base()[:10]
        later.loc[[3, 7], "f1"] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match=r"`f1` holds .* in rows 3 and 7, more"):
                made.encoder.encode(later)

    @pytest.mark.parametrize("value", [1e25, 1e60, -1e300])
    @pytest.mark.parametrize("split", ["val", "test"])
    def test_a_target_to_be_judged_by_that_has_no_square_is_named(self, value: float, split: str):
        frame = base().assign(part=["train", "train", "val", "test", "train"] * 60)
        row = 2 if split == "val" else 3
        frame.loc[row, "price"] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match=rf"`price` holds .* in row {row}, .*robust"):
                suite(frame, split_column="part")
            robust = suite(frame, split_column="part", target_scale="robust")
        assert bool(robust.rows("val").y.isfinite().all())


class TestUnusable:
    def shops(self) -> pd.DataFrame:
        """Twenty tasks of 30 rows, of which four cannot be used."""
        r = np.random.default_rng(3)
        frame = pd.DataFrame({"x": r.normal(size=600), "shop": np.repeat(np.arange(20), 30)})
        frame["sold"] = np.where(frame["x"] + r.normal(size=600) > 0, "yes", "no")
        frame.loc[frame["shop"] == 4, "sold"] = "no"
        frame = frame[~(frame["shop"].isin([7, 9]) & (frame.index % 30 > 1))]
        frame.loc[frame["shop"] == 11, "sold"] = None
        return frame

    ROLES: ClassVar[dict[str, Any]] = {"target": "sold", "task_column": "shop"}

    def test_they_are_left_out_and_all_named(self):
        made = TaskSuite.from_frame(self.shops(), **self.ROLES)
        assert made.n_tasks == 16
        assert not {"4", "7", "9", "11"} & set(made.task_names)
        told = " ".join(made.notes)
        assert "`4` has one class only (`no`)" in told
        assert "`7` has no labelled row in the" in told
        assert "split (2 in all); `9` has no labelled" in told
        assert "`11` has no labelled row." in told
        assert set(made.rows("train").task.tolist()) == set(range(16))

    def test_they_can_be_an_error(self):
        with pytest.raises(DataError, match="of 20 tasks cannot be used: `4` has one class.*`7`"):
            TaskSuite.from_frame(self.shops(), unusable="error", **self.ROLES)
        with pytest.raises(DataError, match="`unusable` should be one of drop, error"):
            TaskSuite.from_frame(self.shops(), unusable="warn", **self.ROLES)

    def test_two_have_to_be_left(self):
        frame = self.shops()
        with pytest.raises(DataError, match="2 of 3 tasks cannot be used"):
            TaskSuite.from_frame(frame[frame["shop"].isin([4, 7, 1])], **self.ROLES)

    def test_targets_of_a_table(self):
        frame = base().assign(same=1.0, none=np.nan)
        names = ["price", "demand", "returned", "same", "none"]
        made = suite(frame, targets=names, metrics={"same": "rmse", "price": "rmse"})
        assert made.task_names == ("price", "demand", "returned")
        told = " ".join(made.notes)
        assert "`same` is constant (always `1`)" in told
        assert "`none` has no value" in told
        with pytest.raises(DataError, match="`same` is constant"):
            suite(frame, targets=["price", "same"])

    @pytest.mark.parametrize(
        ("names", "unusable"),
        [(["price", "demand", "same", "few"], "error"), (["price", "same", "few"], "drop")],
    )
    def test_one_message_names_those_without_values_and_those_without_a_split(
        self, names: list[str], unusable: Any
    ):
        frame = base().assign(same=1.0)
        frame["few"] = [1.0, 2.0] + [np.nan] * (len(frame) - 2)
        match = rf"2 of {len(names)} tasks cannot be used: `same` is constant .*; `few` has no lab"
        with pytest.raises(DataError, match=match):
            suite(frame, targets=names, unusable=unusable)
        if unusable == "error":
            (note,) = suite(frame, targets=names).notes
            assert re.match("Left out: " + match, note)


class TestGroups:
    @pytest.mark.parametrize("sizes", [(100, 100, 100), (298, 1, 1), (1, 298, 1), (150, 150, 0)])
    def test_every_split_gets_a_group_first(self, sizes: tuple[int, ...]):
        frame = base().assign(place=np.repeat(["a", "b", "c"], sizes))
        if 0 in sizes:
            with pytest.raises(DataError, match=r"at least 3 groups .* Found 2 \(`a`, `b`\)"):
                suite(frame, group_column="place")
            return
        made = suite(frame, targets=["price", "demand"], drop=["returned"], group_column="place")
        assert sorted(made.counts.values()) == sorted(sizes)

    def test_an_infeasible_task_names_the_groups(self):
        frame = base().assign(place=np.repeat(["a", "b", "c"], 100))
        frame.loc[100:, "demand"] = np.nan
        with pytest.raises(DataError, match=r"Task `demand` has no labelled .* \(100 in all\) "
                           r"\(rows of a group stay together: `a`, `b`, `c`\)"):  # fmt: skip
            suite(frame, targets=["price", "demand"], drop=["returned"], group_column="place")
