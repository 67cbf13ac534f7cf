"""Finalists: the best trials of an arm, run again on validation with new seeds.

One run says as much about its seed as about its configuration. The final comparison and the
reference of a bound are therefore chosen from the mean of several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autometa.searching.executors import Script
from autometa.searching.units import UnitResult, WorkUnit
from autometa.study import is_eligible, score_of, violation

#: finalists of each arm
FINALISTS = 3


@dataclass(frozen=True)
class Rerun:
    """Means over the new seeds: the score on validation, and that of each task."""

    value: float
    tasks: dict[str, float | None]


@dataclass(frozen=True)
class Runs:
    """Makes units that train one configuration from the start with several seeds.

    Attributes:
        folder: of checkpoints and of the saved suites.
    """

    folder: Path
    fingerprint: str
    max_epochs: int
    device: str

    def unit(
        self,
        name: str,
        config: dict[str, Any],
        seeds: Sequence[int],
        *,
        keep: bool,
        suite: str = "suite",
        to_epoch: int | None = None,
    ) -> WorkUnit:
        return WorkUnit(
            names=tuple(f"{name}-{k}" for k in range(len(seeds))),
            configs=(config,) * len(seeds),
            seeds=tuple(seeds),
            from_epoch=0,
            to_epoch=to_epoch or self.max_epochs,
            max_epochs=self.max_epochs,
            suite=str(self.folder / suite),
            fingerprint=self.fingerprint,
            checkpoints=str(self.folder),
            keep=keep,
            device=self.device,
        )

    def rerun(
        self, finalists: Sequence[FrozenTrial], seeds: Sequence[Sequence[int]]
    ) -> Script[list[Rerun | None]]:
        """What each finalist reaches with its new seeds; None if a run failed."""
        results = yield [
            self.unit(f"rerun-{trial.number}", trial.user_attrs["config"], some, keep=False)
            for trial, some in zip(finalists, seeds, strict=True)
        ]
        return [_mean(result) for result in results]

    def at(
        self, epochs: Sequence[int], trial: FrozenTrial, seeds: Sequence[int]
    ) -> Script[dict[int, Rerun | None]]:
        """What a trial's new runs have reached at earlier epochs: the same runs, stopped there."""
        config = trial.user_attrs["config"]
        results = yield [
            self.unit(f"rerun-{trial.number}-at-{e}", config, seeds, keep=False, to_epoch=e)
            for e in epochs
        ]
        return {epoch: _mean(result) for epoch, result in zip(epochs, results, strict=True)}


def best_of(trials: Sequence[FrozenTrial], arm: str) -> list[FrozenTrial]:
    """The best completed trials of an arm, best first; equal values favour the earlier one.

    Where a bound is set and no trial keeps to it: those that break it least.
    """
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.user_attrs.get("arm") == arm]
    eligible = [t for t in done if is_eligible(t)]
    if not eligible:
        return sorted(done, key=lambda t: (violation(t) or 0.0, t.number))[:FINALISTS]
    return sorted(eligible, key=lambda t: (-(score_of(t) or 0.0), t.number))[:FINALISTS]


def _mean(result: UnitResult) -> Rerun | None:
    scores = [run.value for run in result.results if run.value is not None]
    if len(scores) < len(result.results):
        return None
    tasks: dict[str, float | None] = {}
    for name in result.results[0].tasks:
        found = [run.tasks[name] for run in result.results]
        known = [score for score in found if score is not None]
        tasks[name] = float(np.mean(known)) if len(known) == len(found) else None
    return Rerun(float(np.mean(scores)), tasks)
