"""Prediction intervals of models of many tasks: how often they hold the new value."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import UserError
from autometa.metrics import TaskSpec
from autometa.model.conformal import Calibration, Scores, calibrate, reach
from autometa.tasks import TaskSuite
from tests.model.test_ensemble import train_ensemble
from tests.model.test_model import train
from tests.small import make_suite, make_table

A, B = TaskSpec("a", "regression", "rmse"), TaskSpec("b", "regression", "rmse")
CLASSES = TaskSpec("c", "binary", "accuracy")


def coverage(
    draw, level: float, rows: int, specs=(A,), repeats: int = 400, new: int = 200, seed: int = 0
) -> np.ndarray:
    """Share of new values inside their intervals, [repeat, task]; `draw(rng, n)` gives the
    members' outputs [M, T, n, 1] and the truth [n, T]."""
    found = []
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        outputs, y = draw(rng, rows + new)
        known = calibrate(outputs[:, :, :rows], y[:rows], specs)
        assert known is not None
        names = [spec.name for spec in specs]
        fresh = outputs[:, :, rows:]
        half = reach(known, fresh, names, range(len(specs)), level)
        middle = fresh[..., 0].mean(0)
        found.append((np.abs(y[rows:].T - middle) <= half).mean(1))
    return np.array(found)


def alone(rng: np.random.Generator, n: int):
    """One member, noise of one size."""
    signal = rng.normal(size=n)
    return signal[None, None, :, None], (signal + rng.normal(size=n))[:, None]


def uneven(rng: np.random.Generator, n: int):
    """Five members that disagree where the noise is large, which differs by a factor of ten."""
    size = np.exp(rng.uniform(-1.15, 1.15, n))
    members = size * rng.normal(size=(5, n)) * 0.5
    return members[:, None, :, None], (size * rng.normal(size=n))[:, None]


def skewed(rng: np.random.Generator, n: int):
    """Three members that are wrong in one direction, with heavy tails."""
    members = rng.normal(scale=0.2, size=(3, n))
    return members[:, None, :, None], (rng.exponential(size=n) ** 1.5)[:, None]


@pytest.mark.parametrize("draw", [alone, uneven, skewed])
@pytest.mark.parametrize(("level", "rows"), [(0.9, 20), (0.9, 60), (0.9, 500), (0.5, 40)])
def test_coverage(draw, level, rows):
    """On average over 400 draws of calibration rows; expected: ⌈(n + 1)·level⌉/(n + 1), and with
    more than 200 scores at most half a percent more."""
    found = coverage(draw, level, rows)
    expected = math.ceil((rows + 1) * level) / (rows + 1)
    error = 3 * found.std() / math.sqrt(len(found))
    assert found.mean() > level - error
    assert expected - error - 0.005 <= found.mean() <= expected + error + 0.01


def test_intervals_are_wide_where_members_disagree():
    rng = np.random.default_rng(1)
    outputs, y = uneven(rng, 4000)
    known = calibrate(outputs[:, :, :2000], y[:2000], (A,))
    new, truth = outputs[:, :, 2000:], y[2000:, 0]
    half = reach(known, new, ["a"], [0], 0.9)[0]
    spread = new[:, 0, :, 0].std(0)
    wide = spread > np.median(spread)
    inside = np.abs(truth - new[:, 0, :, 0].mean(0)) <= half
    assert half[wide].mean() > 1.5 * half[~wide].mean()
    assert abs(inside[wide].mean() - inside[~wide].mean()) < 0.1
    flat = calibrate(outputs[:1, :, :2000] * 0, y[:2000], (A,))
    same = np.abs(truth) <= reach(flat, new[:1] * 0, ["a"], [0], 0.9)[0]
    assert same[~wide].mean() - same[wide].mean() > 0.08  # what one width for all rows does


def test_one_member_by_hand():
    y = np.arange(1, 25, dtype=float)[:, None]  # errors 1 to 24, median 12.5
    known = calibrate(np.zeros((1, 1, 24, 1)), y, (A,))
    assert known.sigma == (12.5,)
    half = reach(known, np.zeros((1, 1, 2, 1)), ["a"], [0], 0.9)
    np.testing.assert_allclose(half, [[23.0, 23.0]])  # the ⌈25 · 0.9⌉-th of 24
    half = reach(known, np.zeros((1, 1, 2, 1)), ["a"], [0], 0.5)
    np.testing.assert_allclose(half, [[13.0, 13.0]])


