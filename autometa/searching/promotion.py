"""Early stopping as promotion: which trials go on from a rung.

`decide` is a pure function of the values that a study holds at a rung, so it answers the same
whenever it is asked, whatever the order in which trials finished.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Mapping
from typing import Literal, get_args

from autometa.errors import UserError, nearest

Pruner = Literal["asha", "hyperband", "median", "none"]
PRUNERS: tuple[str, ...] = get_args(Pruner)

#: of every `ETA` trials at a rung one goes on (asha, hyperband)
ETA = 3
#: rungs below the last
_LEVELS = 2
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


def rungs(pruner: str, max_epochs: int, number: int) -> tuple[int, ...]:
    """Epochs at which trial `number` is scored; the last is `max_epochs`.

    `asha` and `median`: max/9, max/3, max (Li et al. 2020). `hyperband`: trials take turns in
    brackets that start at max/9, at max/3 or at max (Li et al. 2018). `none`: the end alone.
    """
    ladder = sorted({max(1, max_epochs // ETA**level) for level in range(_LEVELS + 1)})
    if pruner == "none":
        return (max_epochs,)
    if pruner == "hyperband":
        return tuple(ladder[bracket(pruner, number, max_epochs) :])
    return tuple(ladder)


def bracket(pruner: str, number: int, max_epochs: int) -> int:
    """The bracket of a trial; trials are compared within a bracket only."""
    if pruner != "hyperband":
        return 0
    ladder = {max(1, max_epochs // ETA**level) for level in range(_LEVELS + 1)}
    return number % len(ladder)


def decide(
    pruner: str, values: Mapping[int, float], demoted: Container[int] = ()
) -> frozenset[int]:
    """Which of the trials scored at a rung go on.

    Args:
        values: trial number → value at the rung, of all trials of one arm and bracket that
            reached it, whatever became of them. Equal values favour the earlier trial.
        demoted: trials that come after all others, whatever their value: they break a bound there.

    `asha`, `hyperband`: the best ⌈n/3⌉. `median`: those not below the median, once there are
    five. `none`: all.
    """
    values = {n: value - _DEMOTION * (n in demoted) for n, value in values.items()}
    if pruner == "none":
        return frozenset(values)
    if pruner == "median":
        if len(values) < _MEDIAN_STARTS:
            return frozenset(values)
        middle = statistics.median(values.values())
        return frozenset(number for number, value in values.items() if value >= middle)
    ranked = sorted(values, key=lambda number: (-values[number], number))
    return frozenset(ranked[: math.ceil(len(ranked) / ETA)])
