"""A study's trials as plain rows."""

from __future__ import annotations

import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autometa.space import readable
from autometa.space.space import KIND
from autometa.study.values import (
    BEST_STEP,
    cost_of,
    is_default,
    proposed_by,
    rung_values,
    score_of,
    utc,
    violation,
)


def trial_rows(study: optuna.Study) -> list[dict[str, Any]]:
    """One plain dictionary a trial, for tables and JSON.

    Keys: `number`, `state` (COMPLETE, PRUNED, FAIL, RUNNING, WAITING), `arm`, `advised` (if the
    diagnosis asked for it), `proposed_by` (how, where the search learned from earlier ones),
    `value` (the score; None unless it has one), `cost` (None unless one is minimised and was
    measured), `feasible` (whether a completed trial keeps to a bound on its tasks; None where none
    is set), `closest` (the task that is nearest to that bound, and how far it is below its
    reference), `params` (what was searched; `sharing.kind` also where the arm fixes it; a tree of
    tasks as one value; what an advised trial changes in the best sharing one), `step` (the last
    one reported), `best_step` (the one it counts with), `default` (whether it is a default
    configuration of the space), `seconds`, `reason`, `tasks`, `seed`, `config`, `taken` (how
    much of its network started from an earlier model: `leaves`, `parameters`, `of`; None at
    random), `started`, `finished` (ISO 8601 in UTC).
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        attrs = trial.user_attrs
        arm = attrs.get("arm")
        params = readable(trial.params, attrs.get("config"))
        if arm == "independent":
            params = {KIND: "independent", **params}
        if "changes" in attrs:  # advised by the diagnosis: nothing was suggested
            params = dict(attrs["changes"])
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name,
                "arm": arm,
                "advised": bool(attrs.get("advised")),
                "proposed_by": proposed_by(trial),
                "value": score_of(trial),
                "cost": cost_of(trial),
                "feasible": _is_feasible(trial),
                "closest": attrs.get("closest"),
                "params": params,
                "step": max(rung_values(trial), default=None),
                "best_step": attrs.get(BEST_STEP),
                "default": is_default(trial),
                "seconds": attrs.get("seconds"),
                "reason": attrs.get("reason"),
                "tasks": attrs.get("tasks"),
                "seed": attrs.get("seed"),
                "config": attrs.get("config"),
                "taken": attrs.get("taken"),
                "started": _iso(trial.datetime_start),
                "finished": _iso(trial.datetime_complete),
            }
        )
    return rows


def _iso(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else utc(moment).isoformat(timespec="microseconds")


def _is_feasible(trial: FrozenTrial) -> bool | None:
    excess = violation(trial)
    return None if excess is None or trial.state != TrialState.COMPLETE else excess <= 0.0
