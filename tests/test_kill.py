"""A driver killed half-way: no finished trial is lost, changed or repeated; the total is exact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autometa.errors import StudyError
from autometa.home import Home
from autometa.study import read_study
from tests import postgres_cluster
from tests.searching.support import SPACE

ROOT = Path(__file__).parents[1]
TRIALS = 14


def table(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 4))
    common = np.tanh(x @ rng.normal(size=4))
    frame = pd.DataFrame(x, columns=list("abcd"))
    frame["up"], frame["down"] = common + 0.1 * rng.normal(size=150), -common
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    (folder / "space.yaml").write_text(SPACE.replace("batch_size: 64", "batch_size: 8"))
    return path


def command(
    folder: Path, workers: int, study: str, *more: str, storage: str | None = None
) -> list[str]:
    where = [] if storage is None else ["--storage", storage]
    return [
        sys.executable, "-m", "tests.short_search", "search", str(folder / "table.csv"),
        "--targets", "up,down", "--space", str(folder / "space.yaml"), "--study-name", study,
        "--n-trials", str(TRIALS), "--max-epochs", "9", "--workers", str(workers),
        "--home", str(folder / "home"), "--mlflow-tracking-uri", "off", "--device", "cpu",
        "--no-diagnosis", "--prior", "off", "--json", *where, *more,
    ]  # fmt: skip


def told(folder: Path, study: str, storage: str | None = None) -> dict[int, Any]:
    """What the study holds of its finished trials."""
    try:
        trials = read_study(Home.find(folder / "home"), study, storage).trials
    except StudyError:
        return {}
    return {
        t.number: (t.state, t.values, t.params, t.intermediate_values, t.datetime_complete)
        for t in trials
        if t.state.is_finished()
    }


def kill_half_way(
    folder: Path, workers: int, how: signal.Signals, storage: str | None = None
) -> dict[int, Any]:
    driver = subprocess.Popen(
        command(folder, workers, "k", storage=storage),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # tests that a shell runs in the background would hand on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while len(told(folder, "k", storage)) < 3:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how == signal.SIGINT:
        os.killpg(driver.pid, how)  # as a terminal does
    else:
        driver.send_signal(how)
    output = driver.communicate(timeout=120)[0].decode()
    if how == signal.SIGINT:
        assert driver.returncode == 130, output
        assert "--resume" in output
    before = told(folder, "k", storage)
    assert 3 <= len(before) < TRIALS, "it was to be stopped half-way"
    return before


def resume(folder: Path, workers: int, storage: str | None = None) -> dict[str, Any]:
    done = subprocess.run(
        command(folder, workers, "k", "--resume", storage=storage),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(
    folder: Path, before: dict[int, Any], result: dict[str, Any], storage: str | None = None
) -> None:
    after = told(folder, "k", storage)
    assert {number: after[number] for number in before} == before
    assert sorted(after) == list(range(TRIALS))
    assert result["n_trials"] == sum(result["states"].values()) == TRIALS
    assert result["test"]["verdict"]
    assert Path(result["model"]).is_dir()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sigkill_inline_then_resume_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    table(tmp_path)
    before = kill_half_way(tmp_path, 0, signal.SIGKILL)
    check(tmp_path, before, resume(tmp_path, 0))
    straight = subprocess.run(
        command(tmp_path, 0, "straight"), capture_output=True, text=True, cwd=ROOT, timeout=240
    )
    assert straight.returncode == 0, straight.stderr
    without_time = [row[:4] for row in told(tmp_path, "k").values()]
    assert without_time == [row[:4] for row in told(tmp_path, "straight").values()]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_on_ray_then_resume(tmp_path: Path, how: signal.Signals) -> None:
    table(tmp_path)
    before = kill_half_way(tmp_path, 2, how)
    check(tmp_path, before, resume(tmp_path, 2))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_on_a_database_then_resume(tmp_path: Path) -> None:
    if reason := postgres_cluster.missing():
        pytest.skip(reason)
    table(tmp_path)
    with postgres_cluster.cluster() as storage:
        before = kill_half_way(tmp_path, 0, signal.SIGKILL, storage)
        check(tmp_path, before, resume(tmp_path, 0, storage), storage)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_ray_worker_finds_what_the_inline_executor_finds(tmp_path: Path) -> None:
    table(tmp_path)
    for workers, study in ((0, "inline"), (1, "ray")):
        done = subprocess.run(
            command(tmp_path, workers, study), capture_output=True, text=True, cwd=ROOT, timeout=240
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, "Ray's banners must stay off stdout"
    inline, ray = ([row[:4] for row in told(tmp_path, s).values()] for s in ("inline", "ray"))
    assert inline == ray
