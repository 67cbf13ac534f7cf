"""Every peer on every kind of suite: what it learns, returns and refuses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info

from autometa.baselines import PEERS, FittedPeer, boosting
from autometa.baselines.base import Training
from autometa.baselines.fitted import with_task
from autometa.baselines.fitting import means
from autometa.errors import DataError
from autometa.metrics import evaluate
from autometa.tasks import TaskSuite
from tests.baselines.suites import SUITES, aligned, grouped, split

PAIRS = [(peer, kind) for peer in PEERS for kind in SUITES]


def pairs() -> list:
    return [p for p in PAIRS if "pooled" not in p[0] or "grouped" in p[1]]


def predict(fitted: FittedPeer, suite: TaskSuite) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for the test rows, and the score of each task."""
    rows = suite.open_test()
    task = None if rows.task is None else rows.task.numpy()
    found = fitted.predict(rows.x.numpy(), task)
    seen = evaluate(found, rows.y.numpy(), fitted.specs, mask=rows.mask.numpy(), task=task)
    return found, seen.task_scores()


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_it_learns_every_kind_of_task(name: str, kind: str) -> None:
    suite = SUITES[kind]()
    peer = PEERS[name]
    assert peer.applies(suite) is None
    fitted = peer.fit(suite, peer.settings(suite)[0], seed=0)
    found, scores = predict(fitted, suite)
    rows, outputs = suite.counts["test"], 3 if "multiclass" in suite.kinds else 1
    shape = (rows, outputs) if suite.is_grouped else (suite.n_tasks, rows, outputs)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert np.nanmean(scores) > 0.4
    if not suite.is_grouped:
        for t, task in enumerate(suite.tasks):
            width = task.n_outputs
            assert np.isfinite(found[t, :, :width]).all()
            assert np.isneginf(found[t, :, width:]).all()
            if task.kind == "multiclass":
                np.testing.assert_allclose(np.exp(found[t].astype(float)).sum(-1), 1, rtol=1e-5)
    facts = json.loads(json.dumps(fitted.to_json()))
    again = FittedPeer.from_parts(facts, fitted.estimators)
    np.testing.assert_array_equal(predict(again, suite)[0], found)


@pytest.mark.parametrize("name", PEERS)
def test_settings_are_few_plain_and_all_fit(name: str) -> None:
    peer = PEERS[name]
    for suite in (aligned(("regression", "binary"), rows=60), grouped("regression", rows=60)):
        if peer.applies(suite):
            continue
        settings = peer.settings(suite)
        assert 4 <= len(settings) <= 8
        assert len({json.dumps(one, sort_keys=True) for one in settings}) == len(settings)
        for setting in settings:
            fitted = peer.fit(suite, setting, seed=0)
            assert fitted.setting == setting
            assert fitted.words == peer.words(suite, setting)
            assert np.isfinite(predict(fitted, suite)[0]).all()


def test_pooled_peers_are_for_tasks_of_different_rows() -> None:
    for name in ("ridge_pooled", "boosting_pooled"):
        reason = PEERS[name].applies(aligned(("regression",)))
        assert reason == "All tasks have the same rows, so there is nothing to pool."
        assert "one task only" in str(PEERS[name].applies(grouped("regression", n_tasks=1)))


def test_images_are_for_linear_models_and_trees_if_they_are_small() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1, 6, 6)).astype(np.float32)
    y = np.stack([x[:, 0, 1, 1], x[:, 0, 2, 2]], 1)
    small = TaskSuite.from_arrays(x, y, splits=split(60))
    fits = {name for name, peer in PEERS.items() if peer.applies(small) is None}
    assert fits == {"ridge", "trees"}
    fitted = PEERS["ridge"].fit(small, {"alpha": 1.0}, seed=0)
    assert predict(fitted, small)[1].min() > 0.2
    large = TaskSuite.from_arrays(np.zeros((60, 1, 40, 40)) + rng.normal(size=(60, 1, 1, 1)), y)
    assert PEERS["trees"].applies(large) == (
        "An image has 1600 numbers, and at most 1024 are taken one by one."
    )


def test_ridge_is_the_closed_form() -> None:
    suite = aligned(("regression", "regression"), rows=50)
    rows, test = suite.rows("train"), suite.open_test()
    x, y = rows.x.numpy().astype(np.float64), rows.y.numpy().astype(np.float64)
    mean, level = x.mean(0), y.mean(0)
    w = np.linalg.solve((x - mean).T @ (x - mean) + 10 * np.eye(4), (x - mean).T @ (y - level))
    want = (test.x.numpy() - mean) @ w + level
    fitted = PEERS["ridge"].fit(suite, {"alpha": 10.0}, seed=0)
    np.testing.assert_allclose(fitted.predict(test.x.numpy())[:, :, 0].T, want, atol=1e-6)
    assert len(fitted.estimators) == 1  # one decomposition for both


