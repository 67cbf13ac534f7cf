"""What is believed of the target, with the sources and without."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from autometa.priors import gp
from autometa.priors.belief import Belief, log_improvement
from autometa.priors.sources import warp

GROUP = np.array([0, 1])
NOTHING = np.zeros((0, 2))


def truth(x: np.ndarray) -> np.ndarray:
    """Best at (.3, .6)."""
    return ((x - [0.3, 0.6]) ** 2).sum(1)


def belief(x: np.ndarray, predicted: np.ndarray, pending: np.ndarray = NOTHING) -> Belief:
    n_sources = predicted.shape[1]
    return Belief(
        x,
        warp(truth(x)),
        predicted,
        np.full(n_sources, 1 / max(n_sources, 1)),
        GROUP,
        gp.Hyper.default(2),
        caution=1.0,
        pending=pending,
        pending_predicted=np.zeros((len(pending), n_sources)),
    )


def sources(x: np.ndarray) -> np.ndarray:
    """Two, of problems like the target's."""
    right, down = np.array([0.05, 0.0]), np.array([0.0, -0.05])
    return np.column_stack([warp(truth(x + right)), warp(truth(x + down))])


def test_evidence_is_for_sources_that_know_and_against_those_that_do_not() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.random((12, 2))
        own = belief(x, np.zeros((12, 0))).evidence
        assert belief(x, sources(x)).evidence > own + 2
        assert belief(x, rng.permutation(sources(x))).evidence < own - 1


def test_the_most_promising_place_is_near_the_best() -> None:
    x = np.random.default_rng(0).random((15, 2))
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 21)]), axis=-1).reshape(-1, 2)
    for of_x, of_grid in [
        (np.zeros((15, 0)), np.zeros((441, 0))),
        (sources(x), sources(grid)),
    ]:
        found = belief(x, of_x).improvement(grid, of_grid)
        assert np.isfinite(found).all()
        assert np.abs(grid[found.argmax()] - [0.3, 0.6]).max() < 0.2


def test_a_pending_trial_makes_its_place_less_promising() -> None:
    x = np.random.default_rng(0).random((5, 2))
    none, place = np.zeros((5, 0)), np.array([[0.32, 0.58]])
    free = belief(x, none).improvement(place, np.zeros((1, 0)))
    taken = belief(x, none, pending=place).improvement(place, np.zeros((1, 0)))
    assert taken < free - 1


def test_improvement_against_an_integral() -> None:
    grid = np.linspace(-12, 12, 200_001)
    for mean, deviation, best in [(0.0, 1.0, 0.5), (2.0, 0.7, -1.0), (-1.0, 0.1, 0.0)]:
        y = mean + deviation * grid
        expected = np.trapezoid(np.maximum(best - y, 0) * norm.pdf(grid), grid)
        found = log_improvement(np.array([mean]), np.array([deviation]), best)
        np.testing.assert_allclose(found, np.log(expected), atol=1e-4)


def test_improvement_orders_hopeless_candidates() -> None:
    mean = np.linspace(1, 50, 200)
    found = log_improvement(mean, np.full(200, 0.5), 0.0)
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()
