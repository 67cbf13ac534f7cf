"""The bootstrap against its definition, and the tests and intervals built on it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from autometa.intervals import (
    _draws,
    _make_kernel,
    benjamini_hochberg,
    bootstrap,
    mean_interval,
    t_interval,
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
    draws = _draws(rng, width, 20)
    error, constant, n = _make_kernel(spec, truth, pred, rows, width)(draws)
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
    draws = _draws(rng, 200, 30)
    error, pairs, _ = _make_kernel(AUC, truth, logits, np.arange(200), 200)(draws)
    expected = [roc_auc_score(truth, logits[0, :, 0], sample_weight=w) for w in draws.T]
    np.testing.assert_allclose(1 - error[0] / (2 * pairs), expected, rtol=1e-5)


def test_draws_are_n_minus_one_and_even():
    draws = _draws(np.random.default_rng(0), 7, 4000)
    assert (draws.sum(0) == 6).all()
    np.testing.assert_allclose(draws.mean(1), 6 / 7, atol=0.05)
    # one thing has no spread
    np.testing.assert_array_equal(_draws(np.random.default_rng(0), 1, 3), np.ones((1, 3)))


def boot_of(task=None, seeds=4, rows=60, resamples=300, **options):
    rng = np.random.default_rng(5)
    specs = [REGRESSION, AUC]
    y = np.stack([rng.normal(size=rows), rng.integers(0, 2, rows)], 1).astype(np.float32)
    pred = rng.normal(size=(2, seeds, 2, rows, 1)).astype(np.float32)
    if task is not None:
        y, pred = y[np.arange(rows), task], pred[:, :, task, np.arange(rows)]
    return bootstrap(list(pred), y, specs, task=task, resamples=resamples, **options)


@pytest.mark.parametrize("task", [None, np.arange(60) % 2])
def test_bootstrap_is_centred_on_what_was_observed(task):
    boot = boot_of(task)
    assert boot.resampled.error.shape == (2, 4, 300, 2)
    assert boot.observed.error.shape == (2, 4, 1, 2)
    np.testing.assert_allclose(boot.seeds.sum(1), 1.0)
    means = boot.resampled.mean_errors()
    off = means.mean(2) - boot.observed.mean_errors()[:, :, 0]
    assert (np.abs(off) < 4 * means.std(2) / np.sqrt(300)).all()


def test_bootstrap_repeats_with_its_seed():
    a, b, c = boot_of(seed=1), boot_of(seed=1), boot_of(seed=2)
    np.testing.assert_array_equal(a.resampled.error, b.resampled.error)
    assert not np.array_equal(a.resampled.error, c.resampled.error)


def test_in_blocks_it_is_the_same_kind_of_sample(monkeypatch):
    whole = boot_of(resamples=800)
    monkeypatch.setattr("autometa.intervals._CELLS", 60 * 70)
    blocks = boot_of(resamples=800)
    assert not (blocks.resampled.error == 0).any()
    np.testing.assert_allclose(
        blocks.resampled.error.std(2), whole.resampled.error.std(2), rtol=0.15
    )


def mean_error(evaluation, seeds):
    return (evaluation.mean_errors()[0] * seeds.T[:, :, None]).sum(0)


def test_standard_error_by_hand_without_seeds():
    rng = np.random.default_rng(6)
    y = rng.normal(size=(80, 1))
    boot = bootstrap([np.zeros((1, 1, 80, 1))], y, [REGRESSION], resamples=4000)
    (found,) = boot.intervals(mean_error, 80.0)
    expected = np.square(y).std(ddof=1) / np.sqrt(80)
    assert found.se == pytest.approx(expected, rel=0.05)
    assert found.df == pytest.approx(79)
    assert found.estimate == pytest.approx(np.square(y).mean())


def test_few_seeds_that_decide_get_a_t_quantile_with_their_degrees_of_freedom():
    # every row of a seed has the same error: only the seeds vary
    offsets = np.array([0.5, 1.0, 1.5, 2.0])
    pred = np.broadcast_to(offsets[:, None, None, None], (4, 1, 50, 1))
    boot = bootstrap([pred], np.zeros((50, 1)), [REGRESSION], resamples=4000)
    (found,) = boot.intervals(mean_error, 50.0)
    expected = mean_interval(offsets**2)
    assert found.df == pytest.approx(3)
    assert found.low == pytest.approx(expected.low, rel=0.1)
    assert found.high == pytest.approx(expected.high, rel=0.1)


def test_interaction_of_seeds_and_rows_is_not_counted_three_times():
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(30):
        pred = rng.normal(size=(8, 1, 60, 1))
        boot = bootstrap([pred], np.zeros((60, 1)), [REGRESSION], resamples=300)
        (found,) = boot.intervals(mean_error, 60.0)
        ratios.append(found.se**2 / (np.square(pred).var(ddof=1) / (8 * 60)))
    # 3 is what resampling both at once gives; the floor at the larger part keeps it above 1
    assert 1.0 < np.mean(ratios) < 1.6


def test_arms_need_paired_seeds():
    arms = [np.zeros((2, 1, 3, 1)), np.zeros((3, 1, 3, 1))]
    with pytest.raises(ValueError, match="equal numbers of seeds"):
        bootstrap(arms, np.zeros((3, 1)), [REGRESSION])


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
