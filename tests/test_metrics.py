"""Golden values, invariances and errors of the task metrics, the score and Δm."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from autometa.errors import ConfigError, DataError
from autometa.metrics import TaskSpec, delta_m, evaluate, fit_specs, signs

REGRESSION = TaskSpec("r", "regression", "rmse", std=2.0)
BINARY = TaskSpec("b", "binary", "accuracy", constant=1)
CLASSES = TaskSpec("c", "multiclass", "accuracy", constant=2, n_classes=3)
AUC = TaskSpec("a", "binary", "auc")


def one(spec, truth, pred):
    """The TaskEval of one grouped task; `pred` is `[n]` or `[n, C]`."""
    pred = np.asarray(pred, dtype=np.float32)
    pred = pred[:, None] if pred.ndim == 1 else pred
    y = np.asarray(truth, dtype=np.float32)
    return evaluate(pred, y, [spec], task=np.zeros(len(y), dtype=np.int64)).tasks()[0]


# --- one task, by hand ----------------------------------------------------------------------------


def test_rmse_by_hand():
    found = one(REGRESSION, [1, -1, 2], [1, 0, 0])
    assert (found.error, found.constant_error, found.n) == (5.0, 6.0, 3)
    assert found.score == pytest.approx(1 / 6)
    assert found.value == pytest.approx(2 * np.sqrt(5 / 3))  # in the target's units


def test_binary_accuracy_by_hand():
    # logits > 0 are class 1: found 1, 0, 1, 0; truth 1, 1, 0, 0; the constant 1 errs twice
    found = one(BINARY, [1, 1, 0, 0], [0.3, -2.0, 5.0, 0.0])
    assert (found.error, found.constant_error, found.value) == (2.0, 2.0, 0.5)
    assert found.score == 0.0


def test_multiclass_accuracy_by_hand():
    logits = [[3, 1, 0], [0, 1, 2], [0, 4, 2], [1, 0, -1]]  # found 0, 2, 1, 0
    found = one(CLASSES, [0, 2, 1, 1], logits)
    assert (found.error, found.constant_error, found.value) == (1.0, 3.0, 0.75)
    assert found.score == pytest.approx(2 / 3)


def test_classes_beyond_the_tasks_own_are_never_found():
    found = one(CLASSES, [2], [[0, 0, 1, 99]])
    assert found.value == 1.0


def test_auc_by_hand():
    found = one(AUC, [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    assert found.value == 0.75
    assert (found.error, found.constant_error) == (2.0, 4.0)  # 2 × one wrong pair, 2 × 2 pairs
    assert found.score == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_scikit_learns_with_ties(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 60)
    logits = rng.integers(0, 8, (4, 60, 1)).astype(np.float32)
    found = evaluate(logits, y.astype(np.float32), [AUC], task=np.zeros(60, dtype=np.int64))
    expected = [roc_auc_score(y, run[:, 0]) for run in logits]
    np.testing.assert_allclose(found.task_values()[:, 0], expected, rtol=1e-12)


# --- the score ------------------------------------------------------------------------------------


def test_errors_are_summed_before_they_are_compared():
    y = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    pred = np.array([0.0, 2.0, 1.0], dtype=np.float32)[:, None]
    specs = [TaskSpec(n, "regression", "rmse") for n in "ab"]
    found = evaluate(pred, y, specs, task=np.array([0, 1, 1]))
    assert found.task_scores().tolist() == pytest.approx([0.0, 1 - 4 / 13])
    assert float(found.value()) == pytest.approx(1 - 5 / 14)  # not the mean of the task scores


def test_auc_tasks_are_pooled_by_their_pairs():
    y = np.array([0, 0, 1, 1, 0, 1, 1, 1], dtype=np.float32)
    logits = np.array([0.1, 0.4, 0.35, 0.8, 1.0, 0.0, 2.0, 3.0], dtype=np.float32)[:, None]
    task = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    found = evaluate(logits, y, [TaskSpec(n, "binary", "auc") for n in "abc"], task=task)
    # pairs 4 and 2, AUC 0.75 and 0.5, the third task has one class
    assert float(found.value()) == pytest.approx((4 * 0.5 + 2 * 0.0) / 6)
    assert [t.score for t in found.tasks()] == [0.5, 0.0, None]
    assert [t.judged for t in found.tasks()] == [True, True, False]


def test_value_weights_metric_groups_by_their_number_of_tasks():
    y = np.array([[1.0, 1, 0], [1.0, 0, 1], [-2.0, 1, 1]], dtype=np.float32)
    pred = np.zeros((3, 3, 1), dtype=np.float32)
    pred[0, :, 0] = [1.0, 1.0, -1.0]  # E = 1, E0 = 6
    pred[1, :, 0] = [1.0, -1.0, 1.0]  # all right, E0 = 1
    pred[2, :, 0] = [1.0, 1.0, 1.0]  # one wrong, E0 = 1
    specs = [REGRESSION, BINARY, TaskSpec("b2", "binary", "accuracy", constant=1)]
    found = evaluate(pred, y, specs)
    assert {k: float(v) for k, v in found.group_scores().items()} == pytest.approx(
        {"rmse": 5 / 6, "accuracy": 1 - 1 / 2}
    )
    assert float(found.value()) == pytest.approx((1 * 5 / 6 + 2 * 1 / 2) / 3)


def mixed(rng, rows=40):
    """An aligned suite with a regression, an accuracy and an AUC task, some labels missing."""
    specs = [REGRESSION, BINARY, CLASSES, AUC]
    y = np.stack(
        [rng.normal(size=rows), *(rng.integers(0, c, rows) for c in (2, 3, 2))], axis=1
    ).astype(np.float32)
    mask = rng.random(y.shape) < 0.8
    return specs, np.where(mask, y, 0).astype(np.float32), mask


def perfect(y, specs):
    pred = np.zeros((len(specs), len(y), 3), dtype=np.float32)
    pred[:, :, 0] = y.T
    for t, spec in enumerate(specs):
        if spec.kind == "binary":
            pred[t, :, 0] = np.where(y[:, t] == 1, 3.0, -3.0)
        if spec.kind == "multiclass":
            pred[t] = np.eye(3, dtype=np.float32)[y[:, t].astype(int)]
    return pred


def constant(y, specs):
    pred = np.zeros((len(specs), len(y), 3), dtype=np.float32)
    for t, spec in enumerate(specs):
        if spec.metric == "accuracy" and spec.kind == "binary":
            pred[t, :, 0] = 1.0 if spec.constant else -1.0
        if spec.kind == "multiclass":
            pred[t, :, spec.constant] = 1.0
    return pred


def test_perfect_is_exactly_one_and_the_constant_exactly_zero():
    specs, y, mask = mixed(np.random.default_rng(0))
    pred = np.stack([perfect(y, specs), constant(y, specs)])
    found = evaluate(pred, y, specs, mask=mask)
    assert found.value().tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(found.task_scores(), [[1.0] * 4, [0.0] * 4])


def test_value_is_clipped_at_minus_one_and_task_scores_are_not():
    found = evaluate(
        np.array([[100.0], [100.0]], dtype=np.float32), np.ones(2, np.float32), [REGRESSION],
        task=np.zeros(2, dtype=np.int64),
    )  # fmt: skip
    assert float(found.value()) == -1.0
    assert float(found.task_scores()[0]) == 1 - 99.0**2


def test_masked_labels_do_not_count():
    specs, y, mask = mixed(np.random.default_rng(1))
    pred = constant(y, specs)
    other, changed = y.copy(), pred.copy()
    other[~mask] = 1
    changed[~mask.T] = 7
    a, b = evaluate(pred, y, specs, mask=mask), evaluate(changed, other, specs, mask=mask)
    np.testing.assert_array_equal(a.error, b.error)
    np.testing.assert_array_equal(a.n, mask.sum(0))


def test_aligned_and_grouped_agree():
    rng = np.random.default_rng(2)
    specs, y, mask = mixed(rng)
    pred = rng.normal(size=(2, 4, 40, 3)).astype(np.float32)
    task, rows = np.nonzero(mask.T)
    a = evaluate(pred, y, specs, mask=mask)
    b = evaluate(np.ascontiguousarray(pred[:, task, rows]), y[rows, task], specs, task=task)
    np.testing.assert_allclose(a.value(), b.value())
    np.testing.assert_allclose(a.task_values(), b.task_values())


def test_runs_are_independent_axes():
    rng = np.random.default_rng(3)
    specs, y, mask = mixed(rng)
    pred = rng.normal(size=(2, 3, 4, 40, 3)).astype(np.float32)
    both = evaluate(pred, y, specs, mask=mask)
    single = evaluate(pred[1, 2], y, specs, mask=mask)
    assert both.value().shape == (2, 3)
    assert both.tasks((1, 2)) == single.tasks()
    assert both.value()[1, 2] == single.value()


# --- what cannot be judged ------------------------------------------------------------------------


def test_a_constant_without_error_is_not_judged_and_never_zero():
    found = one(REGRESSION, [0, 0], [0.5, 0.0])
    assert not found.judged
    assert found.score is None
    assert found.value == pytest.approx(2 * np.sqrt(0.125))
    assert "NaN" not in json.dumps({"score": found.score}, allow_nan=False)


def test_such_a_tasks_errors_still_count_in_its_group():
    y = np.array([0.0, 2.0], dtype=np.float32)
    specs = [TaskSpec(n, "regression", "rmse") for n in "ab"]
    found = evaluate(np.ones((2, 1), np.float32), y, specs, task=np.array([0, 1]))
    assert float(found.value()) == 1 - 2 / 4


def test_a_group_that_cannot_be_judged_carries_no_weight():
    y = np.array([[1.0, 1], [2.0, 1]], dtype=np.float32)
    pred = np.zeros((2, 2, 1), dtype=np.float32)
    pred[0, :, 0] = [1.0, 1.0]
    assert float(evaluate(pred, y, [REGRESSION, AUC]).value()) == pytest.approx(1 - 1 / 5)
    assert np.isnan(evaluate(pred[1:], y[:, 1:], [AUC]).value())


@pytest.mark.parametrize("spec", [REGRESSION, BINARY, AUC, CLASSES])
def test_nan_predictions_are_no_score(spec):
    y = np.array([0, 1, 1], dtype=np.float32)
    pred = np.zeros((2, 3, 3), dtype=np.float32)
    pred[1, 1, 0] = np.nan
    found = evaluate(pred, y, [spec], task=np.zeros(3, dtype=np.int64)).value()
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_a_task_without_rows_is_not_judged():
    specs = [REGRESSION, TaskSpec("empty", "regression", "rmse")]
    found = evaluate(
        np.zeros((2, 1), np.float32), np.ones(2, np.float32), specs, task=np.zeros(2, np.int64)
    )
    assert [t.n for t in found.tasks()] == [2, 0]
    assert found.tasks()[1].score is None
    assert np.isnan(found.tasks()[1].value)


# --- constants and errors -------------------------------------------------------------------------


def test_constants_come_from_the_training_rows():
    y = np.array([[0.3, 1, 2], [0.1, 0, 2], [0.2, 1, 0], [9.0, 0, 1]], dtype=np.float32)
    mask = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1]], dtype=bool)
    specs = fit_specs(
        y, names=["r", "b", "c"], kinds=["regression", "binary", "multiclass"],
        metrics=["rmse", "accuracy", "accuracy"], n_classes=[1, 2, 3], stds=[2.0, 1.0, 1.0],
        mask=mask,
    )  # fmt: skip
    assert [s.constant for s in specs] == [0, 1, 2]
    assert [s.std for s in specs] == [2.0, 1.0, 1.0]
    grouped = fit_specs(
        np.array([1, 1, 0, 0, 0], dtype=np.float32), names=["a", "b"], kinds=["binary"] * 2,
        metrics=["accuracy"] * 2, n_classes=[2, 2], task=np.array([0, 0, 0, 1, 1]),
    )  # fmt: skip
    assert [s.constant for s in grouped] == [1, 0]
    assert TaskSpec(**asdict(grouped[0])) == grouped[0]


def test_unknown_kinds_and_metrics_name_what_exists():
    with pytest.raises(ConfigError, match="Did you mean `regression`"):
        TaskSpec("t", "regresion", "rmse")
    with pytest.raises(ConfigError, match=r"should be rmse. Found `metric = 'r2'`"):
        TaskSpec("t", "regression", "r2")
    with pytest.raises(ConfigError, match="accuracy or auc"):
        TaskSpec("t", "binary", "rmse")


@pytest.mark.parametrize(
    ("pred", "y"),
    [((2, 3, 1), (3, 1)), ((1, 4, 1), (3, 1)), ((1, 3, 1), (3,)), ((1, 3, 0), (3, 1))],
)
def test_arrays_that_do_not_fit_are_refused(pred, y):
    with pytest.raises(DataError, match="should have shape"):
        evaluate(np.zeros(pred, np.float32), np.zeros(y, np.float32), [REGRESSION])


# --- Δm -------------------------------------------------------------------------------------------


def test_delta_m_by_hand():
    specs = [REGRESSION, BINARY, AUC]
    independent = np.array([[2.0, 0.7, 0.6], [2.0, 0.9, 0.6]])  # means 2.0, 0.8, 0.6
    values = np.array([[1.5, 0.9, 0.6], [2.0, 0.8, 0.6], [2.2, 0.4, 0.9]])
    expected = [(25 + 12.5 + 0) / 3, 0.0, (-10 - 50 + 50) / 3]
    np.testing.assert_allclose(delta_m(values, independent, specs), expected, atol=1e-12)
    assert signs(specs).tolist() == [-1, 1, 1]


def test_delta_m_leaves_out_what_is_not_defined():
    specs = [BINARY, BINARY, AUC]
    independent = np.array([[0.5, 0.0, np.nan]])
    assert delta_m(np.array([0.6, 0.5, np.nan]), independent, specs) == pytest.approx(20.0)
    assert np.isnan(delta_m(np.array([0.5]), np.array([[0.0]]), [BINARY]))


def test_delta_m_is_of_rmse_never_of_r2_or_the_score():
    # equal residuals around another target: the score changes, Δm must not
    rng = np.random.default_rng(4)
    residuals = rng.normal(size=(2, 1, 30, 1))
    found = []
    for y in (rng.normal(size=(30, 1)), 5 + 3 * rng.normal(size=(30, 1))):
        e = evaluate(y.T[None, :, :, None] + residuals, y, [REGRESSION])
        found.append((delta_m(e.task_values()[0], e.task_values()[1:], [REGRESSION]), e.value()[0]))
    rms = np.sqrt(np.square(residuals).mean(axis=(1, 2, 3)))
    assert found[0][0] == pytest.approx(found[1][0])
    assert found[0][0] == pytest.approx(100 * (rms[1] - rms[0]) / rms[1])
    assert abs(found[0][1] - found[1][1]) > 0.1
