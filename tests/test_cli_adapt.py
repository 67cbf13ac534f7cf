"""`autometa adapt` and what `predict` does with the model it leaves."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from autometa.cli import app
from autometa.model import Model
from tests.meta_models import make_images, make_meta
from tests.model.test_model import train
from tests.small import make_suite, make_table


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with models that can take new tasks."""
    folder = tmp_path_factory.mktemp("home") / "models"
    make_meta("bayesian").save(folder / "sizes")
    make_meta("metric", "species").save(folder / "trees")
    make_meta("metric", "species", images=True).save(folder / "pictures")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Labelled rows of a new task."""
    path = tmp_path / "new.csv"
    make_table(14)[["a", "b", "c", "size"]].to_csv(path, index=False)
    return path


def run(models: Path, *words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--home", str(models.parent)])


def refused(result: Result) -> str:
    """The one sentence of an error."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    return line


def test_adapt_then_predict_with_intervals(models: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "site 12"
    result = run(models, "adapt", "sizes", table, "--out", out)
    assert result.exit_code == 0, result.stderr
    first, second, third = result.stdout.splitlines()
    assert first.startswith("Learned `size` from 12 rows (2 without a label left out); RMSE on")
    assert second == f"Model: {out}"
    assert third.split()[:2] == ["autometa", "predict"]
    assert result.stderr.strip() == "Note: Trained to learn from 4 rows, this task has 12."
    new = tmp_path / "rows.csv"
    make_table(6, seed=5)[["a", "b", "c"]].to_csv(new, index=False)
    printed = run(models, "predict", out, new, "--interval", "0.9")
    assert printed.exit_code == 0, printed.stderr
    found = pd.read_csv(StringIO(printed.stdout))
    model = Model.load(models / "sizes").adapt(pd.read_csv(table))
    wanted = model.predict(pd.read_csv(new), interval=0.9)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-6)
    assert (found["size_lower"] < found["size"]).all()
    rows = json.loads(run(models, "predict", out, new, "--interval", "0.9", "--json").stdout)
    assert list(rows["predictions"][0]) == ["size", "size_lower", "size_upper"]


