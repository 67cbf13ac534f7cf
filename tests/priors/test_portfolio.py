from __future__ import annotations

from itertools import combinations, islice, pairwise

import numpy as np
import pytest

from autometa.priors.portfolio import CAP, greedy


def total(regrets: np.ndarray, chosen: tuple[int, ...], weights: np.ndarray) -> float:
    best = np.full(regrets.shape[1], CAP)
    for i in chosen:
        best = np.minimum(best, regrets[i])
    return float(best @ weights)


@pytest.mark.parametrize("seed", range(20))
def test_each_step_is_the_best_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regrets, weights = rng.random((7, 4)) * 2, rng.random(4)
    chosen = tuple(greedy(regrets, weights))
    assert sorted(chosen) == list(range(7))
    for n in range(7):
        found = total(regrets, chosen[: n + 1], weights)
        one_more = [total(regrets, (*chosen[:n], i), weights) for i in range(7)]
        assert found == pytest.approx(min(one_more))


@pytest.mark.parametrize("seed", range(20))
def test_near_the_best_set_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regrets, weights = rng.random((8, 5)), np.ones(5)
    nothing = total(regrets, (), weights)
    for n in (1, 2, 3):
        greedily = total(regrets, tuple(islice(greedy(regrets, weights), n)), weights)
        best = min(total(regrets, c, weights) for c in combinations(range(8), n))
        assert nothing - greedily >= (1 - (1 - 1 / n) ** n) * (nothing - best) - 1e-12
        if n == 1:
            assert greedily == pytest.approx(best)


def test_covers_sources_that_disagree() -> None:
    # the compromise is second: after the first source is served, the others are
    regrets = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.4, 0.4, 0.4], [0.1, 0.1, 0.9]])
    assert list(islice(greedy(regrets, np.ones(3)), 2)) == [0, 1]
    assert next(greedy(regrets, np.array([0.1, 0.1, 5.0]))) == 1


def test_what_was_tried_counts() -> None:
    regrets = np.array([[0.0, 1.0], [0.3, 0.2]])
    assert next(greedy(regrets, np.ones(2), np.array([1.0, 0.0]))) == 0
    assert next(greedy(regrets, np.ones(2), np.array([0.0, 1.0]))) == 1


def test_ties_are_broken_by_regret() -> None:
    regrets = np.array([[5.0, 9.0], [0.2, 0.2], [3.0, 2.0], [0.5, 0.5]])
    order = list(greedy(regrets, np.ones(2)))
    assert order == [1, 3, 2, 0]
    assert all(a != b for a, b in pairwise(order))