class TestScores:
    def test_a_level_needs_rows(self):
        scores = Scores.of(np.arange(19.0))
        assert scores.highest == 0.95
        assert scores.quantile(0.95) == 18
        assert scores.quantile(0.951) is None
        assert scores.quantile(1e-6) == 0

    @pytest.mark.parametrize("n", [1, 150, 200, 201, 399, 1000, 12345])
    def test_thinning_errs_to_the_wide_side_and_little(self, n):
        scores = Scores.of(np.random.default_rng(0).permutation(n).astype(float))
        assert len(scores.values) <= 200
        assert scores.values[-1] == n - 1
        for level in (0.02, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99):
            rank = math.ceil((n + 1) * level)
            found = scores.quantile(level)
            if rank > n:
                assert found is None
            else:
                assert rank - 1 <= found <= rank - 1 + n / 200

    def test_none_at_all(self):
        assert Scores.of(np.array([])).quantile(0.5) is None


class TestTasks:
    def test_each_has_its_own_where_it_has_rows(self):
        def draw(rng, n):
            noise = rng.normal(size=(n, 2)) * [1.0, 0.05]
            return np.zeros((1, 2, n, 1)), noise

        found = coverage(draw, 0.9, 50, (A, B))
        np.testing.assert_allclose(found.mean(0), 0.9, atol=0.02)
        rng = np.random.default_rng(0)
        outputs, y = draw(rng, 500)
        half = reach(calibrate(outputs, y, (A, B)), outputs, ["a", "b"], [0, 1], 0.9)
        np.testing.assert_allclose(half[0] / half[1], 20, rtol=0.3)

    def test_grouped_tasks_with_few_rows_borrow(self):
        """Forty tasks of 8 rows: pooled, intervals hold as much as they say."""
        rng = np.random.default_rng(0)
        specs = [TaskSpec(f"t{n}", "regression", "rmse") for n in range(40)]
        task = np.repeat(np.arange(40), 8)
        names, inside = [spec.name for spec in specs], []
        for _ in range(60):
            known = calibrate(np.zeros((1, 320, 1)), rng.standard_t(4, size=320), specs, task=task)
            assert known.own == (None,) * 40
            assert known.pooled.rows == 320
            half = reach(known, np.zeros((1, 320, 1)), names, range(40), 0.9, task)
            inside.append((np.abs(rng.standard_t(4, size=320)) <= half).mean())
        assert abs(np.mean(inside) - 0.9) < 0.012

    def test_a_high_level_takes_the_pooled_scores(self):
        rng = np.random.default_rng(0)
        y = rng.normal(size=(60, 2))
        known = calibrate(np.zeros((1, 2, 60, 1)), y, (A, B))
        assert known.own[0].quantile(0.99) is None
        assert known.width(0, "a", 0.99) == known.pooled.quantile(0.99)
        with pytest.raises(UserError, match=r"should be at most 0.991 for `a`.*known on 120 rows"):
            known.width(0, "a", 0.995)

    def test_only_what_is_known_counts(self):
        rng = np.random.default_rng(0)
        y, mask = rng.normal(size=(90, 2)), np.ones((90, 2), dtype=bool)
        mask[30:, 0] = False
        y[30:, 0] = 1e6
        known = calibrate(np.zeros((1, 2, 90, 1)), y, (A, B), mask=mask)
        assert [one.rows for one in known.own] == [30, 90]
        assert known.pooled.rows == 120
        assert known.sigma[0] < 2

    def test_classes_have_none(self):
        y = np.random.default_rng(0).normal(size=(50, 2))
        y[:, 1] = y[:, 1] > 0
        known = calibrate(np.zeros((1, 2, 50, 1)), y, (A, CLASSES))
        assert known.sigma[1] is None
        assert known.own[1] is None
        assert known.pooled.rows == 50
        half = reach(known, np.zeros((1, 2, 3, 1)), ["a", "c"], [0, 1], 0.9)
        assert np.isnan(half[1]).all()
        assert calibrate(np.zeros((1, 1, 50, 1)), y[:, 1:], (CLASSES,)) is None

    def test_errors_of_zero(self):
        """A model that is nearly always right is off by as much as it is off."""
        y = np.zeros((100, 1))
        y[:5] = 3.0
        known = calibrate(np.zeros((1, 1, 100, 1)), y, (A,))
        new = np.zeros((1, 1, 1, 1))
        np.testing.assert_allclose(reach(known, new, ["a"], [0], 0.9), [[0.0]])
        np.testing.assert_allclose(reach(known, new, ["a"], [0], 0.98), [[3.0]])
        known = calibrate(np.zeros((1, 1, 100, 1)), 0 * y, (A,))
        np.testing.assert_allclose(reach(known, new, ["a"], [0], 0.98), [[0.0]])

    def test_plain_json(self):
        y = np.random.default_rng(0).normal(size=(900, 2))
        known = calibrate(np.zeros((2, 2, 900, 1)), y, (A, CLASSES))
        text = json.dumps(known.to_json())
        assert Calibration.from_json(json.loads(text)) == known
        assert len(text) < 10_000


# --- as users see it ------------------------------------------------------------------------------


