"""scripts/bench_meta_step.py times two ways to take the same step."""

from __future__ import annotations

import json

import pytest
import torch

from autometa.trial import TrialConfig, build
from scripts import bench_meta_step as script


def test_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick", "--tasks", "3,2"])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert [row["tasks"] for row in found["rows"]] == [3, 2]
    assert found["ratio"] == found["rows"][0]["ratio"]
    for row in found["rows"]:
        assert row["vectorised"] > 0
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert sum(line.startswith(("| 3 |", "| 2 |")) for line in lines) == 2


def test_both_ways_train_alike() -> None:
    episode = script.sinusoids(4, torch.Generator().manual_seed(1))
    learner = build(TrialConfig.from_flat(script.CONFIG), script.PROBLEM)
    ways = [script.Vectorised(learner, episode), script.Loop(learner, episode)]
    start = {name: leaf.detach().clone() for name, leaf in ways[0].leaves.items()}
    for way in ways:
        for _ in range(3):
            way.step()
    for name, leaf in ways[0].leaves.items():
        torch.testing.assert_close(leaf, ways[1].leaves[name], rtol=1e-3, atol=1e-4)
        assert (leaf - start[name]).abs().max() > 1e-3


def test_bad_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--tasks", "0"])
    assert "at least 1" in capsys.readouterr().err
