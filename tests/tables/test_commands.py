"""The options of the commands that read tables, and what they print of them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

from autometa.cli import app
from autometa.tasks import EpisodicSuite, TaskSuite, load_suite
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.reading import read_table
from autometa.tasks.support import NewTask, read_support

ROWS = 120


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=ROWS), "price, net": rng.normal(size=ROWS)})
    frame["kind=x"] = np.resize(["yes", "no"], ROWS)
    frame["shop"] = np.resize(["001", "1", "NA"], ROWS)
    for name in ("a", "price, net"):
        frame[name] = [f"{v:.3f}".replace(".", ",") for v in frame[name]]
    return frame


@pytest.fixture
def table(frame: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False, sep=";", encoding="cp1252")
    return path


def test_train_and_predict(table: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    home = ("--home", tmp_path)
    words = ["train", table, "--target", "price, net", "--target", "kind=x", "--max-steps", 2]
    words += ["--kind", "kind=x=binary", "--missing", "NA", "--out", tmp_path / "model", *home]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    first, *rest = result.stdout.splitlines()
    assert first == "The table:"
    assert "  Columns `a`, `price, net`: numbers with decimal commas, read as numbers." in rest
    assert not any("`NA`" in line for line in rest)
    result = run(*words, "--json")
    remarks = json.loads(result.stdout)["notes"]
    assert [f"  {remark}" for remark in remarks] == rest[: len(remarks)]
    later = tmp_path / "later.csv"
    frame.assign(shop="b", a=frame["a"].str.replace(",", ".")).to_csv(later, index=False)
    result = run("predict", tmp_path / "model", later, "--tasks", "price, net,kind=x", *home)
    assert result.exit_code == 0, result.stderr
    assert list(pd.read_csv(StringIO(result.stdout))) == ["price, net", "kind=x"]
    assert result.stderr.splitlines() == [
        "Note: Column `a`: numbers with `.`, not `,`; read as such.",
        "Note: Column `shop`: 120 of 120 values were never seen in training: `b`.",
    ]
    frame.assign(a="1;5").to_csv(later, index=False, sep="|")
    result = run("predict", tmp_path / "model", later, "--sep", "|", *home)
    assert result.exit_code == 2
    assert "Column `a` should hold numbers, as in training. Found text such as `1;5`" in (
        result.stderr
    )


def test_tasks_keep_their_names(table: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path)
    result = run("train", table, "--target", "price, net", "--task-column", "shop", "--max-steps",
                 2, "--out", tmp_path / "model", *home)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "(40 cells): `NA` read as values among texts; `--missing NA`" in result.stdout
    result = run("predict", tmp_path / "model", table, "--out", tmp_path / "p.csv", *home)
    found = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    assert found["shop"].tolist()[:4] == ["001", "1", "NA", "001"]


def test_options_that_cannot_be(table: Path, tmp_path: Path) -> None:
    for words, said in (
        (["--decimal", ";"], "`decimal` should be `.` or `,`. Found `decimal = ;`"),
        (["--encoding", "klingon"], "Found `encoding = klingon`"),
        (["--targets", "a", "--target", "b", "--target", "c"], "Give either `--targets` or"),
    ):
        result = run("train", table, "--target", "a", *words, "--home", tmp_path)
        assert result.exit_code == 2
        assert said in result.stderr


class TestANewTask:
    @pytest.fixture
    def suite(self, frame: pd.DataFrame, tmp_path: Path) -> TaskSuite:
        frame["shop"] = np.resize([f"{i:03d}" for i in range(12)], ROWS)
        frame.drop(columns="kind=x").to_csv(tmp_path / "t.csv", index=False, sep=";")
        return load_suite(tmp_path / "t.csv", target="price, net", task_column="shop")

    def test_is_read_as_those_of_training(self, suite, frame, tmp_path) -> None:
        episodes = EpisodicSuite.from_suite(suite, EpisodeShape(shots=3, queries=3))
        new = NewTask.from_json(json.loads(json.dumps(NewTask.of(episodes).to_json())))
        assert new.reading is not None
        assert new.reading.decimal == ","
        # three rows whose commas could part thousands, one that is no number
        rows = frame.iloc[:5].assign(shop="099")
        rows["price, net"] = ["1,234", "0,500", "-", "2,000", "x"]
        rows.to_csv(tmp_path / "new.csv", index=False)
        found = read_support(new, episodes.encoder, read_table(tmp_path / "new.csv"))
        assert found.group == "099"
        assert found.unlabelled == 2
        np.testing.assert_allclose(found.task.restore(found.y.numpy()), [1.234, 0.5, 2.0], 1e-5)
        assert found.remarks == (
            "Column `price, net` (1 cell): `x` among numbers count as empty cells.",
        )
        assert EpisodicSuite.load(episodes.save(tmp_path / "s")).columns == episodes.columns
        assert torch.equal(found.x, episodes.encoder.encode(rows)[[0, 1, 3]])

    def test_of_another_name_is_what_it_is(self, suite, frame, tmp_path) -> None:
        episodes = EpisodicSuite.from_suite(suite, EpisodeShape(shots=3, queries=3))
        rows = frame.iloc[:4].assign(shop="099", cost=["1.5 €", "2.5 €", "4 €", "9.25 €"])
        rows = rows.drop(columns="price, net")
        found = read_support(NewTask.of(episodes), episodes.encoder, rows, target="cost")
        np.testing.assert_allclose(found.task.restore(found.y.numpy()), [1.5, 2.5, 4, 9.25], 1e-5)
        assert found.remarks == ("Column `cost`: numbers with the unit `€`, read as numbers.",)