def numbers_suite(grouped: bool, rows: int = 900) -> tuple[TaskSuite, pd.DataFrame]:
    """Two targets (or tasks) whose noise grows with |a|, and the rows left for a look at it."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, rows + 2000))
    noise = (0.1 + np.abs(a)) * rng.normal(size=(2, rows + 2000))
    table = pd.DataFrame({"a": a, "b": b})
    if grouped:
        site = np.arange(len(table)) % 2
        price = 500 + 80 * np.where(site, a + noise[0], b - noise[1])
        table = table.assign(site=np.array(["x", "y"])[site], price=price)
        made = TaskSuite.from_frame(table[:rows], target="price", task_column="site")
    else:
        table = table.assign(price=500 + 80 * (a + noise[0]), size=b + 0.1 * noise[1])
        table["dear"] = np.where(table["price"] > 500, "yes", "no")
        made = TaskSuite.from_frame(table[:rows], targets=["price", "size", "dear"])
    return made, table[rows:]


class TestPredict:
    def test_aligned(self):
        suite, new = numbers_suite(grouped=False)
        model, *_ = train_ensemble(suite, members=3)
        found = model.predict(new, interval=0.9)
        assert list(found) == [
            "price", "price_lower", "price_upper", "size", "size_lower", "size_upper", "dear",
        ]  # fmt: skip
        plain = model.predict(new)
        pd.testing.assert_frame_equal(found[["price", "size", "dear"]], plain)
        assert found.index.equals(new.index)
        for name in ("price", "size"):
            low, high = found[f"{name}_lower"], found[f"{name}_upper"]
            np.testing.assert_allclose((low + high) / 2, found[name], rtol=1e-6)
            inside = new[name].between(low, high).mean()
            assert abs(inside - 0.9) < 0.05  # 180 calibration rows: standard deviation 0.022
        wider = model.predict(new, "price", interval=0.95)
        assert list(wider) == ["price", "price_lower", "price_upper"]
        assert (wider["price_upper"] > found["price_upper"]).all()

    def test_grouped(self):
        suite, new = numbers_suite(grouped=True)
        model, *_ = train_ensemble(suite, members=3)
        found = model.predict(new, interval=0.9)
        assert list(found) == ["site", "prediction", "prediction_lower", "prediction_upper"]
        pd.testing.assert_frame_equal(found[["site", "prediction"]], model.predict(new))
        inside = new["price"].between(found["prediction_lower"], found["prediction_upper"])
        assert (inside.groupby(new["site"]).mean() - 0.9).abs().max() < 0.07

    def test_one_network(self):
        suite, new = numbers_suite(grouped=False)
        model, *_ = train_ensemble(suite, members=1)
        found = model.predict(new, interval=0.9)
        width = found["price_upper"] - found["price_lower"]
        np.testing.assert_allclose(width, width.iloc[0])
        assert (
            abs(new["price"].between(found["price_lower"], found["price_upper"]).mean() - 0.9)
            < 0.05
        )

    def test_no_rows(self):
        suite, new = numbers_suite(grouped=False)
        model, *_ = train_ensemble(suite, members=2)
        assert model.predict(new[:0], interval=0.9).shape == (0, 7)

    def test_refusals(self):
        model, *_ = train_ensemble(make_suite(), members=1)
        table = make_table(5)
        with pytest.raises(UserError, match="`interval` should be a probability"):
            model.predict(table, interval=1.0)
        with pytest.raises(UserError, match="either `proba`"):
            model.predict(table, interval=0.9, proba=True)
        with pytest.raises(UserError, match="is for numbers; `species`, `sold` have classes"):
            model.predict(table, ["species", "sold"], interval=0.9)
        with pytest.raises(UserError, match="should be at most .* for `size`.* rows"):
            model.predict(table, interval=0.999)
        assert model.predict(table, ["species"]).shape == (5, 1)
        grouped, *_ = train_ensemble(make_suite("grouped"), members=1)
        with pytest.raises(UserError, match="`north`, `south` have classes, use `proba`"):
            grouped.predict(table, interval=0.9)

    def test_a_model_that_nothing_is_known_of(self):
        model = train(make_suite())
        assert model.calibration is None
        with pytest.raises(UserError, match="nothing is known of the model's errors.*= 0.9"):
            model.predict(make_table(5), interval=0.9)


def test_the_reading_is_standardised():
    suite, new = numbers_suite(grouped=False)
    model, *_ = train_ensemble(suite, members=2)
    x = model.encoder.encode(new)
    reading = model._read(x, None, [0], 0.9)
    assert np.isnan(reading.reach[1:]).all()
    found = model.predict(new, "price", interval=0.9)
    task = model.tasks[0]
    np.testing.assert_allclose(
        found["price_upper"] - found["price"], reading.reach[0] * task.std, rtol=1e-6
    )
    assert isinstance(x, torch.Tensor)
