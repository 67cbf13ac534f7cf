"""The luck of tuning: how much the test result of an arm's winner varies from search to search.

A repeated search would name another configuration, one of those that are as good on validation.
The finalists are such configurations, so the variance of their test results stands for that of the
winner's. (A bootstrap over the trials keeps the winner in 63 of 100 draws and understates the
spread; parts of the trials as smaller searches give the right variance, with half the freedom.)

The winner is one of the finalists, so that a winner that is far from the others widens its own
interval: the ratio of the difference to its standard error has lighter tails than t with k − 1
degrees of freedom. `FREEDOM` has those whose quantile is that of the ratio, by simulation of
searches of 12 to 32 trials (correlation of validation and test .3 to .95; normal, skewed and heavy
tails): with five finalists 2 to 6% of two equal arms then come out apart at 5%.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

#: number of finalists → degrees of freedom of the luck of an arm; with more, those of the last
FREEDOM = {2: 1.0, 3: 3.0, 4: 6.0, 5: 18.0, 6: 60.0}


@dataclass(frozen=True)
class Luck:
    """The luck of an arm with `finalists` of them, two or more."""

    finalists: int

    @property
    def df(self) -> float:
        """Degrees of freedom of its variance (see the module)."""
        return FREEDOM[min(self.finalists, max(FREEDOM))]

    def variance(self, values: Float[np.ndarray, "finalist *rest"]) -> Float[np.ndarray, "*rest"]:
        """Sample variance of the finalists' results over the first axis."""
        return np.asarray(np.var(values, axis=0, ddof=1))


def luck_of(finalists: int) -> Luck | None:
    """The luck of an arm with so many finalists; None where nothing can be said of it: one."""
    return Luck(finalists) if finalists > 1 else None
