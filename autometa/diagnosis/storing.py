"""What a study keeps of its diagnosis: an attribute, and trials of what it advised."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from autometa.searching.units import UnitResult, WorkUnit, best_of_unit
from autometa.space import Arm
from autometa.study import ADVISED, BEST_STEP, StudyHandle, is_advised
from autometa.tracking import Tracker, task_key

#: the study attribute that holds it
ATTRIBUTE = "diagnosis"


def stored(attrs: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    """The diagnosis that a study holds, if it is of all trials that it now has.

    Args:
        attrs: user attributes of the study.
    """
    found = attrs.get(ATTRIBUTE)
    return dict(found) if found and found["searched"] == searched(trials) else None


def searched(trials: Sequence[FrozenTrial]) -> int:
    """How many trials ended that a sampler suggested."""
    return sum(trial.state.is_finished() and not is_advised(trial) for trial in trials)


def untried(
    wanted: Sequence[tuple[Arm, dict[str, Any]]], trials: Sequence[FrozenTrial]
) -> list[tuple[Arm, dict[str, Any]]]:
    """The advice of each arm whose configuration no finished trial has."""
    known = [trial.user_attrs.get("config") for trial in trials if trial.state.is_finished()]
    return [(arm, one) for arm, one in wanted if json.loads(json.dumps(one["config"])) not in known]


def record(
    handle: StudyHandle,
    tracker: Tracker,
    arm: Arm,
    unit: WorkUnit,
    result: UnitResult,
    changes: dict[str, Any],
) -> None:
    """A finished trial in one write: a kill leaves it out or leaves all of it."""
    (best,), (end,) = best_of_unit(unit, result), result.results
    value = None if best is None else best.value
    reason = end.reason or "The run has no score."
    rungs = {
        one.step: one.value
        for one in (result.curves or [(end,)])[0]
        if one.step in {*unit.at, unit.to_step} and one.reason is None and one.value is not None
    }
    attrs = {
        "arm": arm,
        ADVISED: True,
        "changes": changes,
        "config": dict(unit.configs[0]),
        "seed": unit.seeds[0],
        "seconds": round(end.seconds, 4),
        "tasks": (best or end).tasks,
    }
    if best is not None:
        attrs[BEST_STEP] = best.step
    number = handle.add(
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            user_attrs=attrs
            if end.reason is None and value is not None
            else attrs | {"reason": reason},
            intermediate_values=rungs,
        )
    )
    tags = {"arm": arm, "advised": "true"}
    tracker.trial_started(number, unit.configs[0], tags)
    if best is None or value is None:
        tracker.trial_finished(number, "FAIL", None, reason)
        return
    metrics = {f"task/{task_key(name)}": s for name, s in best.tasks.items() if s is not None}
    tracker.trial_rung(number, best.step, {"value": value, **metrics})
    tracker.trial_finished(number, "COMPLETE", value, None, best.step)
