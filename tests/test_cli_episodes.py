"""Searches in episodes on the command line: help, mistakes, what is printed, kept and tracked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

import autometa
from autometa.cli import app
from autometa.cli.search import resume_command
from tests.test_api_episodes import SPACE

SMALL = [
    *("--episodic", "--shots", "5", "--n-trials", "2", "--max-epochs", "1", "--workers", "0"),
    *("--device", "cpu"),
]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A home folder with the finished study `waves` on sinusoids, and what was printed."""
    home = tmp_path_factory.mktemp("home")
    (home / "space.yaml").write_text(SPACE)
    words = ["sinusoid", *SMALL, "--space", str(home / "space.yaml"), "--study-name", "waves"]
    return home, run("search", *words, "--home", str(home))


def test_what_was_found_is_printed(searched: tuple[Path, Result]) -> None:
    home, result = searched
    assert result.exit_code == 0, result.stderr
    out = result.stdout
    assert out.startswith("Study waves: 2 trials (2 completed")
    assert re.search(r"on sinusoid \(5 support rows; \d+ episodes of 100 held-out tasks\)", out)
    for words in (
        "training from scratch on the support rows",
        "ridge regression on the support rows",
        "one ridge regression of all training tasks, not adapted",
        "gradient-boosted trees of all training tasks, not adapted",
    ):
        assert any(line.startswith(words) for line in out.splitlines()), words
    assert "Held-out tasks (RMSE):" in out
    assert "88 more tasks; --json has them all." in out
    assert "do not match" not in out
    assert f"autometa adapt {home / 'models' / 'waves'} NEW_TASK.csv --out ADAPTED" in out
    assert "autometa diagnose" not in out


def test_the_study_can_be_looked_at_and_is_not_diagnosed(
    searched: tuple[Path, Result], tmp_path: Path
) -> None:
    home = str(searched[0])
    trials = run("trials", "waves", "--home", home)
    assert trials.exit_code == 0, trials.stderr
    assert "adaptation.kind=" in trials.stdout
    best = run("best", "waves", "--arm", "independent", "--home", home, "--json")
    (row,) = json.loads(best.stdout)["arms"].values()
    assert row["config"]["adaptation.kind"] == "finetune"
    assert row["config"]["sharing.kind"] == "independent"
    file = tmp_path / "best.yaml"
    written = run("best", "waves", "--out", str(file), "--home", home).stdout
    flags = "--episodic --shots 5 --queries 15"
    assert f"train it with `autometa train SUITE {flags} --config {file}`" in " ".join(
        written.split()
    )
    diagnosed = run("diagnose", "waves", "--home", home)
    assert diagnosed.exit_code == 2
    assert "is one of episodes, which have no diagnosis" in diagnosed.stderr


def test_the_model_takes_a_new_task(searched: tuple[Path, Result], tmp_path: Path) -> None:
    home = searched[0]
    table = tmp_path / "new.csv"
    table.write_text("x0,y\n-2,0.1\n-1,0.9\n0,0.2\n1,-0.8\n2,-0.4\n")
    adapted = run(
        "adapt", str(home / "models" / "waves"), str(table), "--out", str(tmp_path / "adapted")
    )
    assert adapted.exit_code == 0, adapted.stderr
    assert len(autometa.load_model(tmp_path / "adapted").tasks) == 1


def test_mlflow_has_the_episodes_the_methods_and_the_verdict(
    searched: tuple[Path, Result],
) -> None:
    home, result = searched
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "autometa"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if r.data.tags["autometa.role"] == "search"]
    assert parent.data.params["episodes.shots"] == "5"
    assert parent.data.tags["episodic"] == "true"
    assert parent.data.tags["verdict"] in result.stdout
    metrics = parent.data.metrics
    assert metrics["test/score"] == metrics["test/sharing/score"]
    assert {"test/independent/score", "test/ridge/value", "test/pooled_trees/score"} <= set(metrics)
    assert sum(name.startswith("test/sharing/task/") for name in metrics) == 100
    children = [r for r in runs if r.data.tags["autometa.role"] == "trial"]
    assert len(children) == 2
    for child in children:
        assert "value" in child.data.metrics
        assert sum(name.startswith("task/") for name in child.data.metrics) == 100


def test_resume_needs_the_same_episodes(searched: tuple[Path, Result]) -> None:
    home = searched[0]
    words = ["sinusoid", *SMALL, "--study-name", "waves", "--home", str(home), "--resume"]
    again = run("search", *words, "--json")
    assert again.exit_code == 0, again.stderr
    body = json.loads(again.stdout)
    assert body["test"]["verdict"] in searched[1].stdout
    assert {m["name"] for m in body["test"]["methods"]} >= {"sharing", "independent", "ridge"}
    other = run("search", *words, "--queries", "7")
    assert other.exit_code == 2
    assert "started with `--episodic --shots 5 --queries 15`" in other.stderr
    command = resume_command(["search", "sinusoid", "--episodic", "--shots", "5"], "waves")
    assert command == ("autometa search sinusoid --episodic --shots 5 --study-name waves --resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episodic"], "`shots` should be given with `episodic = True`"),
        (["--shots", "5"], "`shots` is about episodes: add `episodic = True` (`--episodic`)"),
        (["--episodic", "--shots", "0"], "Option `--shots` should be at least 1. Found `0`"),
        (["--episodic", "--shots", "5", "--ways", "3"], "`ways` should be left out"),
        (["--episodic", "--shots", "5", "--cost", "parameters"], "`cost` should be left out"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    result = run("search", "sinusoid", *words, "--home", str(tmp_path))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "studies").exists()


def test_train_prints_some_of_many_tasks(tmp_path: Path) -> None:
    words = ["--set", "adaptation.kind=bayesian", "--set", "backbone.width=8", "--max-epochs", "1"]
    out = ["--out", str(tmp_path / "model"), "--device", "cpu"]
    result = run("train", "sinusoid", "--episodic", "--shots", "5", *words, *out)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len([line for line in lines if line.startswith("  ")]) == 21
    assert "  80 more tasks; --json has them all." in lines


def test_train_in_episodes_fine_tunes_unless_told_otherwise(tmp_path: Path) -> None:
    words = ["--set", "backbone.width=8", "--max-epochs", "1", "--device", "cpu"]
    out = tmp_path / "model"
    result = run("train", "sinusoid", "--episodic", "--shots", "5", *words, "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert json.loads((out / "model.json").read_text())["config"]["adaptation.kind"] == "finetune"


@pytest.mark.parametrize("command", ["search", "train"])
def test_help_has_the_options(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "140"}).stdout
    for option in ("--episodic", "--ways", "--shots", "--queries", "--one-task"):
        assert option in text
    assert ("--test-shots" in text) == (command == "search")
