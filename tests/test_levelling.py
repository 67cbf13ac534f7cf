"""Whether an arm has levelled off: golden cases of its gain by a longer budget."""

from __future__ import annotations

import numpy as np
import pytest

from autometa.intervals import mean_interval
from autometa.levelling import WORTH, gain_of


def test_the_finalists_are_the_sample() -> None:
    short = np.array([[0.50], [0.52], [0.48]])
    longer = np.array([[0.55], [0.56], [0.54]])
    found = gain_of("sharing", 100, 300, short, longer)
    interval = mean_interval(np.array([0.05, 0.04, 0.06]), level=0.9)
    assert found.to_json() == {
        "arm": "sharing",
        "steps": 100,
        "longer": 300,
        "gain": pytest.approx(0.05),
        "low": pytest.approx(interval.low),
        "high": pytest.approx(interval.high),
        "gains": True,
    }


def test_what_differs_from_finalist_to_finalist_is_noise() -> None:
    short = np.array([[0.50], [0.52], [0.48]])
    found = gain_of("sharing", 100, 300, short, short + np.array([[0.05], [-0.03], [0.02]]))
    assert found.gain > WORTH
    assert found.low is not None
    assert found.low < 0
    assert not found.gains


def test_a_gain_that_is_sure_and_tiny_is_none() -> None:
    short = np.array([[0.50], [0.52], [0.48]])
    found = gain_of("independent", 100, 300, short, short + 0.9 * WORTH)
    assert found.low == pytest.approx(0.9 * WORTH)
    assert not found.gains


def test_every_pair_of_a_finalist_and_a_seed_is_one_of_the_sample() -> None:
    short = np.zeros((3, 2))
    found = gain_of("sharing", 1, 3, short, short + np.array([[0.3, -0.2], [-0.1, 0.2], [0.1, 0]]))
    assert found.gain == pytest.approx(0.05)
    # t with 5 degrees of freedom at 95% is 2.015; the sample's standard deviation is .1871
    assert found.low == pytest.approx(0.05 - 2.015 * 0.1871 / 6**0.5, abs=1e-3)
    assert not found.gains


def test_a_single_finalist_is_compared_over_its_seeds() -> None:
    one = gain_of("sharing", 1, 3, np.array([[0.5]]), np.array([[0.51]]))
    assert (one.gain, one.low, one.high, one.gains) == (pytest.approx(0.01), None, None, True)
    two = gain_of("sharing", 1, 3, np.array([[0.5, 0.5]]), np.array([[0.6, 0.45]]))
    assert two.low is not None
    assert not two.gains