def test_small_indicators_draw_the_levels_of_tasks_together() -> None:
    suite = grouped("regression")
    x = np.zeros((4, 3), dtype=np.float32)
    spread = [
        float(
            np.ptp(
                PEERS["ridge_pooled"]
                .fit(suite, {"alpha": 10.0, "scale": scale}, seed=0)
                .predict(x, np.arange(4))
            )
        )
        for scale in (10.0, 1.0, 0.1)
    ]
    assert spread[0] > spread[1] > 2 * spread[2]


def test_the_task_mean_is_smoothed_and_the_indicator_scaled() -> None:
    suite = TaskSuite.from_arrays(
        np.arange(8.0)[:, None],
        np.array([1.0, 3.0, 1.0, 3.0, 0.0, 0.0, 0.0, 0.0]),
        task=["a", "a", "b", "b"] + ["a", "b"] * 2,
        splits=["train"] * 4 + ["val", "val", "test", "test"],
    )
    # standardised: −1 and 1 in both tasks, so every mean is 0
    assert means(Training.of(suite, None))["table"] == [[0.0], [0.0]]
    y = suite.y.clone()
    y[:2] = 1.0
    y[2:4] = -1.0
    moved = dataclasses.replace(suite, y=y, fingerprint="")
    np.testing.assert_allclose(means(Training.of(moved, None))["table"], [[2 / 7], [-2 / 7]])
    table = with_task(np.zeros((2, 1), np.float32), np.array([1, 0]), {"one_hot": 3.0}, 2)
    np.testing.assert_array_equal(table, [[0, 0, 3], [0, 3, 0]])


