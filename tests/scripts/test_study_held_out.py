"""scripts/study_held_out.py: every method on the same held-out tasks, kept split by split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts import study_held_out as script


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_study_measures_every_method_and_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--suites", "sinusoid", "--splits", "2", "--configs", "1", "--epochs", "1"]
    script.main([*args, "--workers", "0", "--out", str(tmp_path)])
    first = capsys.readouterr().out
    found = json.loads(first.splitlines()[-1])["sinusoid"]
    learners = {"gradient", "reptile", "amortized", "bayesian", "finetune", script.SCRATCH}
    others = {"ridge", "pooled_ridge", "pooled_trees"}
    assert set(found["methods"]) == learners | others, "prototypes need classes"
    for row in found["methods"].values():
        mean, low, high = row["score"]
        assert -1.0 <= mean <= 1.0
        assert low <= mean <= high
    assert found["tasks"] == {"train": 400, "val": 100, "test": 100}
    script.main([*args, "--workers", "0", "--out", str(tmp_path)])
    again = capsys.readouterr().out
    assert "split 0" not in again, "taken from the folder"
    assert again.splitlines()[-1] == first.splitlines()[-1]


def test_the_best_of_the_others_is_the_one_that_is_compared_with() -> None:
    rows = [
        {
            "scores": {
                "gradient": 0.5 + s,
                "ridge": 0.1,
                script.SCRATCH: 0.2 + s,
                "pooled_ridge": 0.3,
            },
            "tasks": {},
            "episodes": 1,
            "cpu_seconds": 1.0,
        }
        for s in (0.0, 0.1)
    ]
    found = script.summary(rows)
    assert (found["alone"], found["pooled"]) == (script.SCRATCH, "pooled_ridge")
    assert found["methods"]["gradient"]["against_alone"][0] == pytest.approx(0.3)
    assert found["methods"]["gradient"]["against_pooled"][0] == pytest.approx(0.25)


def test_a_kind_is_held_and_the_rest_is_drawn() -> None:
    held = script._Draws(np.random.default_rng(0), {"adaptation.kind": "bayesian"})
    assert held.suggest_categorical("adaptation.kind", ["gradient", "bayesian"]) == "bayesian"
    drawn = {held.suggest_categorical("head", ["a", "b"]) for _ in range(50)}
    assert drawn == {"a", "b"}
    whole = {held.suggest_int("adaptation.steps", 1, 5, step=2) for _ in range(50)}
    assert whole == {1, 3, 5}
    logs = [held.suggest_float("lr", 1e-4, 1e-1, log=True) for _ in range(200)]
    assert 1e-4 <= min(logs) < 1e-3 < 1e-2 < max(logs) <= 1e-1
