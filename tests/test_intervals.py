"""The bootstrap against its definition, and the tests and intervals built on it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from autometa.intervals import (
    benjamini_hochberg,
    draw_counts,
    mean_interval,
    rows_kernel,
    t_interval,
    unbiased,
)
from autometa.metrics import TaskSpec, evaluate_task

REGRESSION = TaskSpec("r", "regression", "rmse")
BINARY = TaskSpec("b", "binary", "accuracy", constant=1)
CLASSES = TaskSpec("c", "multiclass", "accuracy", constant=2, n_classes=3)
AUC = TaskSpec("a", "binary", "auc")


@pytest.mark.parametrize("share", [0.2, 0.8, 1.0])
@pytest.mark.parametrize("spec", [REGRESSION, BINARY, CLASSES, AUC], ids=lambda s: s.name)
def test_a_weighted_row_is_a_repeated_row(spec, share):
    rng = np.random.default_rng(0)
    width, rows = 50, np.sort(np.random.default_rng(1).choice(50, 40, replace=False))
    truth = rng.normal(size=40) if spec is REGRESSION else (rng.random(40) < share).astype(float)
    pred = rng.integers(-3, 4, (2, 40, 3)).astype(np.float32)  # many ties
    draws = draw_counts(rng, width, 20)
    error, constant, n = rows_kernel(spec, truth, pred, rows, width, unbiased(width))(draws)
    scale = width / (width - 1)
    power = 2 if spec.metric == "auc" else 1  # sums over pairs of rows
    for b in range(20):
        times = draws[rows, b].astype(int)
        expected, expected_constant = evaluate_task(
            spec, np.repeat(truth, times), np.repeat(pred, times, axis=1)
        )
        np.testing.assert_allclose(error[:, b], expected * scale**power, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(constant[b], expected_constant * scale**power, rtol=1e-5)
        np.testing.assert_allclose(n[b], times.sum() * scale, rtol=1e-6)


def test_weighted_auc_is_scikit_learns():
    rng = np.random.default_rng(2)
    truth = (rng.random(200) < 0.1).astype(float)
    logits = np.round(rng.normal(size=(1, 200, 1)) + truth[:, None], 1)
    draws = draw_counts(rng, 200, 30)
    error, pairs, _ = rows_kernel(AUC, truth, logits, np.arange(200), 200, unbiased(200))(draws)
    expected = [roc_auc_score(truth, logits[0, :, 0], sample_weight=w) for w in draws.T]
    np.testing.assert_allclose(1 - error[0] / (2 * pairs), expected, rtol=1e-5)


def test_draws_are_n_minus_one_and_even():
    draws = draw_counts(np.random.default_rng(0), 7, 4000)
    assert (draws.sum(0) == 6).all()
    np.testing.assert_allclose(draws.mean(1), 6 / 7, atol=0.05)
    # one thing has no spread
    np.testing.assert_array_equal(draw_counts(np.random.default_rng(0), 1, 3), np.ones((1, 3)))


def test_mean_interval_is_the_t_interval():
    sample = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
    found = mean_interval(sample)
    low, high = stats.t.interval(0.95, 4, loc=sample.mean(), scale=stats.sem(sample))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(sample, 0).pvalue)
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_interval(sample[:1])


def test_an_interval_without_spread_is_a_point():
    assert t_interval(0.0, 0.0, 1.0).p == 1.0
    found = t_interval(0.5, 0.0, 1.0)
    assert (found.low, found.high, found.p) == (0.5, 0.5, 0.0)
    assert np.isnan(t_interval(float("nan"), float("nan"), float("nan")).p)


def test_benjamini_hochberg_by_hand_and_against_scipy():
    # at 5% of 5 tests the thresholds are .01, .02, .03, .04, .05; the fourth is the last below
    p = np.array([0.039, 0.001, 0.9, 0.021, 0.008])
    assert benjamini_hochberg(p).tolist() == [True, True, False, True, True]
    rng = np.random.default_rng(8)
    p = np.concatenate([rng.random(50), rng.random(10) * 0.002])
    expected = stats.false_discovery_control(p) <= 0.05
    np.testing.assert_array_equal(benjamini_hochberg(p), expected)


def test_benjamini_hochberg_does_not_count_what_was_not_tested():
    p = np.array([0.04, np.nan, np.nan])
    assert benjamini_hochberg(p).tolist() == [True, False, False]
    assert benjamini_hochberg(np.array([0.04, 0.5, 0.6])).tolist() == [False] * 3
    assert benjamini_hochberg(np.array([np.nan])).tolist() == [False]
