"""The best trials of an arm: what is diagnosed, and what is trained again before a judgement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

#: finalists of each arm
FINALISTS = 3
#: user attribute of a trial that the diagnosis asked for, not the sampler
ADVISED = "advised"


def best_of(trials: Sequence[FrozenTrial], arm: str) -> list[FrozenTrial]:
    """The best completed trials of an arm, best first; equal values favour the earlier one."""
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.user_attrs.get("arm") == arm]
    return sorted(done, key=lambda t: (-(t.value or 0.0), t.number))[:FINALISTS]


def is_advised(trial: Any) -> bool:
    """Whether the diagnosis asked for this trial; such trials do not count as searched."""
    return bool(trial.user_attrs.get(ADVISED))
