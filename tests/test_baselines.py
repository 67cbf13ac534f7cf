"""The tree baseline: what it returns, tiny and degenerate tasks, its threads."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from autometa import baselines
from autometa.baselines import gbdt_predictions
from autometa.errors import DataError
from autometa.metrics import TaskSpec, evaluate

MIXED = [
    TaskSpec("r", "regression", "rmse"),
    TaskSpec("b", "binary", "auc"),
    TaskSpec("c", "multiclass", "accuracy", n_classes=3),
]


def aligned(rng, rows):
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    y = np.stack([x[:, 0] + 0.1 * rng.normal(size=rows), x[:, 1] > 0, np.digitize(x[:, 2], [0, 1])])
    return x, y.T.astype(np.float32)


def test_it_learns_every_kind_of_task():
    rng = np.random.default_rng(0)
    x, y = aligned(rng, 300)
    new, truth = aligned(rng, 200)
    pred = gbdt_predictions(x, y, new, MIXED)
    assert (pred.shape, pred.dtype) == ((3, 200, 3), np.float32)
    assert np.isneginf(pred[:2, :, 1:]).all()
    np.testing.assert_allclose(np.exp(pred[2].astype(float)).sum(-1), 1.0, rtol=1e-5)
    assert (evaluate(pred, truth, MIXED).task_scores() > 0.7).all()


def test_missing_labels_are_dropped():
    rng = np.random.default_rng(1)
    x, y = aligned(rng, 120)
    mask = rng.random(y.shape) < 0.5
    garbage = np.where(mask, y, 0)
    found = gbdt_predictions(x, garbage, x[:9], MIXED, mask_train=mask)
    for t, spec in enumerate(MIXED):
        rows = mask[:, t]
        alone = gbdt_predictions(x[rows], y[rows, t : t + 1], x[:9], [spec])
        np.testing.assert_array_equal(found[t, :, : alone.shape[-1]], alone[0])


def test_grouped_tasks_are_fitted_apart():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(240, 2)).astype(np.float32)
    task = rng.integers(0, 3, 240)
    slope = np.array([2.0, -2.0, 0.0])[task]
    y = (slope * x[:, 0]).astype(np.float32)
    specs = [TaskSpec(n, "regression", "rmse") for n in "abc"]
    pred = gbdt_predictions(x, y, x, specs, task_train=task, task=task)
    assert pred.shape == (240, 1)
    assert (evaluate(pred, y, specs, task=task).task_scores()[:2] > 0.8).all()
    moved = y.copy()
    moved[task == 2] += 5
    again = gbdt_predictions(x, moved, x, specs, task_train=task, task=task)
    np.testing.assert_array_equal(again[task < 2], pred[task < 2])


def test_a_task_of_22_rows_is_learned():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(422, 3)).astype(np.float32)
    y = np.sign(x[:, :1])
    pred = gbdt_predictions(x[:22], y[:22], x[22:], [TaskSpec("t", "regression", "rmse")])
    found = evaluate(pred, y[22:], [TaskSpec("t", "regression", "rmse")])
    assert float(found.value()) > 0.3


@pytest.mark.parametrize("rows", [1, 2, 3, 10])
def test_a_handful_of_rows_is_enough(rows):
    x = np.arange(4.0 * rows, dtype=np.float32).reshape(rows, 4)
    y = np.stack([np.arange(rows), np.arange(rows) % 2, np.arange(rows) % 3], 1)
    pred = gbdt_predictions(x, y.astype(np.float32), x, MIXED)
    assert np.isfinite(pred[:, :, 0]).all()


def test_single_class_and_absent_classes():
    x = np.random.default_rng(4).normal(size=(30, 2)).astype(np.float32)
    y = np.stack([np.ones(30), np.full(30, 2), np.arange(30) % 2 * 2], 1).astype(np.float32)
    specs = [MIXED[1], MIXED[2], MIXED[2]]
    pred = gbdt_predictions(x, y, x, specs)
    np.testing.assert_allclose(pred[0, :, 0], np.log(30.5 / 0.5), rtol=1e-5)
    np.testing.assert_allclose(np.exp(pred[1, 0]), np.array([0.5, 0.5, 30.5]) / 31.5, rtol=1e-5)
    assert np.isfinite(pred[2]).all()
    assert (pred[2].argmax(-1) != 1).all()


def test_images_are_flattened_and_missing_values_taken():
    x = np.random.default_rng(5).normal(size=(60, 1, 4, 4)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    y = (x[:, 0, 1, 1] > 0).astype(np.float32)[:, None]
    pred = gbdt_predictions(x, y, x, [MIXED[1]])
    assert float(evaluate(pred, y, [MIXED[1]]).value()) > 0.9


def test_large_tasks_stop_early_and_repeat_with_the_seed():
    rng = np.random.default_rng(6)
    x, y = aligned(rng, 1200)
    assert baselines._settings(1200, 4, 1, 0, True)["early_stopping"]
    assert not baselines._settings(999, 4, 1, 0, True)["early_stopping"]
    assert baselines._settings(660, 784, 55, 0, False)["max_iter"] == 18
    a = gbdt_predictions(x, y[:, :1], x[:50], MIXED[:1], seed=3)
    b = gbdt_predictions(x, y[:, :1], x[:50], MIXED[:1], seed=3)
    np.testing.assert_array_equal(a, b)


def test_it_runs_on_one_thread_and_leaves_the_limit_as_it_was(monkeypatch):
    def threads():
        return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "openmp"]

    seen = []
    fit = baselines.HistGradientBoostingRegressor.fit
    monkeypatch.setattr(
        baselines.HistGradientBoostingRegressor,
        "fit",
        lambda self, *args: (seen.extend(threads()), fit(self, *args))[1],
    )
    before = threads()
    x, y = aligned(np.random.default_rng(7), 40)
    gbdt_predictions(x, y[:, :1], x, MIXED[:1])
    assert set(seen) == {1}
    assert threads() == before


def test_wrong_input_is_refused():
    x, y = aligned(np.random.default_rng(8), 20)
    mask = np.ones(y.shape, dtype=bool)
    mask[:, 1] = False
    with pytest.raises(DataError, match="Task 'b' has no labelled training row"):
        gbdt_predictions(x, y, x, MIXED, mask_train=mask)
    with pytest.raises(DataError, match="should both be given"):
        gbdt_predictions(x, y[:, 0], x, MIXED, task_train=np.zeros(20, dtype=np.int64))
