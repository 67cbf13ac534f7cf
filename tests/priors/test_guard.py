from __future__ import annotations

import numpy as np
import pytest

from autometa.priors.guard import CONFIDENCE, MIN_TRIALS, N_BOOTSTRAPS, doubt


def misleading(predictions: np.ndarray, values: np.ndarray, seed: int = 0) -> list[bool]:
    return (doubt(predictions, values, np.random.default_rng(seed)) >= CONFIDENCE).tolist()


def test_only_wrong_orders_are_dropped() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    predictions = np.stack([values, -values, rng.normal(size=20), np.zeros(20)], axis=1)
    assert misleading(predictions, values) == [False, True, False, False]


def test_is_the_bootstrap_it_says() -> None:
    rng = np.random.default_rng(3)
    f, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    draws = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=N_BOOTSTRAPS)
    expected = []
    for source in range(2):
        wrong = 0
        for counts in draws:
            rows = np.repeat(np.arange(7), counts)
            pairs = [
                (f[i, source] - f[j, source]) * np.sign(y[i] - y[j]) for i in rows for j in rows
            ]
            wrong += sum(pairs) < -1e-6
        expected.append(wrong / N_BOOTSTRAPS)
    np.testing.assert_allclose(doubt(f, y, np.random.default_rng(5)), expected)


def test_few_trials_prove_nothing() -> None:
    values = np.arange(float(MIN_TRIALS - 1))
    assert misleading(-values[:, None], values) == [False]
    values = np.arange(float(MIN_TRIALS))
    assert misleading(-values[:, None], values) == [True]


def test_pairs_held_to_be_alike_count_little() -> None:
    """Three trials of the sources' choice in an arbitrary order, and others that are worse."""
    values = np.array([3.0, 2.0, 1.0, 9.0, 8.0, 7.0])
    predictions = np.array([-1.02, -1.01, -1.0, 1.0, 1.0, 1.0])[:, None]
    found = doubt(predictions, values, np.random.default_rng(0))
    assert found[0] < 0.1
    worse = np.array([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])
    assert misleading(predictions, worse) == [True]


@pytest.mark.parametrize("n", [5, 10, 30])
def test_sources_that_know_nothing_are_seldom_dropped(n: int) -> None:
    rng = np.random.default_rng(n)
    drawn = [(rng.normal(size=(n, 40)), rng.normal(size=n)) for _ in range(20)]
    share = np.mean([misleading(predictions, values) for predictions, values in drawn])
    assert share < 0.15


def test_monotone_changes_of_the_values_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    values, predictions = rng.normal(size=12), rng.normal(size=(12, 5))
    once = doubt(predictions, values, np.random.default_rng(2))
    twice = doubt(predictions, np.exp(values), np.random.default_rng(2))
    assert once.tolist() == twice.tolist()
    assert 0 < once.mean() < 1
