"""Finalists: the best trials of an arm, run again on validation with new seeds.

One run says as much about its seed as about its configuration. The final comparison and the
reference of a bound are therefore chosen from the mean of several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autometa.searching.executors import Script
from autometa.searching.promotion import ladder
from autometa.searching.units import UnitResult, WorkUnit, best_of_unit
from autometa.study import is_default, is_eligible, rung_values, score_of, violation
from autometa.training.population import RunResult

#: finalists of each arm
FINALISTS = 5


@dataclass(frozen=True)
class Rerun:
    """Means over the new seeds: the score on validation, and that of each task.

    Each run counts with its best rung. `rungs`: step → scores of the tasks there, at every rung
    below the last that all runs have reached.
    """

    value: float
    tasks: dict[str, float | None]
    rungs: dict[int, dict[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """Makes units that train one configuration from the start with several seeds.

    Attributes:
        folder: of checkpoints and of the saved suites.
        folds: of the runs of every unit; empty: the suite's own validation rows.
    """

    folder: Path
    fingerprint: str
    max_steps: int
    device: str
    folds: tuple[int, ...] = ()

    def unit(
        self,
        name: str,
        config: dict[str, Any],
        seeds: Sequence[int],
        *,
        keep: bool,
        suite: str = "suite",
        to_step: int | None = None,
    ) -> WorkUnit:
        return WorkUnit(
            names=tuple(f"{name}-{k}" for k in range(len(seeds))),
            configs=(config,) * len(seeds),
            seeds=tuple(seeds),
            from_step=0,
            to_step=to_step or self.max_steps,
            max_steps=self.max_steps,
            suite=str(self.folder / suite),
            fingerprint=self.fingerprint,
            checkpoints=str(self.folder),
            keep=keep,
            device=self.device,
            at=ladder(self.max_steps),
            folds=self.folds,
        )

    def rerun(
        self, finalists: Sequence[FrozenTrial], seeds: Sequence[Sequence[int]]
    ) -> Script[list[Rerun | None]]:
        """What each finalist reaches with its new seeds; None if a run failed."""
        units = [
            self.unit(f"rerun-{trial.number}", trial.user_attrs["config"], some, keep=False)
            for trial, some in zip(finalists, seeds, strict=True)
        ]
        results = yield units
        return [_mean(unit, result) for unit, result in zip(units, results, strict=True)]


def best_of(trials: Sequence[FrozenTrial], arm: str) -> list[FrozenTrial]:
    """The best completed trials of an arm, best first; equal values favour the earlier one.

    A default configuration is among them: what was chosen by its score was partly lucky.

    Where a bound is set and no trial keeps to it: those that break it least. Where none was trained
    to the end, as the time was up: those that came farthest, and of them the best.
    """
    own = [t for t in trials if t.user_attrs.get("arm") == arm]
    done = [t for t in own if t.state == TrialState.COMPLETE]
    if not done:
        unfinished = [(t, rung_values(t)) for t in own if t.state != TrialState.FAIL]
        some = [(max(rungs), max(rungs.values()), t) for t, rungs in unfinished if rungs]
        some.sort(key=lambda one: (-one[0], -one[1], one[2].number))
        return [t for _, _, t in some[:FINALISTS]]
    eligible = [t for t in done if is_eligible(t)]
    if not eligible:
        return sorted(done, key=lambda t: (violation(t) or 0.0, t.number))[:FINALISTS]
    ranked = sorted(eligible, key=lambda t: (-(score_of(t) or 0.0), t.number))
    best, defaults = ranked[:FINALISTS], [t for t in ranked if is_default(t)]
    if defaults and not any(is_default(t) for t in best):
        best[-1] = defaults[0]
    return best


def _mean(unit: WorkUnit, result: UnitResult) -> Rerun | None:
    best = [run for run in best_of_unit(unit, result) if run is not None and run.value is not None]
    if len(best) < len(result.results):
        return None
    rungs = {}
    for runs in zip(*result.curves, strict=True):
        if runs[0].step < unit.to_step and all(run.reason is None for run in runs):
            rungs[runs[0].step] = task_means(runs)
    return Rerun(float(np.mean([run.value for run in best])), task_means(best), rungs)


def task_means(runs: Sequence[RunResult]) -> dict[str, float | None]:
    """The mean score of each task; None for a task that a run has no score on."""
    tasks: dict[str, float | None] = {}
    for name in runs[0].tasks:
        known = [score for run in runs if (score := run.tasks[name]) is not None]
        tasks[name] = float(np.mean(known)) if len(known) == len(runs) else None
    return tasks
