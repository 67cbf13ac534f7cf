"""Early stopping as promotion: which trials go on from a rung.

`decide` is a pure function of the values that a study holds at a rung, so it answers the same
whenever it is asked, whatever the order in which trials finished.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Mapping
from typing import Literal, get_args

from scipy.stats import spearmanr

from autometa.errors import UserError, nearest

Pruner = Literal["asha", "hyperband", "median", "none"]
PRUNERS: tuple[str, ...] = get_args(Pruner)

#: of every `ETA` trials at a rung one goes on (asha, hyperband)
ETA = 3
#: rungs below the last
_LEVELS = 2
#: steps of the first rung, at least: what a network has learned in fewer says little
FIRST_RUNG = 100
#: trials of an arm that were trained to the end, before a rung is held to how it ordered them
_PREDICTED = 5
#: rank correlation with the end below which a rung stops nobody. Those that reached the end are the
#: best at the rung, which lowers the correlation that is found among them: with normal scores .6
#: among all trials is .37 among their best third
PREDICTS = 0.3
#: more than any two values differ by: they lie between -1 and 1
_DEMOTION = 3.0
#: the median rule waits for this many values
_MEDIAN_STARTS = 5


def check_pruner(name: str) -> str:
    """Return `name`.

    Raises:
        UserError: it is not a pruner.
    """
    if name not in PRUNERS:
        raise UserError(
            f"Parameter `pruner` should be one of {', '.join(PRUNERS)}. Found `pruner = {name}`."
            f"{nearest(name, PRUNERS)}"
        )
    return name


def ladder(max_steps: int) -> tuple[int, ...]:
    """All rungs: max/9, max/3 and max steps, without those below `FIRST_RUNG`."""
    below = (max_steps // ETA**level for level in range(_LEVELS, 0, -1))
    return (*(step for step in below if step >= FIRST_RUNG), max_steps)


def rungs(pruner: str, max_steps: int, number: int) -> tuple[int, ...]:
    """Steps at which trial `number` is scored; the last is `max_steps`.

    `asha`, `median` and `none`: all of `ladder` (Li et al. 2020). `hyperband`: trials take turns in
    brackets that start at its first, second or third rung (Li et al. 2018).
    """
    return ladder(max_steps)[bracket(pruner, number, max_steps) :]


def bracket(pruner: str, number: int, max_steps: int) -> int:
    """The bracket of a trial; trials are compared within a bracket only."""
    return number % len(ladder(max_steps)) if pruner == "hyperband" else 0


def correlation(values: Mapping[int, float], ends: Mapping[int, float]) -> float | None:
    """Spearman's rank correlation of the values at a rung with those at the end.

    Args:
        values, ends: trial number → value; only trials that have both count.

    Returns:
        None with fewer than five such trials; 0 where either is constant, which orders nothing.
    """
    both = sorted(values.keys() & ends.keys())
    if len(both) < _PREDICTED:
        return None
    pair = [values[n] for n in both], [ends[n] for n in both]
    if any(len(set(one)) == 1 for one in pair):
        return 0.0
    return float(spearmanr(*pair).statistic)


def decide(
    pruner: str,
    values: Mapping[int, float],
    demoted: Container[int] = (),
    ends: Mapping[int, float] | None = None,
) -> frozenset[int]:
    """Which of the trials scored at a rung go on.

    Args:
        values: trial number → value at the rung, of all trials of one arm and bracket that
            reached it, whatever became of them. Equal values favour the earlier trial.
        demoted: trials that come after all others, whatever their value: they break a bound there.
        ends: trial number → value at the end, of those of the same arm and bracket that were
            trained so far.

    `asha`, `hyperband`: the best ⌈n/3⌉. `median`: those not below the median, once there are
    five. `none`: all. And all where the rung did not predict the end (`PREDICTS`).
    """
    found = correlation(values, ends or {})
    if pruner == "none" or (found is not None and found < PREDICTS):
        return frozenset(values)
    values = {n: value - _DEMOTION * (n in demoted) for n, value in values.items()}
    if pruner == "median":
        if len(values) < _MEDIAN_STARTS:
            return frozenset(values)
        middle = statistics.median(values.values())
        return frozenset(number for number, value in values.items() if value >= middle)
    ranked = sorted(values, key=lambda number: (-values[number], number))
    return frozenset(ranked[: math.ceil(len(ranked) / ETA)])
