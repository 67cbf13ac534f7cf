"""Tuning: the best setting on validation is kept, within the time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from autometa.baselines import PEERS, tune, tuning
from autometa.errors import DataError
from autometa.metrics import evaluate
from tests.baselines.suites import aligned, grouped


def test_the_best_setting_on_validation_is_kept() -> None:
    suite = aligned(("regression", "binary", "multiclass"), missing=0.2, rows=120)
    rows = suite.rows("val")
    scores = []
    for setting in PEERS["ridge"].settings(suite):
        fitted = PEERS["ridge"].fit(suite, setting, seed=0)
        found = fitted.predict(rows.x.numpy())
        seen = evaluate(found, rows.y.numpy(), fitted.specs, mask=rows.mask.numpy())
        scores.append(float(seen.value()))
    best = tune("ridge", suite.without_test(), seed=0, seconds=None)
    assert len(set(scores)) > 2
    assert best.value == max(scores)
    assert best.setting == PEERS["ridge"].settings(suite)[int(np.argmax(scores))]
    assert best.fitted.setting == best.setting
    assert (best.name, best.tried) == ("ridge", len(scores))
    assert best.words == "ridge regression and logistic regression, one a task"


@pytest.mark.parametrize(("seconds", "tried"), [(0.0, 1), (3.9, 1), (4.1, 2), (8.1, 4), (None, 6)])
def test_settings_are_not_begun_that_would_end_too_late(
    seconds: float | None, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting takes two seconds by this clock."""
    now = [0.0]

    def slow(*args: object) -> float:
        now[0] += 2.0
        return 0.5

    monkeypatch.setattr(tuning, "_value", slow)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    suite = grouped("regression", rows=80)
    found = tune("ridge_pooled", suite, seed=0, seconds=seconds)
    assert (found.tried, found.seconds) == (tried, 2.0 * tried)
    assert found.setting == PEERS["ridge_pooled"].settings(suite)[0]  # of equals the first


def test_what_cannot_be_tuned_says_why() -> None:
    suite = aligned(("binary", "binary"))
    with pytest.raises(DataError, match="Found `peer = 'tree'`. Did you mean `trees`?"):
        tune("tree", suite, seed=0, seconds=1)
    with pytest.raises(DataError, match="Peer `ridge_pooled` cannot be fitted to suite `arrays`"):
        tune("ridge_pooled", suite, seed=0, seconds=1)


def test_no_task_can_be_judged_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_value", lambda *_: float("nan"))
    with pytest.raises(DataError, match="No task of suite `arrays` can be judged"):
        tune("ridge", aligned(("regression", "regression"), rows=60), seed=0, seconds=None)
