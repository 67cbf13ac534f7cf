"""The command line on real data: search, resume, look at it, predict, delete."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from typer.testing import CliRunner, Result

from autometa import api
from autometa.cli import app
from autometa.cli.search import search
from autometa.searching.promotion import PRUNERS
from autometa.study import SAMPLERS

pytestmark = pytest.mark.usefixtures("short_judgement")

SMALL = ["--max-epochs", "3", "--workers", "0", "--mlflow-tracking-uri", "off", "--prior=off"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    frame["cultivar"] = frame["cultivar"].map({0: "A", 1: "B", 2: "C"})
    path = tmp_path_factory.mktemp("data") / "wine.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def searched(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A home folder with the finished study `wine`, and what the search printed."""
    home = tmp_path_factory.mktemp("home")
    return home, run("search", *suite(table), "--study-name", "wine", "--home", str(home))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def suite(table: Path) -> list[str]:
    return [str(table), "--targets", "alcohol,cultivar", "--n-trials", "4", *SMALL]


def test_search_says_what_it_found(searched: tuple[Path, Result]) -> None:
    home, result = searched
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Study wine: 4 trials (")
    for task in ("alcohol", "cultivar"):
        assert any(line.startswith(task) for line in result.stdout.splitlines())
    assert f"autometa predict {home / 'models' / 'wine'}" in result.stdout
    assert "search: 4/4, best " in result.stderr


def test_json_is_the_last_line_and_all_of_stdout(
    table: Path, searched: tuple[Path, Result]
) -> None:
    """A finished study is told again, without another trial."""
    home, _ = searched
    words = ["search", *suite(table), "--study-name", "wine", "--home", str(home), "--resume"]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert (found["study"], found["suite"], found["n_trials"]) == ("wine", "wine", 4)
    assert sum(found["states"].values()) == 4
    assert found["test"]["verdict"] in searched[1].stdout
    assert Path(found["model"]).is_dir()
    assert found["interrupted"] is False


def test_a_taken_name_and_a_misspelt_target_exit_2(
    table: Path, searched: tuple[Path, Result]
) -> None:
    home, _ = searched
    taken = run("search", *suite(table), "--study-name", "wine", "--home", str(home))
    assert taken.exit_code == 2
    assert "--resume" in taken.stderr
    wrong = run("search", str(table), "--targets", "alcohl", "--home", str(home), *SMALL)
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("Error: ")
    assert "Did you mean `alcohol`?" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_the_next_commands_name_the_same_storage_and_server(table: Path, tmp_path: Path) -> None:
    where = ["--home", str(tmp_path / "home"), "--storage", f"sqlite:///{tmp_path}/s.db"]
    words = [word for word in suite(table) if word not in ("--mlflow-tracking-uri", "off")]
    words += ["--mlflow-tracking-uri", f"sqlite:///{tmp_path}/m.db", "--study-name", "there"]
    found = run("search", *words, *where)
    assert found.exit_code == 0, found.stderr
    shown = [
        line.split()[1:] for line in found.stdout.splitlines() if line.startswith("  autometa")
    ]
    commands = {line[0]: line for line in shown}
    assert set(commands) == {"predict", "trials", "diagnose", "ui"}
    for name in ("trials", "diagnose"):
        result = run(*commands[name])
        assert result.exit_code == 0, result.stderr
    assert commands["ui"][-2:] == ["--mlflow-tracking-uri", f"sqlite:///{tmp_path}/m.db"]


def test_trials(searched: tuple[Path, Result]) -> None:
    home, _ = searched
    rows = json.loads(run("trials", "wine", "--home", str(home), "--json").stdout)
    assert [row["number"] for row in rows if not row["advised"]] == [0, 1, 2, 3]
    assert {row["arm"] for row in rows} == {"sharing", "independent"}
    for row in rows:
        assert {"number", "state", "value", "params"} <= set(row)
        assert row["arm"] == "sharing" or row["params"]["sharing.kind"] == "independent"
    shown = run("trials", "wine", "--home", str(home), "--limit", "2")
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["trial", "state", "arm", "value", "parameters"]
    best = max((r for r in rows if r["state"] == "COMPLETE"), key=lambda r: r["value"])
    assert lines[1].split()[0] == str(best["number"])
    assert len(lines) == 3
    assert f"{len(rows) - 2} more" in shown.stderr
    assert run("trials", "--home", str(home)).stdout == "wine\n"
    unknown = run("trials", "wien", "--home", str(home))
    assert unknown.exit_code == 2
    assert "Did you mean `wine`?" in unknown.stderr


def test_best_writes_what_train_reads(
    table: Path, searched: tuple[Path, Result], tmp_path: Path
) -> None:
    home, _ = searched
    file, model = tmp_path / "best.yaml", tmp_path / "model"
    found = json.loads(
        run("best", "wine", "--home", str(home), "--out", str(file), "--json").stdout
    )
    assert found["best"] == found["arms"][found["best"]["arm"]]
    assert found["best"]["value"] == max(row["value"] for row in found["arms"].values())
    words = ["train", str(table), "--targets", "alcohol,cultivar", "--config", str(file)]
    words += ["--set", "optimizer.lr=0.01", "--max-epochs", "1", "--out", str(model), "--json"]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    trained = json.loads(result.stdout)
    assert Path(trained["model"]) == model
    assert set(trained["tasks"]) == {"alcohol", "cultivar"}
    kept = json.loads((model / "model.json").read_text())["config"]
    assert kept == {**found["best"]["config"], "optimizer.lr": 0.01}


def test_a_wrong_choice_is_named(table: Path) -> None:
    result = run("train", str(table), "--targets", "alcohol", "--set", "sharing.kind=hrd")
    assert result.exit_code == 2
    assert "Did you mean `hard`?" in result.stderr


def test_predict(table: Path, searched: tuple[Path, Result], tmp_path: Path) -> None:
    home, _ = searched
    new = tmp_path / "new.csv"
    pd.read_csv(table).drop(columns=["alcohol", "cultivar"]).head(7).to_csv(new, index=False)
    words = ["predict", "wine", str(new), "--home", str(home)]
    printed = pd.read_csv(StringIO(run(*words).stdout))
    assert list(printed.columns) == ["alcohol", "cultivar"]
    assert len(printed) == 7
    assert set(printed["cultivar"]) <= {"A", "B", "C"}
    out = tmp_path / "out.parquet"
    result = run(*words, "--out", str(out), "--json")
    assert json.loads(result.stdout)["rows"] == 7
    pd.testing.assert_frame_equal(
        pd.read_parquet(out), printed, check_dtype=False, check_exact=False
    )
    chances = json.loads(run(*words, "--proba", "--tasks", "cultivar", "--json").stdout)
    assert all(sum(row.values()) == pytest.approx(1.0) for row in chances["predictions"])
    lacking = tmp_path / "lacking.csv"
    pd.read_csv(new).drop(columns="ash").to_csv(lacking, index=False)
    wrong = run("predict", "wine", str(lacking), "--home", str(home))
    assert wrong.exit_code == 2
    assert "ash" in wrong.stderr


def test_predict_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 4, 4)), rng.integers(0, 2, (60, 2))
    np.savez(tmp_path / "pictures.npz", x=x, y=y)
    model = tmp_path / "model"
    trained = run("train", str(tmp_path / "pictures.npz"), "--max-epochs", "1", "--out", str(model))
    assert trained.exit_code == 0, trained.stderr
    np.save(tmp_path / "new.npy", x[:3])
    for name in ("new.npy", "pictures.npz"):
        result = run("predict", str(model), str(tmp_path / name), "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["rows"] == (3 if name == "new.npy" else 60)


def test_suites() -> None:
    rows = json.loads(run("suites", "--json").stdout)
    (digits,) = [row for row in rows if row["name"] == "multidigits"]
    assert digits["tasks"] == 2
    assert "multidigits" in run("suites").stdout


def test_options_say_the_choices_that_there_are() -> None:
    text = " ".join(run("search", "--help").stdout.replace("│", " ").split())
    for names in (SAMPLERS, PRUNERS):
        *first, last = names
        assert f"{', '.join(first)} or {last}" in text
    ours, theirs = inspect.signature(search).parameters, inspect.signature(api.search).parameters
    for name in set(ours) & set(theirs) - {"suite"}:
        assert ours[name].default == theirs[name].default, name


@pytest.mark.slow
def test_delete_removes_everything_of_a_study(table: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    tracked = [word for word in suite(table) if word not in ("--mlflow-tracking-uri", "off")]
    words = ["search", *tracked, "--study-name", "gone", "--home", str(home), "--json"]
    words.append("--no-diagnosis")
    found = run(*words)
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["mlflow"]["run_id"]
    asked = run("delete", "gone", "--home", str(home))
    assert asked.exit_code == 2
    assert "--yes" in asked.stderr
    result = run("delete", "gone", "--home", str(home), "--yes", "--json")
    assert result.exit_code == 0, result.stderr
    done = json.loads(result.stdout)
    assert (done["study"], done["trials"], done["runs"]) == ("gone", 4, 5)
    left = [p for p in home.rglob("*") if "gone" in p.name]
    assert left == []
    assert run("trials", "gone", "--home", str(home)).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "on_ctrl_c"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),  # as a shell starts what it puts in the background
    ],
)
def test_a_stopped_search_says_how_to_go_on(
    home: Path, number: signal.Signals, on_ctrl_c: signal.Handlers
) -> None:
    words = ["search", "multidigits", "--n-trials", "500", "--study-name", "long", *SMALL]
    journal = home / "studies" / "long.journal"
    deadline = time.monotonic() + 150  # the space alone takes a dozen kilobytes of the journal
    with subprocess.Popen(
        [sys.executable, "-m", "autometa.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, on_ctrl_c),
    ) as process:
        try:
            while not (journal.exists() and journal.stat().st_size > 40_000):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
            printed, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, (printed, errors)
    assert errors.splitlines()[-1].strip() == f"autometa {' '.join(words)} --resume"
    assert json.loads(run("trials", "long", "--json").stdout)
