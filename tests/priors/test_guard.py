from __future__ import annotations

import numpy as np
import pytest

from autometa.priors.guard import MIN_TRIALS, misleading


def test_only_wrong_orders_are_dropped() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    unrelated = rng.normal(size=20)
    constant = np.zeros(20)
    predictions = np.stack([values, -values, unrelated, constant], axis=1)
    assert misleading(predictions, values, rng).tolist() == [False, True, False, False]


def test_few_trials_prove_nothing() -> None:
    values = np.arange(float(MIN_TRIALS - 1))
    assert not misleading(-values[:, None], values, np.random.default_rng(0)).any()
    values = np.arange(float(MIN_TRIALS))
    assert misleading(-values[:, None], values, np.random.default_rng(0)).all()


@pytest.mark.parametrize("n", [5, 10, 30])
def test_sources_that_know_nothing_are_seldom_dropped(n: int) -> None:
    rng = np.random.default_rng(n)
    share = np.mean(
        [misleading(rng.normal(size=(n, 40)), rng.normal(size=n), rng) for _ in range(20)]
    )
    assert share < 0.15


def test_monotone_changes_of_the_values_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    values, predictions = rng.normal(size=12), rng.normal(size=(12, 5))
    once = misleading(predictions, values, np.random.default_rng(2))
    twice = misleading(np.exp(3 * predictions), np.exp(values), np.random.default_rng(2))
    assert once.tolist() == twice.tolist()