def test_pooled_classes_are_matched_by_their_labels() -> None:
    """Class 1 of the second task is class 2 of the first."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    task = np.arange(300) // 150
    y = np.array(["low", "middle", "high"])[np.digitize(x[:, 0], [-0.5, 0.5])]
    y[(task == 1) & (y == "middle")] = "high"
    suite = TaskSuite.from_frame(
        pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y, "t": task.astype(str), "s": split(300)}),
        target="y",
        task_column="t",
        kinds="multiclass",
        split_column="s",
    )
    sizes = [len(t.classes) for t in suite.tasks]
    assert sizes == [3, 2]
    for name in ("trees", "boosting_pooled", "ridge_pooled"):
        peer = PEERS[name]
        found, scores = predict(peer.fit(suite, peer.settings(suite)[0], seed=0), suite)
        second = suite.open_test().task == 1
        assert np.isneginf(found[second, 2]).all()
        np.testing.assert_allclose(np.exp(found[second, :2].astype(float)).sum(-1), 1, rtol=1e-5)
        assert scores.min() > 0.4


@pytest.mark.parametrize("name", PEERS)
def test_single_classes_get_their_smoothed_frequency(name: str) -> None:
    suite = grouped("binary")
    y = suite.y.clone()
    y[suite.task == 1] = 0.0
    one = dataclasses.replace(suite, y=y, fingerprint="")
    setting = PEERS[name].settings(one)[0]
    x = np.zeros((1, 3), dtype=np.float32)
    found = PEERS[name].fit(one, setting, seed=0).predict(x, np.array([1]))
    if "tasks" in setting or "scale" in setting:  # pooled: other tasks have the other class
        assert found[0, 0] < 0
    else:
        n = int((one.rows("train").task == 1).sum())
        np.testing.assert_allclose(found[0, 0], np.log(0.5 / (n + 0.5)), rtol=1e-5)
    alone = aligned(("binary", "binary"))
    y = alone.y.clone()
    y[:, 1] = 1.0
    alone = dataclasses.replace(alone, y=y, fingerprint="")
    if PEERS[name].applies(alone) is None:
        fitted = PEERS[name].fit(alone, PEERS[name].settings(alone)[0], seed=0)
        n = alone.counts["train"]
        found = fitted.predict(np.zeros((1, 4), dtype=np.float32))[1, 0, 0]
        np.testing.assert_allclose(found, np.log((n + 0.5) / 0.5), rtol=1e-5)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_handful_of_rows_a_task_is_enough(name: str, rows: int) -> None:
    for kind in ("regression", "binary"):
        suite = grouped(kind, n_tasks=4, rows=160)
        train = suite.rows("train")
        kept = torch.cat([torch.nonzero(train.task == t)[:rows, 0] for t in range(4)])
        few = type(train)(*(None if part is None else part[kept] for part in train))
        for setting in PEERS[name].settings(suite):
            fitted = PEERS[name].fit(suite, setting, seed=0, rows=few)
            assert np.isfinite(predict(fitted, suite)[0]).all()


def test_a_class_that_was_never_seen_is_unlikely_and_finite() -> None:
    suite = aligned(("multiclass", "multiclass"))
    train = suite.rows("train")
    kept = train.y[:, 0] != 1
    some = type(train)(*(None if part is None else part[kept] for part in train))
    for name in ("ridge", "trees", "boosting"):
        peer = PEERS[name]
        fitted = peer.fit(suite, peer.settings(suite)[0], seed=0, rows=some)
        found = fitted.predict(suite.open_test().x.numpy())
        assert np.isfinite(found).all()
        assert (found[0].argmax(-1) != 1).all()


def test_unlabelled_rows_do_not_matter() -> None:
    suite = aligned(("regression", "binary"), missing=0.4)
    garbage = torch.where(suite.mask, suite.y, torch.ones_like(suite.y))
    other = dataclasses.replace(suite, y=garbage, fingerprint="")
    x = suite.open_test().x.numpy()
    for name in ("ridge", "trees", "boosting"):
        setting = PEERS[name].settings(suite)[0]
        a, b = (PEERS[name].fit(one, setting, seed=1).predict(x) for one in (suite, other))
        np.testing.assert_array_equal(a, b)


def test_one_forest_for_all_targets_with_the_same_rows() -> None:
    full = aligned(("binary",) * 3 + ("regression",))
    joint, apart = ({"forest": "extra", "leaf": 3, "features": 0.5, "tasks": how}
                    for how in ("joint", "apart"))  # fmt: skip
    trees = PEERS["trees"]
    assert sorted(trees.fit(full, joint, seed=0).estimators) == ["0", "3"]
    assert sorted(trees.fit(full, apart, seed=0).estimators) == ["0", "1", "2", "3"]
    gaps = aligned(("binary",) * 3, missing=0.2)
    assert len(trees.fit(gaps, joint, seed=0).estimators) == 3


def test_merged_rows_are_fitted_and_the_seed_repeats() -> None:
    suite = aligned(("regression", "regression"))
    x = suite.open_test().x.numpy()
    for name in ("ridge", "trees", "boosting"):
        setting = PEERS[name].settings(suite)[0]
        on_train, again, merged = (
            PEERS[name].fit(s, setting, seed=3).predict(x) for s in (suite, suite, suite.merged())
        )
        np.testing.assert_array_equal(on_train, again)
        assert np.abs(merged - on_train).max() > 0


def test_boosting_stops_early_where_rows_can_be_spared() -> None:
    setting = PEERS["boosting"].settings(aligned(("regression",)))[0]
    x = np.zeros((1200, 4))
    assert boosting._arguments(x, 1, setting, 0, True)["early_stopping"]
    assert not boosting._arguments(x[:999], 1, setting, 0, True)["early_stopping"]
    assert boosting._arguments(np.zeros((660, 784)), 55, setting, 0, False)["max_iter"] == 18


def test_it_runs_on_the_given_threads_and_leaves_the_limit_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def threads() -> list[int]:
        return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "openmp"]

    seen: list[int] = []
    fit = boosting.HistGradientBoostingRegressor.fit
    monkeypatch.setattr(
        boosting.HistGradientBoostingRegressor,
        "fit",
        lambda self, *args: (seen.extend(threads()), fit(self, *args))[1],
    )
    before = threads()
    suite = aligned(("regression",))
    PEERS["boosting"].fit(suite, PEERS["boosting"].settings(suite)[0], seed=0)
    assert set(seen) == {1}
    assert threads() == before


def test_wrong_input_is_refused() -> None:
    suite = aligned(("regression", "binary"))
    peer, x = PEERS["ridge"], suite.x.numpy()
    fitted = peer.fit(suite, {"alpha": 1.0}, seed=0)
    with pytest.raises(DataError, match="`task` should be left out for aligned tasks"):
        fitted.predict(x, np.zeros(len(x), dtype=np.int64))
    with pytest.raises(DataError, match="should have 4 features. Found 3."):
        fitted.predict(x[:, :3])
    with pytest.raises(DataError, match="estimator `0` is missing"):
        FittedPeer.from_parts(fitted.to_json(), {})
    with pytest.raises(DataError, match="not the facts of a fitted peer"):
        FittedPeer.from_parts({"parts": []}, {})
    mask = suite.mask.clone()
    mask[:, 1] = False
    with pytest.raises(DataError, match="Task 'binary-1' has no labelled training row"):
        peer.fit(dataclasses.replace(suite, mask=mask), {"alpha": 1.0}, seed=0)
    together = grouped("regression")
    rows = together.rows("train")
    with pytest.raises(DataError, match="`task` should be the task of each row"):
        peer.fit(together, {"alpha": 1.0}, seed=0).predict(rows.x.numpy())
