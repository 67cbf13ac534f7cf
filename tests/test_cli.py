"""The command line: help, mistakes, exit codes and where output goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from autometa.cli import _EXAMPLES, app
from autometa.cli.models import find_model
from autometa.cli.output import duration, plain, size
from autometa.cli.search import resume_command
from autometa.errors import UserError
from autometa.home import Home

COMMANDS = [
    "search",
    "train",
    "adapt",
    "predict",
    "prior",
    "trials",
    "best",
    "ui",
    "suites",
    "delete",
    "doctor",
    "diagnose",
]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def sentence(result: Result) -> str:
    """The one line of an error; nothing else may be on stderr."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert result.stdout == ""
    return lines[0]


def test_every_command_is_listed() -> None:
    listed = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: autometa {command}" in result.stdout
    for line in result.stdout.splitlines():
        for word in line.split():
            if word.startswith("--"):
                assert "_" not in word, f"{word} is not kebab-case"


def test_examples_parse() -> None:
    """Every example names options that exist (running them is another test's work)."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for function, example in _EXAMPLES.items():
        _, name, *words = example.split()
        assert name == function.__name__
        commands[name].make_context(name, words)


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("autometa 0.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search", "x", "--n-trials", "-3"], "`--n-trials` should be at least 1. Found `-3`."),
        (["search", "x", "--n-trials", "0"], "`--n-trials` should be at least 1. Found `0`."),
        (["search", "x", "--max-epochs", "0"], "`--max-epochs` should be at least 1"),
        (["search", "x", "--max-steps", "0"], "`--max-steps` should be at least 1"),
        (["search", "x", "--timeout", "nan"], "`--timeout` should be at least 0. Found `nan`."),
        (["search", "x", "--workers", "-1"], "`--workers` should be at least 0. Found `-1`."),
        (
            ["search", "x", "--cpus-per-worker", "0"],
            "`--cpus-per-worker` should be at least 1. Found `0`.",
        ),
        (["search", "x", "--independent-share", "1.5"], "between 0 and 1. Found `1.5`."),
        (["search", "x", "--n-trials", "two"], "Found `two`."),
        (["search", "x", "--seed", "4294967296"], "`--seed` should be between 0 and 4294967295."),
        (["search", "x", "--n-trails", "2"], "--n-trials"),
        (["search"], "Missing argument 'SUITE'"),
        (["serach", "x"], "Did you mean 'search'?"),
        (["search", "x", "--metric", "a=auc", "--metric", "b"], "`--metric` should be NAME=VALUE"),
        (["train", "x", "--set", "sharing.kind"], "`--set` should be NAME=VALUE."),
        (["train", "x", "--set", "a=1", "--set", "a=2"], "names `a` twice"),
        (["train", "x", "--config", "nowhere.yaml"], "`nowhere.yaml` cannot be read"),
        (["predict", "nowhere", "x.csv"], "Found `nowhere`."),
        (["predict", "nowhere", "x.csv", "--out", "x.txt"], "should end in .csv, .tsv, .parquet"),
        (["trials", "nowhere"], "no study `nowhere`"),
        (["best", "nowhere", "--arm", "both"], "should be sharing or independent. Found `both`."),
        (["delete", "nowhere", "--yes"], "no study `nowhere`"),
        (["ui", "--host", "0.0.0.0", "--no-browser"], "Found `host = '0.0.0.0'`."),
        (["ui", "--mlflow-tracking-uri", "off"], "Found `off`."),
        (["trials", "--storage", "sqlite:///absent.db"], "There is no database `absent.db`."),
        (["best", "x", "--storage", "sqlite:///absent.db"], "There is no database `absent.db`."),
        (["prior", "build", "a/b"], "Parameter `name` should be"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(words: list[str], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert told in sentence(result)
    assert not Path("absent.db").exists()


def test_no_words_print_the_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: autometa" in result.stdout + result.stderr
    assert "Error" not in result.stderr


def test_a_bug_is_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("autometa.study.list_studies", broken)
    result = run("trials")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in sentence(result)
    assert "AUTOMETA_DEBUG=1" in result.stderr
    monkeypatch.setenv("AUTOMETA_DEBUG", "1")
    assert isinstance(run("trials").exception, ZeroDivisionError)


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autometa.study.list_studies", interrupted)
    result = run("trials")
    assert result.exit_code == 130
    assert sentence(result) == "Error: Stopped by Ctrl-C."


def test_trials_without_a_study_lists_studies(home: Path) -> None:
    result = run("trials")
    assert result.exit_code == 0
    assert "No study" in result.stderr
    assert json.loads(run("trials", "--json").stdout) == []


def test_doctor(home: Path) -> None:
    models = home / "models" / "m"
    models.mkdir(parents=True)
    (models / "weights").write_bytes(b"x" * 2048)
    result = run("doctor")
    assert result.exit_code == 0
    assert "models: 2.0 KiB" in result.stdout
    assert "All is well." in result.stdout
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"] is True
    assert report["parts"] == {"models": 2048}
    assert report["imports"] == {"torch": None, "ray": None, "mlflow": None}
    assert all(report["packages"].values())


def test_doctor_tells_a_home_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = run("doctor", "--home", str(file / "below"))
    assert result.exit_code == 1
    assert "The home folder should be a folder. Found the file" in result.stdout
    if Path("/proc/self").exists():  # where root is told that it may write, and may not
        assert run("doctor", "--home", "/proc/x").exit_code == 1


def test_find_model(home: Path) -> None:
    for name in ("sales", "school"):
        (home / "models" / name).mkdir(parents=True)
    assert find_model("sales", Home.find()) == home / "models" / "sales"
    assert find_model(str(home / "models" / "school"), Home.find()).name == "school"
    with pytest.raises(UserError, match="Did you mean `sales`"):
        find_model("sale", Home.find())


@pytest.mark.parametrize(
    ("words", "study", "command"),
    [
        (["search", "x"], "a", "autometa search x --study-name a --resume"),
        (["search", "x", "--study-name", "a"], "a", "autometa search x --study-name a --resume"),
        (["search", "x", "--study-name=a", "--resume"], "a", None),
        (["search", "my file.csv"], "a", "autometa search 'my file.csv' --study-name a --resume"),
    ],
)
def test_resume_command(words: list[str], study: str, command: str | None) -> None:
    assert resume_command(words, study) == (command or " ".join(["autometa", *words]))


def test_plain_is_strict_json() -> None:
    import numpy as np

    value = {"a": float("nan"), 1: (np.float32(0.5), np.arange(2)), "p": Path("x"), "t": True}
    assert plain(value) == {"a": None, "1": [0.5, [0, 1]], "p": "x", "t": True}
    json.dumps(plain(value), allow_nan=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (7260, "2 h 1 min"), (None, "-")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_size() -> None:
    assert [size(n) for n in (0, 1023, 2048, 3 << 20, 5 << 30)] == [
        "0 B", "1023 B", "2.0 KiB", "3.0 MiB", "5.0 GiB",
    ]  # fmt: skip


def test_output_closed_early_is_no_traceback() -> None:
    """`autometa suites | head -0` must not print a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "autometa.cli", "suites"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert "Traceback" not in done.stderr


def test_ctrl_c_in_a_finalizer_is_not_forgotten() -> None:
    script = """
import signal, time
import autometa.cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored, if our parent ignores it

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # Python prints what this raises, and goes on

def app():
    Finalized()
    time.sleep(30)
    print("went on")

autometa.cli.app = app
autometa.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode not in (0, 1), done
    assert done.stdout == ""
    assert "Exception ignored" not in done.stderr
    assert done.stderr.strip().endswith("KeyboardInterrupt")