def test_json(models: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted"
    result = run(models, "adapt", "sizes", table, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert (found["model"], found["from"]) == (str(out), str(models / "sizes"))
    assert found["rows"] == 12
    assert found["fit"] == Model.load(out).facts["adapted"]["fit"]
    assert run(models, "adapt", "sizes", table, "--out", out, "--json").stdout == result.stdout


def test_classes_are_counted(models: Path, tmp_path: Path) -> None:
    rows = make_table(12)[["a", "b", "c"]].assign(kind=["oak", "elm"] * 6)
    path = tmp_path / "new.parquet"
    rows.to_parquet(path)
    words = ["adapt", "trees", path, "--out", tmp_path / "m", "--target", "kind"]
    result = run(models, *words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Learned `kind` from 12 rows (elm 6, oak 6); ")
    assert "% of them are told right." in result.stdout
    assert "Note: Trained on tasks of 3 classes, this one has 2." in result.stderr
    chances = run(models, "predict", tmp_path / "m", path, "--proba", "--json")
    assert list(json.loads(chances.stdout)["predictions"][0]) == ["kind=elm", "kind=oak"]


@pytest.mark.parametrize(
    ("inputs", "labels", "words"),
    [("x", "y", []), ("images", "species", []), ("X", "what", ["--target", "what"])],
)
def test_images(models: Path, tmp_path: Path, inputs: str, labels: str, words: list[str]) -> None:
    x, y = make_images()
    np.savez(tmp_path / "new.npz", **{inputs: x, labels: y})
    out = tmp_path / "m"
    result = run(models, "adapt", "pictures", tmp_path / "new.npz", "--out", out, *words)
    assert result.exit_code == 0, result.stderr
    assert "(dim 4, grey 4, light 4)" in result.stdout
    found = json.loads(run(models, "predict", out, tmp_path / "new.npz", "--json").stdout)
    name = words[-1] if words else "species"
    assert {row[name] for row in found["predictions"]} <= set(y)


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        (lambda t: t.drop(columns="b"), [], "lacks column `b`"),
        (lambda t: t, ["--target", "sise"], "`sise`, which should hold the labels"),
        (lambda t: t.rename(columns={"size": "weight"}), [], "`--target`): it has weight."),
        (lambda t: t.iloc[:0], [], "has no rows"),
        (lambda t: t.assign(size=None), [], "`size` has no value"),
        (lambda t: t.assign(size="big"), [], "`size` should hold numbers. Found text."),
        (lambda t: t.assign(a="many"), [], "`a` should hold numbers, as in training"),
        (lambda t: t, ["--target", "a"], "Column `a` is a feature"),
        (lambda t: t, ["--steps", "-1"], "`--steps` should be at least 0. Found `-1`."),
        (lambda t: t, ["--steps", "3"], "Found `adaptation.kind = bayesian`."),
    ],
)
def test_rows_that_cannot_be_learned_from(
    models: Path, table: Path, tmp_path: Path, change, words: list[str], told: str
) -> None:
    change(pd.read_csv(table)).to_csv(table, index=False)
    result = run(models, "adapt", "sizes", table, "--out", tmp_path / "m", *words)
    assert told in refused(result)
    assert not (tmp_path / "m").exists()


def test_classes_and_images_that_cannot_be_learned_from(models: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "new.csv", tmp_path / "m"
    make_table(8)[["a", "b", "c"]].assign(species="ash").to_csv(path, index=False)
    assert "at least two classes" in refused(run(models, "adapt", "trees", path, "--out", out))
    x, y = make_images()
    for arrays, told in (
        ({"x": x[..., :4], "y": y}, "Images should have shape [rows, 2, 6, 5]."),
        ({"x": x.astype(str), "y": y}, "Images should hold numbers."),
        ({"x": x}, "should hold labels in an array `y`"),
        ({"y": y}, "should hold an array `x`"),
        ({"x": x, "y": y[:5]}, "one label for each of the 12 rows"),
    ):
        np.savez(tmp_path / "new.npz", **arrays)
        found = run(models, "adapt", "pictures", tmp_path / "new.npz", "--out", out)
        assert told in refused(found)
    named = ["adapt", "pictures", tmp_path / "new.npz", "--out", out, "--target", "yy"]
    assert "Array `yy`, which should hold the labels," in refused(run(models, *named))
    np.save(tmp_path / "new.npy", x)
    found = run(models, "adapt", "pictures", tmp_path / "new.npy", "--out", out)
    assert "has no labels" in refused(found)


def test_where_it_is_written(models: Path, table: Path, tmp_path: Path) -> None:
    assert "`--out`" in refused(run(models, "adapt", "sizes", table, "--out", table))
    same = run(models, "adapt", "sizes", table, "--out", models / "sizes")
    assert "another folder than `MODEL`" in refused(same)
    assert Model.load(models / "sizes").tasks == ()
    assert "Missing option '--out'" in refused(run(models, "adapt", "sizes", table))


def test_a_model_of_many_tasks_is_not_overwritten(
    models: Path, table: Path, tmp_path: Path
) -> None:
    line = refused(run(models, "adapt", "sizes", table, "--out", models / "trees"))
    assert "`--out` should not be the folder of a model of many tasks" in line
    assert not Model.load(models / "trees").tasks
    out = tmp_path / "one row"
    one = tmp_path / "one.csv"
    one.write_text("\n".join(table.read_text().splitlines()[:2]) + "\n")
    for rows, words in ((table, "from 12 rows"), (one, "from 1 row;")):
        again = run(models, "adapt", "sizes", rows, "--out", out)
        assert again.exit_code == 0, again.stderr
        assert words in again.stdout


def test_models_that_cannot(models: Path, table: Path, tmp_path: Path) -> None:
    assert "Did you mean `sizes`" in refused(run(models, "adapt", "size", table, "--out", "m"))
    assert "adapt it to a few labelled rows first" in refused(
        run(models, "predict", "sizes", table)
    )
    train(make_suite(), epochs=1).save(tmp_path / "joint")
    joint = run(models, "adapt", tmp_path / "joint", table, "--out", tmp_path / "m")
    assert "Search or train with `--episodic`" in refused(joint)
    told = refused(run(models, "predict", tmp_path / "joint", table, "--interval", "0.9"))
    assert "nothing is known of the model's errors" in told
    adapted = tmp_path / "m"
    assert run(models, "adapt", "sizes", table, "--out", adapted).exit_code == 0
    again = run(models, "adapt", adapted, table, "--out", tmp_path / "n")
    assert "adapted to `size` already" in refused(again)
    told = refused(run(models, "predict", adapted, table, "--interval", "90"))
    assert "Found `interval = 90.0`." in told
