"""scripts/reproduce_sinusoid.py measures what it says."""

from __future__ import annotations

import json

import pytest

from scripts import reproduce_sinusoid as script


def test_a_quick_run_measures_errors_and_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["MAML", "from scratch", "Bayesian"]
    script.main(["--quick", "--workers", "0", "--methods", ";".join(names)])
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert list(found) == names
    for errors in found.values():
        assert list(errors) == ["1", "5", "10"]
        # the variance of the curves is about 5; nothing has learned much after 12 steps
        assert all(2.0 < error < 9.0 for error in errors.values())
    assert len(set(found["MAML"].values())) == 3, "other numbers of steps, other errors"
    assert len(set(found["Bayesian"].values())) == 1
    table = [line for line in out.splitlines() if line.startswith("| Bayesian")]
    assert len(table) == 2, "errors, and coverage under noise"


def test_noise_is_in_what_is_tested() -> None:
    exact, noisy = (
        script.run(script.Job("Bayesian", noise, 0, quick=True)) for noise in (0.0, script.NOISE)
    )
    assert "coverage" not in exact
    assert 0.0 < noisy["coverage"][0] < 100.0
    assert exact["errors"]["1"] != noisy["errors"]["1"]


def test_an_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--methods", "MAMML"])
    assert "MAMML" in capsys.readouterr().err
