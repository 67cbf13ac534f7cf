"""Probes: what they say of suites whose nature is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from autometa.priors.probes import PROBES, measure, vector
from autometa.tasks import EpisodeShape, EpisodicSuite, TaskSuite


def aligned(noise: float, turned: bool = False) -> TaskSuite:
    """Two linear targets; the second is like the first, or its opposite."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    truth = x @ rng.normal(size=6)
    y = np.stack([truth, -truth if turned else truth], 1) + noise * rng.normal(size=(400, 2))
    return TaskSuite.from_arrays(x, y)


def grouped(opposed: bool) -> TaskSuite:
    """Four tasks of 60 rows with one linear function, or its opposite in every second task."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(240, 4))
    task = np.repeat(np.arange(4), 60)
    y = x @ np.array([1.0, 2.0, -1.0, 0.5]) * np.where(opposed & (task % 2 == 1), -1.0, 1.0)
    return TaskSuite.from_arrays(x, y + 0.3 * rng.normal(size=240), task=task)


def test_sizes_and_kinds() -> None:
    found = measure(aligned(0.1))
    assert tuple(found) == PROBES
    assert found["tasks"] == math.log10(2)
    assert found["features"] == math.log10(6)
    assert (found["image"], found["grouped"], found["regression"]) == (0, 0, 1)
    assert math.isnan(found["classes"])
    assert math.isnan(found["pooling"])
    assert found["rows"] == pytest.approx(math.log10(aligned(0.1).counts["train"]))


def test_noise_and_landmarks() -> None:
    quiet, loud = measure(aligned(0.05)), measure(aligned(4.0))
    assert quiet["noise"] < 0.02
    assert loud["noise"] > 0.5
    assert quiet["ridge"] > 0.97 > quiet["tree"] > loud["ridge"]


def test_alike_and_opposed_tasks() -> None:
    alike, opposed = measure(grouped(False)), measure(grouped(True))
    assert alike["agreement"] > 0.4
    assert alike["agreement"] - opposed["agreement"] > 0.4
    assert alike["pooling"] > -0.02
    assert opposed["pooling"] < -0.5
    assert alike["disagreement"] < opposed["disagreement"]
    assert measure(aligned(0.1))["correlation"] > 0.98


def test_classes_and_missing_labels() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3))
    y = pd.DataFrame(
        {
            "rare": np.where(x[:, 0] > 1.2, "yes", "no"),
            "even": np.where(x[:, 1] > 0, "b", "a"),
            "three": rng.choice(["p", "q", "r"], 300),
        }
    )
    y.loc[:149, "even"] = None
    frame = pd.concat([pd.DataFrame(x, columns=["x0", "x1", "x2"]), y], axis=1)
    found = measure(TaskSuite.from_frame(frame, targets=["rare", "even", "three"]))
    assert found["classes"] == pytest.approx(math.log10(7 / 3))
    assert found["labelled"] == pytest.approx(5 / 6, abs=0.03)
    assert 0.1 < found["imbalance"] < 0.4
    assert found["multiclass"] == pytest.approx(1 / 3)
    assert found["ridge"] > 0.1


def test_the_same_every_time_and_without_test_rows() -> None:
    suite = grouped(True)
    assert vector(dict(measure(suite))) == pytest.approx(
        vector(dict(measure(suite.without_test()))), nan_ok=True, abs=0
    )


def test_episodes_have_sizes_only() -> None:
    rng = np.random.default_rng(3)
    task = np.repeat(np.arange(12), 30)
    suite = TaskSuite.from_arrays(rng.normal(size=(360, 2)), rng.normal(size=360), task=task)
    found = measure(EpisodicSuite.from_suite(suite, EpisodeShape(shots=10, queries=5)))
    assert found["shots"] == 1
    assert math.isnan(found["ridge"])
    assert vector({"rows": None})[0] != vector({"rows": 1.0})[0] == 1.0
