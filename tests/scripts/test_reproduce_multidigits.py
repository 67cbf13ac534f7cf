"""scripts/reproduce_multidigits.py measures what it says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from autometa.training.population import Trainer
from autometa.training.state import Layout, Run
from autometa.trial import build
from scripts import reproduce_multidigits as script
from tests.small import make_suite


def accuracies(**gains: float) -> dict[str, np.ndarray]:
    """Arm → accuracy [split, seed, task]: 0.8 and 0.9 for the tasks, in percent of them more."""
    base = np.tile([0.8, 0.9], (2, 3, 1)) + np.linspace(-0.01, 0.01, 6).reshape(2, 3, 1)
    level = base.reshape(-1, 2).mean(0)
    by_arm = dict(zip(script.ARMS, script.REPORTED.values(), strict=True))
    by_arm |= gains
    return {arm: base + level * gain / 100 for arm, gain in by_arm.items()}


def test_delta_m_is_paired_and_in_percent() -> None:
    found = script.compare(accuracies())
    for arm, facts in found["arms"].items():
        assert facts["delta_m"]["mean"] == pytest.approx(script.REPORTED[arm], abs=1e-9)
        # the seeds' own ups and downs cancel in every pair
        assert np.ptp(facts["pairs"]) == pytest.approx(0, abs=1e-9)


def test_the_reported_order_is_found_and_a_wrong_one_is_said() -> None:
    found = script.compare(accuracies())
    assert found["order_holds"]
    assert found["ones_below"]["holds"]
    assert found["groups"][0]["gap"]["mean"] == pytest.approx(0.65 + 0.825)
    assert found["first_above_independent"]["difference"]["mean"] == pytest.approx(0.65)
    wrong = script.compare(
        accuracies(**{"concat, one head": -0.9, script.ONES: 0.6, script.STITCHED: -0.1})
    )
    assert [step["holds"] for step in wrong["groups"]] == [False, False]
    assert not wrong["order_holds"]
    assert not wrong["ones_below"]["holds"]
    assert not wrong["first_above_independent"]["holds"]
    said = "\n".join(script.sentences(wrong))
    assert "Order of the groups: NOT reproduced." in said
    assert "All ones is NOT below 0.9/0.1" in said
    assert "Group 1 does NOT lie wholly above independent networks" in said


def test_only_the_arm_of_ones_starts_from_ones() -> None:
    (arms,) = [group for group in script.populations() if script.ONES in group]
    trainer = Trainer(make_suite(), 1, torch.device("cpu"))
    runs = [Run(script.config(arm), seed) for arm in arms for seed in (0, 1)]
    leaves = Layout(build(runs[0].config, trainer.problem).init(torch.Generator())[0]).unpack(
        script.start(trainer, arms, runs).values
    )
    units = {name: leaf for name, leaf in leaves.items() if name.startswith("mixing.")}
    assert len(units) == 2
    for leaf in units.values():
        for place, run in enumerate(leaf):
            assert bool((run == 1).all()) == (arms[place // 2] == script.ONES)
    # and its towers start as those of the other arms
    first, ones = leaves["blocks.0.weight"][0], arms.index(script.ONES)
    torch.testing.assert_close(leaves["blocks.0.weight"][2 * ones], first)


@pytest.mark.slow
def test_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    assert list(found["arms"]) == list(script.ARMS)
    assert sum(line.startswith("| ") for line in lines) == 1 + len(script.ARMS)
    for facts in found["arms"].values():
        assert 0.2 < facts["accuracy"] < 1.0  # one epoch: chance is 0.1
        assert len(facts["pairs"]) == 2
    # trained apart: no two arms have the same accuracy in every pair
    assert len({tuple(f["pairs"]) for f in found["arms"].values()}) == len(script.ARMS)


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "python scripts/reproduce_multidigits.py --splits 1 --seeds 8" in capsys.readouterr().out


def test_one_pair_is_refused() -> None:
    with pytest.raises(SystemExit):
        script.main(["--splits", "1", "--seeds", "1"])
