"""Configurations that between them would have been good for every source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CAP = 1.0
"""A configuration that is worse than the median is as bad as the median."""


def greedy(
    regrets: np.ndarray, weights: np.ndarray, covered: np.ndarray | None = None
) -> Iterator[int]:
    """Candidates in the order that minimises, step by step, the sum over sources of the regret of
    the best candidate so far: within 1 − 1/e of the best reduction that as many candidates can give
    (the sum is submodular).

    Args:
        regrets: [candidate, source], 0 for the source's best and 1 for its median trial.
        weights: [source].
        covered: [source], the least regret of what has been tried already.
    """
    # what adds nothing is ordered by its own regrets
    ties = 1e-9 * (regrets @ weights)
    regrets = np.minimum(regrets, CAP)
    best = np.full(regrets.shape[1], CAP) if covered is None else np.minimum(covered, CAP)
    left = np.ones(len(regrets), dtype=bool)
    while left.any():
        totals = np.minimum(regrets, best) @ weights
        chosen = int(np.argmin(np.where(left, totals + ties, np.inf)))
        left[chosen] = False
        best = np.minimum(best, regrets[chosen])
        yield chosen
