"""What a column is, is decided once: by all of the table, and never again by a later file."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.baselines import PEERS
from autometa.errors import DataError, DataWarning
from autometa.model import PeerModel
from autometa.tasks import TaskSuite, load_suite
from autometa.tasks.encoder import encoder_from_json
from autometa.tasks.reading import ReadOptions, read_table
from tests.small import sales

ROWS = 300


@pytest.fixture
def base() -> pd.DataFrame:
    return sales(ROWS)


def linear(suite: TaskSuite) -> PeerModel:
    return PeerModel.of(suite, PEERS["ridge"].fit(suite, {"alpha": 1.0}, seed=0), {})


class TestLaterFiles:
    @pytest.fixture
    def table(self, base, tmp_path):
        """A code that moves the price by 40, in numbers that mean nothing."""
        code = np.random.default_rng(1).choice(
            ["01", "02", "03", "A1"], ROWS, p=[0.3, 0.3, 0.3, 0.1]
        )
        base["code"] = code
        base["price"] += np.where(np.isin(code, ["01", "A1"]), 40, -40)
        base.to_csv(tmp_path / "t.csv", index=False)
        return base

    def test_rows_that_look_like_numbers(self, table, tmp_path):
        model = linear(load_suite(tmp_path / "t.csv", targets=["price", "demand"]))
        rows = table[table["code"] != "A1"][:40]
        rows.to_csv(tmp_path / "later.csv", index=False)
        error = model.predict(tmp_path / "later.csv")["price"].to_numpy() - rows["price"].to_numpy()
        assert np.sqrt(np.mean(error**2)) < 5  # the deviation of the price is 37

    def test_unknown_values_are_counted(self, table, tmp_path):
        model = linear(load_suite(tmp_path / "t.csv", targets=["price", "demand"]))
        rows = table[:40].assign(code=["B7"] * 9 + ["C"] * 3 + ["01"] * 28)
        rows.to_csv(tmp_path / "later.csv", index=False)
        said = r"Column `code`: 12 of 40 values were never seen in training: `B7` \(9\), `C` \(3\)"
        with pytest.warns(DataWarning, match=said):
            model.predict(tmp_path / "later.csv")

    def test_known_values_in_another_case_or_type(self, table, tmp_path):
        suite = load_suite(tmp_path / "t.csv", targets=["price", "demand"])
        as_numbers = table[table["code"] != "A1"].assign(code=lambda t: t["code"].astype(int))
        x, told = suite.encoder.read(as_numbers)
        torch.testing.assert_close(
            x, suite.encoder.encode(table[table["code"] != "A1"]), rtol=0, atol=0
        )
        assert told == ()
        lower = table.assign(code=table["code"].str.lower())
        torch.testing.assert_close(
            suite.encoder.encode(lower), suite.encoder.encode(table), rtol=0, atol=0
        )

    def test_the_type_is_stored(self, table, tmp_path):
        suite = load_suite(tmp_path / "t.csv", targets=["price", "returned"])
        again = encoder_from_json(json.loads(json.dumps(suite.encoder.to_json())))
        assert again == suite.encoder
        code = next(c for c in again.columns if c.name == "code")
        assert code.reading.kind == "category"
        assert code.reading.levels == ("01", "02", "03", "A1")
        loaded = TaskSuite.load(suite.save(tmp_path / "suite"))
        assert loaded.columns == suite.columns
        assert loaded.notes == suite.notes
        assert loaded.columns["returned"].kind == "category"

    def test_suites_and_models_of_earlier_versions(self, table, tmp_path):
        suite = load_suite(tmp_path / "t.csv", targets=["price", "demand"])
        folder = suite.save(tmp_path / "suite")
        facts = json.loads((folder / "suite.json").read_text())
        del facts["columns"], facts["notes"]
        for column in facts["encoder"]["columns"]:
            del column["reading"]
        (folder / "suite.json").write_text(json.dumps(facts))
        loaded = TaskSuite.load(folder)
        assert (loaded.columns, loaded.notes) == ({}, ())
        torch.testing.assert_close(
            loaded.encoder.encode(table), suite.encoder.encode(table), rtol=0, atol=0
        )


class TestNumbersLater:
    @pytest.fixture
    def suite(self, base, tmp_path):
        base["f0"] = [f"{v:.3f}".replace(".", ",") for v in base["f0"]]
        base["f1"] = [f"{v:.1f}%" for v in base["f1"]]
        base.to_csv(tmp_path / "t.csv", index=False, sep=";")
        return load_suite(tmp_path / "t.csv", targets=["price", "demand"])

    def test_points_where_commas_were(self, suite, base):
        later = base.assign(f0=base["f0"].str.replace(",", "."))
        x, told = suite.encoder.read(later)
        torch.testing.assert_close(x, suite.encoder.encode(base), rtol=0, atol=0)
        assert told == ("Column `f0`: numbers with `.`, not `,`; read as such.",)

    def test_no_unit_where_one_was(self, suite, base):
        x, told = suite.encoder.read(base.assign(f1=base["f1"].str.rstrip("%")))
        torch.testing.assert_close(x, suite.encoder.encode(base), rtol=0, atol=0)
        assert told == ("Column `f1`: numbers without `%`, which training had; read as they are.",)

    def test_no_unit_in_some_cells(self, suite, base):
        some = base["f1"].isin(["1.0%", "0.0%"])  # nothing needs no unit
        bare = base["f1"].where(~some, base["f1"].str.rstrip("%"))
        x, told = suite.encoder.read(base.assign(f1=bare))
        torch.testing.assert_close(x, suite.encoder.encode(base), rtol=0, atol=0)
        count = (base["f1"] == "1.0%").sum()
        assert 1 < count < some.sum()
        assert told == (
            f"Column `f1` ({count} cells): numbers without `%`, which training had; read as they "
            "are.",
        )

    def test_commas_where_points_were(self, suite, base):
        later = base.assign(f2=[f"{v:.4f}".replace(".", ",") for v in base["f2"]])
        with pytest.raises(DataError, match=r"`f2` should hold numbers.*`--decimal` says how"):
            suite.encoder.encode(later)
        x, _ = suite.encoder.read(later, ReadOptions.of(decimal=","))
        rounded = base.assign(f2=base["f2"].round(4))
        torch.testing.assert_close(x, suite.encoder.encode(rounded), rtol=0, atol=0)

    def test_new_odd_cells_are_counted(self, suite, base):
        later = base.assign(f2=["high", "high", *map(str, base["f2"][2:])])
        x, told = suite.encoder.read(later)
        empty = base.assign(f2=[None, None, *base["f2"][2:]])
        torch.testing.assert_close(x, suite.encoder.encode(empty), rtol=0, atol=0)
        assert told == ("Column `f2` (2 cells): `high` among numbers count as empty cells.",)


class TestMissing:
    def test_words_and_numbers_that_the_user_lists(self, base, tmp_path):
        base["f0"] = base["f0"].where(base.index % 7 > 0, -200)
        base["country"] = ["NA", "DE", "unknown"] * (ROWS // 3)
        base.to_csv(tmp_path / "t.csv", index=False)
        suite = load_suite(tmp_path / "t.csv", target="price", missing=["-200.0", "unknown", "NA"])
        truth = base.assign(
            f0=base["f0"].where(base["f0"] != -200), country=[None, "DE", None] * (ROWS // 3)
        )
        other = TaskSuite.from_frame(truth, target="price")
        torch.testing.assert_close(suite.x, other.x, rtol=0, atol=0)
        assert not any("country" in remark for remark in suite.notes)
        # a later file means the same without being told again
        torch.testing.assert_close(
            suite.encoder.encode(base), other.encoder.encode(truth), rtol=0, atol=0
        )

    def test_a_whole_number_target_with_marks_is_no_class(self, base, tmp_path):
        base["price"] = [str(round(v)) for v in base["price"]]
        base.loc[::30, "price"] = "?"
        base.to_csv(tmp_path / "t.csv", index=False)
        suite = load_suite(tmp_path / "t.csv", targets=["price", "demand"])
        assert suite.kinds == ("regression", "regression")
        assert "Column `price` (10 cells): `?` among numbers count as empty" in suite.notes[0]

    def test_a_rare_class_is_named(self, base, tmp_path):
        base.loc[:3, "returned"] = "maybe"
        base.to_csv(tmp_path / "t.csv", index=False)
        suite = load_suite(tmp_path / "t.csv", target="returned")
        assert suite.tasks[0].classes == ("maybe", "no", "yes")
        assert suite.notes[0] == (
            "Column `returned` (4 cells): `maybe` is a class of hardly any of its 300 cells; "
            "`--missing maybe` leaves such rows out."
        )
        suite = load_suite(tmp_path / "t.csv", target="returned", missing="maybe")
        assert suite.tasks[0].classes == ("no", "yes")


class TestNamesOfTasks:
    @pytest.fixture
    def suite(self, base, tmp_path):
        base["shop"] = np.resize(["001", "007", "0010", "10"], ROWS)
        base.drop(columns=["demand", "returned"]).to_csv(tmp_path / "t.csv", index=False)
        return load_suite(tmp_path / "t.csv", target="price", task_column="shop")

    def test_codes_are_names(self, suite, base, tmp_path):
        assert set(suite.task_names) == {"001", "007", "0010", "10"}
        model = linear(suite)
        found = model.predict(tmp_path / "t.csv")
        assert found["shop"].tolist() == base["shop"].tolist()

    def test_a_later_file_of_one_task(self, suite, base, tmp_path):
        base[base["shop"] == "001"].to_csv(tmp_path / "later.csv", index=False)
        assert set(linear(suite).predict(tmp_path / "later.csv")["shop"]) == {"001"}

    def test_numbers_that_mean_one_name(self, suite):
        assert suite.task_numbers([1, 7.0]).tolist() == suite.task_numbers(["001", "007"]).tolist()
        # 10 is a name as it is; 0010 is another
        assert suite.task_numbers([10]).tolist() == suite.task_numbers(["10"]).tolist()
        with pytest.raises(DataError, match="names task `1` in row 0"):
            suite.task_numbers(["1"])

    def test_groups_and_splits_are_names(self, base, tmp_path):
        base["patient"] = np.resize([f"{i:03d}" for i in range(30)], ROWS)
        base["part"] = np.where(np.arange(ROWS) % 30 < 20, "train", " Test ")
        base.to_csv(tmp_path / "t.csv", index=False)
        suite = load_suite(
            tmp_path / "t.csv", target="price", group_column="patient", split_column="part"
        )
        assert suite.counts["test"] == 100
        assert suite.columns["patient"].kind == "category"


def test_text_of_a_typed_table_stays_text(base):
    base["code"] = np.resize(["10", "20", "30"], ROWS)
    base["share"] = [f"{v:.2f}".replace(".", ",") for v in base["f1"]]
    suite = TaskSuite.from_frame(base, target="price")
    assert {"code=10", "code=20", "code=30", "share"} <= set(suite.encoder.features)


def test_decimal_sign_of_the_table_decides_what_one_column_leaves_open(base, tmp_path):
    base = base[["f0", "price", "demand"]].copy()
    base["open"] = [f"{1 + i % 9},{i % 900:03d}" for i in range(ROWS)]
    for name in ("f0", "price", "demand"):
        base[name] = [f"{v:.4f}".replace(".", ",") for v in base[name]]
    base.to_csv(tmp_path / "t.csv", index=False, sep=";")
    suite = load_suite(tmp_path / "t.csv", targets=["price", "demand"])
    column = next(c for c in suite.encoder.columns if c.name == "open")
    assert (column.reading.decimal, column.reading.thousands) == (",", "")
    assert any("could be 1 or 1000" in remark for remark in suite.notes)


@pytest.mark.parametrize("bits", ["float32", "float64"])
def test_32_and_64_bits_of_one_column(base, tmp_path, bits):
    base["f0"] = base["f0"].astype("float32")
    base.to_csv(tmp_path / "t.csv", index=False)
    written = pd.read_csv(tmp_path / "t.csv")
    suite = TaskSuite.from_frame(base if bits == "float32" else written, target="price")
    whole = suite.encoder.encode(base)
    for table in (written, read_table(tmp_path / "t.csv").frame):
        torch.testing.assert_close(suite.encoder.encode(table), whole, rtol=0, atol=0)
