"""What a trial's numbers mean: its score and cost, its rungs, whether it keeps to a bound.

A study has one value a trial, the score, or two, score and cost. Optuna refuses intermediate
values where there are two; there the score of every rung is in the user attribute `rungs`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

#: user attribute with the score of every rung, in a study of two values
RUNGS = "rungs"
#: user attribute of a trial that the diagnosis asked for, not the sampler
ADVISED = "advised"
#: user attribute of a trial that is one of the space's default configurations
DEFAULT = "default"
#: user attribute: the steps after which a trial did best on validation, which it counts with
BEST_STEP = "best_step"
#: name of the constraint that Optuna is told: how far the worst task is beyond the bound
WORST_TASK = "worst_task"
#: system attributes that `priors.TransferSampler` leaves with a trial: how it was proposed, and the
#: positions of the sources that were dropped then, as JSON
PROPOSED_BY, DROPPED = "transfer:by", "transfer:dropped"


def rung_values(trial: FrozenTrial) -> dict[int, float]:
    """Step → score there, of every rung that a trial has reached."""
    kept: dict[str, float] = trial.user_attrs.get(RUNGS, {})
    return dict(trial.intermediate_values) or {int(step): kept[step] for step in kept}


def score_of(trial: FrozenTrial) -> float | None:
    """A trial's score, that of its best rung, also if it was pruned; None without one."""
    if trial.state == TrialState.PRUNED:  # Optuna's value of it is the last one
        return max(rung_values(trial).values(), default=None)
    return float(trial.values[0]) if trial.values else None


def cost_of(trial: FrozenTrial) -> float | None:
    """Parameters, or milliseconds for 1,000 rows; None unless the trial was trained to the end in
    a study that minimises a cost."""
    cost: Any = trial.user_attrs.get("cost")
    return None if cost is None else float(cost)


def proposed_by(trial: FrozenTrial) -> str | None:
    """`portfolio` or `model` if earlier searches proposed the trial, `random`, `tpe` or `gp` if
    none did in a search that learns from some; None in any other search."""
    by: str | None = trial.system_attrs.get(PROPOSED_BY)
    return by


def utc(moment: datetime.datetime) -> datetime.datetime:
    """A time that can be put in order with others: in UTC. One without a zone, which is how Optuna
    gives them, is local time."""
    return moment.astimezone(datetime.UTC)


def is_advised(trial: FrozenTrial | Trial) -> bool:
    """Whether the diagnosis asked for this trial; such trials do not count as searched."""
    return bool(trial.user_attrs.get(ADVISED))


def is_default(trial: FrozenTrial | Trial) -> bool:
    """Whether this is a default configuration of the space, which nothing stops early."""
    return bool(trial.user_attrs.get(DEFAULT))


def violation(trial: FrozenTrial) -> float | None:
    """How far the worst task is beyond the bound, above 0 if it breaks it; None where none is
    set (independent networks, ordinary studies)."""
    return trial.constraints.get(WORST_TASK)


def is_eligible(trial: FrozenTrial) -> bool:
    """Whether a trial completed and keeps to the bound, if there is one."""
    return trial.state == TrialState.COMPLETE and (violation(trial) or 0.0) <= 0.0


def pareto_front(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The eligible trials that no other one beats: higher score at no more cost, or less cost at
    no lower score. Cheapest first; trials of equal score and cost are all kept."""
    done = [t for t in trials if is_eligible(t) and t.values and len(t.values) == 2]
    done.sort(key=lambda t: (t.values[1], -t.values[0], t.number))
    front: list[FrozenTrial] = []
    for trial in done:
        if not front or trial.values[0] > front[-1].values[0] or trial.values == front[-1].values:
            front.append(trial)
    return front
