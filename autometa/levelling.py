"""Has an arm levelled off? Its finalists again with three times the budget, on validation.

A difference between two arms that still learn is a difference of budgets. The first `CHECKED`
finalists of each arm are therefore also trained with `LONGER` times the steps, their schedules
spanning them, with the same paired seeds; each length counts with its best rung. Where an arm gains
more than noise, all finalists of both are trained at the longer budget, up to `CAP` times the
budget of the search.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from autometa.intervals import mean_interval

#: how many times as long the next budget is
LONGER = 3
#: the longest budget, in budgets of the search
CAP = 9
#: finalists of an arm that the next budget is tried with
CHECKED = 2
#: a gain of the score that nobody would train three times as long for
WORTH = 0.005


@dataclass(frozen=True)
class Gain:
    """What an arm gains on validation by the longer budget.

    Attributes:
        steps, longer: the budgets.
        gain: mean over finalists and seeds; `low`, `high` its 90% interval.
        gains: whether that is more than noise, and worth it.
    """

    arm: str
    steps: int
    longer: int
    gain: float
    low: float | None
    high: float | None
    gains: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def gain_of(
    arm: str,
    steps: int,
    longer: int,
    short: Float[np.ndarray, "finalist seed"],
    long: Float[np.ndarray, "finalist seed"],
) -> Gain:
    """Compare the best rungs of both budgets, finalist by finalist, seed by seed.

    Every pair of a finalist and a seed is one of the sample.
    """
    sample = (long - short).ravel()
    mean = float(sample.mean())
    if len(sample) < 2:
        return Gain(arm, steps, longer, mean, None, None, mean > WORTH)
    found = mean_interval(sample, level=0.9)
    return Gain(arm, steps, longer, mean, found.low, found.high, found.low > 0 and mean > WORTH)
