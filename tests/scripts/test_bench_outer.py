"""scripts/bench_outer.py measures the driver, with everything real but the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*options: str) -> tuple[list[str], dict]:
    """In a process of its own: the script puts clocks into classes that other tests use."""
    done = subprocess.run(
        [sys.executable, "scripts/bench_outer.py", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return lines, json.loads(lines[-1])


@pytest.mark.slow
@pytest.mark.timeout(300)  # Ray, and MLflow's database
def test_quick_run() -> None:
    lines, found = run("--quick", "--workers", "2")
    assert (found["n_trials"], found["workers"], found["tracking"]) == (40, 2, True)
    assert found["mean_bundle"] > 4
    spent = found["ms_a_trial"]
    for key in ("sampler", "suggest", "storage", "queueing", "loop", "ray"):
        assert spent[key] > 0, key
    named = sum(spent[key] for key in ("suggest", "storage", "queueing", "loop", "ray"))
    assert spent["outer"] == pytest.approx(named)
    assert spent["wall"] > spent["outer"]
    assert found["tracking_cpu_ms_a_trial"] > 1
    assert found["tune_folder_mb"] > 0
    assert found["journal_mb"] > 0
    assert found["mlflow_mb"] > 0
    kept = found["journal_mb"] + found["mlflow_mb"]
    assert found["home_mb"] > kept - 1e-6  # sums of megabytes are rounded
    assert found["driver_mb_at_end"] > 100
    assert "| outer |" in "\n".join(lines)


@pytest.mark.slow
def test_without_ray_and_tracking() -> None:
    _, found = run("--quick", "--workers", "0", "--no-tracking", "--sampler", "random")
    assert found["tracking_cpu_ms_a_trial"] == found["mlflow_mb"] == found["tune_folder_mb"] == 0
    assert abs(found["ms_a_trial"]["ray"]) < 1.0
    assert found["ms_a_trial"]["suggest"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_searches_with_tracking_and_without() -> None:
    lines, found = run(
        "--pairs", "1", "--n-trials", "4", "--workers", "0", "--trial-seconds", "0.3"
    )
    (pair,) = found["pairs"]
    assert min(pair["with"], pair["without"]) >= 4 * 0.3
    assert found["ratio"] == pair["with"] / pair["without"]
    assert pair["tracking_cpu_ms_a_trial"] > 1
    assert lines[2].startswith("| 0 |")


def test_help_and_bad_samplers() -> None:
    command = [sys.executable, "scripts/bench_outer.py", "--sampler", "tpee"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "found tpee" in done.stderr
