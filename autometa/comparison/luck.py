"""The luck of tuning: how much the test result of an arm's winner varies from search to search.

A search of n trials can be cut at random into G disjoint parts, each of them a search of n/G
trials. The best finalist of every part is a winner of such a search, and the winners of disjoint
parts are independent, so that the variance among them is that of repeating the search: exactly
that of a random search of n/G trials, which is no less than that of n. (Drawing n of n trials with
replacement instead keeps the winner in 63 of 100 draws, and understates the spread.)

The test results T of the k finalists enter as a quadratic form T′AT, where A averages over all
cuts; it depends on n, k and G alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

#: parts that a search is cut into: more of them have more freedom, and are of smaller searches,
#: which vary more; from two to five the share of false findings hardly changes (null_verdict.py)
PARTS = 3
_CUTS = 4000


@dataclass(frozen=True, eq=False)
class Luck:
    """The quadratic form of an arm and the degrees of freedom of the variance that it gives.

    Attributes:
        form: A, [k, k]; its rows sum to 0, its trace is 1 for independent T of variance 1.
        df: 2·E²/Var of T′AT for such T (Satterthwaite).
    """

    form: Float[np.ndarray, "finalist finalist"]
    df: float

    def variance(self, values: Float[np.ndarray, "finalist *rest"]) -> Float[np.ndarray, "*rest"]:
        """T′AT over the first axis."""
        centred = values - values.mean(0)  # the same, and exact where all are nearly equal
        return np.maximum(np.einsum("i...,ij,j...->...", centred, self.form, centred), 0.0)


def luck_of(finalists: int, trials: int, parts: int = PARTS) -> Luck | None:
    """The luck of an arm with so many finalists, the best on validation first.

    Args:
        trials: from which they were chosen, at least as many.

    Returns:
        None where nothing can be said of it: one finalist.
    """
    if finalists < 2:
        return None
    form = _form(finalists, max(trials, finalists), min(parts, finalists))
    return Luck(form, float(np.trace(form) ** 2 / np.square(form).sum()))


@lru_cache(maxsize=64)
def _form(finalists: int, trials: int, parts: int) -> Float[np.ndarray, "finalist finalist"]:
    """A: the variance among the best finalists of the parts, averaged over cuts."""
    rng = np.random.default_rng(0)
    form, kept = np.zeros((finalists, finalists)), 0
    even = np.arange(trials) % parts
    for _ in range(_CUTS):
        part = rng.permutation(even)[:finalists]  # which part each finalist falls into
        winners = np.unique(part, return_index=True)[1]
        if (n := len(winners)) < 2:
            continue  # all finalists in one part: nothing to compare
        kept += 1
        form[winners, winners] += 1.0 / n
        form[np.ix_(winners, winners)] -= (1.0 - np.eye(n)) / (n * (n - 1))
    return form / kept
