"""`autometa search --prior`: what it prints, and mistakes, one sentence each."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import optuna
import pandas as pd
import pytest
from typer.testing import CliRunner

from autometa.cli import app
from autometa.home import Home
from tests.searching.support import SPACE, small_suite
from tests.test_api_priors import record, shelve

pytestmark = pytest.mark.usefixtures("short_judgement")


@pytest.fixture
def words(home: Path, tmp_path: Path) -> list[str]:
    """A search that takes seconds."""
    suite = small_suite()
    rows = suite.rows("train")
    frame = pd.DataFrame(rows.x.numpy(), columns=list("abcd"))
    frame[["up", "down"]] = rows.y[:, :2].numpy()
    table, space = tmp_path / "small.csv", tmp_path / "space.yaml"
    frame.to_csv(table, index=False)
    space.write_text(SPACE)
    return [
        "search", str(table), "--targets", "up,down", "--space", str(space), "--n-trials", "4",
        "--max-epochs", "3", "--workers", "0", "--device", "cpu", "--no-diagnosis",
        "--mlflow-tracking-uri", "off",
    ]  # fmt: skip


def test_what_the_prior_did_is_printed(words: list[str], home: Path) -> None:
    shelve(home, record("first"))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert "Learning from 1 earlier search: first-00000000" in done.stderr
    lines = done.stdout.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("Prior: ")]
    assert lines[at].startswith(
        "Prior: neutral. Earlier searches proposed 2 of 4 trials (2 from the portfolio, 0 by the "
        "model), 2 were prior-free (best on validation: "
    )
    assert lines[at + 1].split()[:3] == ["learned", "from", "suite"]
    assert lines[at + 2].split()[:2] == ["first-00000000", "made-up"]
    shown = CliRunner().invoke(app, ["trials", "small-1"]).stdout.splitlines()
    assert shown[0].split() == ["trial", "state", "arm", "value", "proposed", "by", "parameters"]
    assert sum("portfolio" in line for line in shown) == 2
    again = CliRunner().invoke(app, [*words, "--study-name", "small-1", "--resume", "--json"])
    assert json.loads(again.stdout)["prior"]["proposed"]["portfolio"] == 2


def test_nothing_to_learn_from_is_said_and_off_is_not(words: list[str]) -> None:
    off = CliRunner().invoke(app, [*words, "--prior", "off"])
    assert off.exit_code == 0, off.stderr
    assert "Prior" not in off.stdout
    words[words.index("--n-trials") + 1] = "2"
    fresh = [*words, "--home", str(Home.find().root.parent / "fresh")]
    assert "\nPrior: no earlier search to learn from.\n" in CliRunner().invoke(app, fresh).stdout


def test_mistakes(words: list[str], home: Path, tmp_path: Path) -> None:
    shelve(home, record("first"))
    url = f"sqlite:///{tmp_path}/down.db"
    optuna.create_study(study_name="down", storage=url)
    hostile = tmp_path / "hostile.prior"
    with zipfile.ZipFile(hostile, "w") as file:
        file.writestr("prior.json", "{}")
        file.writestr("../../evil", "x")
    text = tmp_path / "text.prior"
    text.write_text("no zip")
    strange = tmp_path / "strange.db"
    other = optuna.create_study(storage=f"sqlite:///{strange}", direction="maximize")
    other.optimize(lambda trial: trial.suggest_float("alpha", 0, 1), n_trials=5)
    for given, *parts in [
        ("frist-00000000", "Found `prior = frist-00000000`", "Did you mean `first-00000000`?"),
        (str(tmp_path / "absent.prior"), "or a prior file", "absent.prior"),
        (str(text), "is not a prior: it should be a zip file"),
        (str(hostile), "should hold prior.json and trials.parquet only", "`../../evil`"),
        (url, "should name studies that maximise one value", "Study `down` does not"),
        (f"{url}#dwon", "Did you mean `down`?"),
        (f"sqlite:///{strange}", "a parameter of", "at least three finished trials"),
        (f"sqlite:///{tmp_path}/absent.db", "There is no database"),
        ("first-00000000 --sampler gp", "`auto` or `off` with `sampler = gp`"),
        ("first-00000000 --cost parameters", "`auto` or `off` with `cost = parameters`"),
    ]:
        result = CliRunner().invoke(app, [*words, "--prior", *given.split(" ")])
        assert result.exit_code == 2, (given, result.stdout, result.stderr)
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        for part in parts:
            assert part in result.stderr, given
    assert not Home.find().studies.exists(), "before any work"
    assert not (tmp_path / "absent.db").exists()
    assert not list(tmp_path.parent.rglob("evil"))
