"""The search loop: what to run next and what its results mean, from what the study holds.

With one worker the whole search is a function of (study, settings): the next unit depends on the
study alone, so a search that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState

from autometa.searching.executors import FINISHED
from autometa.searching.finalists import is_advised
from autometa.searching.progress import Progress
from autometa.searching.promotion import bracket, decide, rungs
from autometa.searching.units import UnitResult, WorkUnit, checkpoint_path
from autometa.space import Arm, Space
from autometa.study import StudyHandle, make_sampler
from autometa.tracking import Tracker
from autometa.training.population import RunResult
from autometa.trial import TrialConfig

_TRACKED: dict[TrialState, Literal["COMPLETE", "PRUNED", "FAIL"]] = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAIL: "FAIL",
}
#: trials asked for at once; they are suggested before any of them has run
ASK_AHEAD = 16
#: runs of one unit at most
MAX_BUNDLE = 64


@dataclass(frozen=True)
class SearchSettings:
    """What fixes a search besides suite and space.

    `timeout`: seconds after which no unit is started; None for no limit.
    """

    n_trials: int
    max_epochs: int
    seed: int = 0
    sampler: str = "tpe"
    pruner: str = "asha"
    independent_share: float = 0.5
    timeout: float | None = None
    device: str = "auto"


@dataclass
class _Live:
    """A trial that is neither told nor lost."""

    trial: optuna.trial.Trial
    arm: Arm
    config: dict[str, Any]
    shape: str
    seed: int
    epoch: int = 0


class SearchLoop:
    """Source of units for an executor.

    Args:
        suite: folder of the saved suite, without test rows.
        checkpoints: folder of this study's checkpoints.
        notify: called with the state of the search after every change.
    """

    def __init__(
        self,
        handle: StudyHandle,
        space: Space,
        settings: SearchSettings,
        *,
        suite: Path,
        fingerprint: str,
        checkpoints: Path,
        tracker: Tracker,
        notify: Callable[[Progress], None],
    ) -> None:
        self._handle = handle
        self._space = space
        self._settings = settings
        self._suite = suite
        self._fingerprint = fingerprint
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._notify = notify
        self._started = time.monotonic()
        self._waiting: dict[int, _Live] = {}
        self._running: dict[int, _Live] = {}
        self._at_rung: dict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)
        self._chunks: dict[str, int] = dict(handle.study.user_attrs.get("chunks", {}))
        self._states: dict[str, int] = {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
        self._best: tuple[float, int, str] | None = None
        self._total = 0
        self._done_before = 0
        self._restore()

    def next_unit(self) -> WorkUnit | Literal["FINISHED"] | None:
        """The next unit; new trials are suggested when no suggested one is left to start."""
        if self._is_late():
            return None if self._running else FINISHED
        if not any(live.epoch == 0 for live in self._waiting.values()):
            self._ask()
        if not self._waiting:
            return None if self._running else FINISHED
        numbers = self._largest_group()
        lives = {number: self._waiting.pop(number) for number in numbers}
        self._running.update(lives)
        return self._unit(lives)

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        """Report, decide, tell and commit; then tidy up what was told."""
        numbers = [int(name) for name in unit.names]
        lives = {number: self._running.pop(number) for number in numbers}
        if result.chunk is not None:
            self._chunks[lives[numbers[0]].shape] = result.chunk
            self._handle.set_attr("chunks", self._chunks)
        reported: list[int] = []
        for number, found in zip(numbers, result.results, strict=True):
            if found.reason is None and found.value is not None:
                self._report(number, lives[number], found, found.value)
                reported.append(number)
            else:
                reason = found.reason or "The run has no score."
                self._tell(number, lives[number], TrialState.FAIL, None, reason)
        for number in reported:  # once the whole unit is in
            self._promote(number, lives[number])
        self._handle.commit()
        for name in unit.names:  # what the unit started from, and what a told trial left
            checkpoint_path(self._checkpoints, name, unit.from_epoch).unlink(missing_ok=True)
            if int(name) not in self._waiting:
                checkpoint_path(self._checkpoints, name, unit.to_epoch).unlink(missing_ok=True)
        self._announce()

    def _promote(self, number: int, live: _Live) -> None:
        """Decide what becomes of a trial at its rung."""
        values = self._values(number, live)
        if live.epoch == self._settings.max_epochs:
            self._tell(number, live, TrialState.COMPLETE, values[number], None)
        elif number in decide(self._settings.pruner, values):
            live.trial.set_user_attr("kept", live.epoch)
            self._waiting[number] = live
        else:
            self._tell(number, live, TrialState.PRUNED, values[number], None)

    def _restore(self) -> None:
        """Take over what an earlier driver left in the study."""
        for frozen in self._handle.trials():
            if frozen.state == TrialState.WAITING:  # enqueued by someone, not asked for yet
                continue
            if is_advised(frozen):  # beyond the total, and not compared at a rung
                if frozen.state == TrialState.COMPLETE and frozen.value is not None:
                    self._note_best(frozen.value, frozen.number, "sharing")
                continue
            self._total += 1
            arm = frozen.user_attrs.get("arm", "sharing")
            place = bracket(self._settings.pruner, frozen.number, self._settings.max_epochs)
            for epoch, value in frozen.intermediate_values.items():
                self._at_rung[arm, place, epoch][frozen.number] = value
            if frozen.state.name in self._states:
                self._states[frozen.state.name] += 1
            if frozen.state == TrialState.COMPLETE and frozen.value is not None:
                self._note_best(frozen.value, frozen.number, arm)
        self._done_before = sum(self._states.values())
        reported = {frozen.number: frozen.intermediate_values for frozen in self._handle.trials()}
        for trial in self._handle.revive(self._sampler):
            live = self._configure(trial, trial.user_attrs["arm"])
            live.epoch = max(reported[trial.number], default=0)
            if live.epoch == trial.user_attrs.get("kept", 0):
                self._waiting[trial.number] = live
            else:  # killed while it wrote a unit's results: the decision is missing
                self._promote(trial.number, live)
        self._handle.commit()

    def _ask(self) -> None:
        settings = self._settings
        for _ in range(min(ASK_AHEAD, settings.n_trials - self._total)):
            number = self._total
            arm = arm_of(number, settings.independent_share, self._space.arms)
            trial = self._handle.ask(arm, self._sampler)
            live = self._configure(trial, arm)
            self._waiting[trial.number] = live
            self._total += 1
            searched = {**trial.params, "sharing.kind": live.config["sharing.kind"]}
            self._tracker.trial_started(trial.number, searched, {"arm": arm})
        self._handle.commit()

    def _configure(self, trial: optuna.trial.Trial, arm: Arm) -> _Live:
        """Suggest what has not been suggested yet, and note the whole configuration."""
        config = TrialConfig.from_flat(self._space.suggest(trial, arm))
        seed = run_seed(self._settings.seed, trial.number)
        live = _Live(trial, arm, config.flat(), config.shape_key(), seed)
        if "config" not in trial.user_attrs:
            trial.set_user_attr("config", live.config)
            trial.set_user_attr("seed", live.seed)
        return live

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return make_sampler(self._settings.sampler, self._settings.seed, number)

    def _largest_group(self) -> list[int]:
        """Waiting trials that can run as one: most first, then furthest on, then oldest."""
        groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
        for number in sorted(self._waiting):
            live = self._waiting[number]
            groups[live.shape, live.epoch, self._next_rung(number, live)].append(number)
        best = max(groups, key=lambda key: (len(groups[key]), key[1], -groups[key][0]))
        return groups[best][:MAX_BUNDLE]

    def _unit(self, lives: dict[int, _Live]) -> WorkUnit:
        number, first = next(iter(lives.items()))
        to_epoch = self._next_rung(number, first)
        return WorkUnit(
            names=tuple(map(str, lives)),
            configs=tuple(live.config for live in lives.values()),
            seeds=tuple(live.seed for live in lives.values()),
            from_epoch=first.epoch,
            to_epoch=to_epoch,
            max_epochs=self._settings.max_epochs,
            suite=str(self._suite),
            fingerprint=self._fingerprint,
            checkpoints=str(self._checkpoints),
            keep=to_epoch < self._settings.max_epochs,
            device=self._settings.device,
            chunk=self._chunks.get(first.shape),
        )

    def _next_rung(self, number: int, live: _Live) -> int:
        ladder = rungs(self._settings.pruner, self._settings.max_epochs, number)
        return next(epoch for epoch in ladder if epoch > live.epoch)

    def _report(self, number: int, live: _Live, found: RunResult, value: float) -> None:
        live.epoch = found.epoch
        live.trial.report(value, found.epoch)
        seconds = live.trial.user_attrs.get("seconds", 0.0) + found.seconds
        live.trial.set_user_attr("seconds", round(seconds, 4))
        live.trial.set_user_attr("tasks", found.tasks)
        self._values(number, live)[number] = value
        metrics = {f"task/{name}": s for name, s in found.tasks.items() if s is not None}
        if found.train_loss is not None:
            metrics["train_loss"] = found.train_loss
        self._tracker.trial_rung(number, found.epoch, {"value": value, **metrics})

    def _values(self, number: int, live: _Live) -> dict[int, float]:
        """Values at this trial's rung, of its arm and bracket."""
        place = bracket(self._settings.pruner, number, self._settings.max_epochs)
        return self._at_rung[live.arm, place, live.epoch]

    def _tell(
        self, number: int, live: _Live, state: TrialState, value: float | None, reason: str | None
    ) -> None:
        complete = state == TrialState.COMPLETE
        self._handle.tell(live.trial, value if complete else None, state=state, reason=reason)
        self._states[_TRACKED[state]] += 1
        if complete and value is not None:
            self._note_best(value, number, live.arm)
        self._tracker.trial_finished(number, _TRACKED[state], value, reason)

    def _note_best(self, value: float, number: int, arm: str) -> None:
        if self._best is None or value > self._best[0]:
            self._best = (value, number, arm)

    def _is_late(self) -> bool:
        limit = self._settings.timeout
        return limit is not None and time.monotonic() - self._started > limit

    def _announce(self) -> None:
        done = sum(self._states.values())
        seconds = time.monotonic() - self._started
        here = done - self._done_before
        left = seconds / here * (self._settings.n_trials - done) if here else None
        value, number, arm = self._best or (None, None, None)
        self._notify(
            Progress(
                phase="search",
                done=done,
                total=self._settings.n_trials,
                states=dict(self._states),
                best_value=value,
                best_number=number,
                best_arm=arm,
                seconds=seconds,
                seconds_left=left,
            )
        )


def arm_of(number: int, independent_share: float, arms: tuple[Arm, ...]) -> Arm:
    """The arm of a trial: `independent_share` of all trials, evenly interleaved."""
    if len(arms) == 1:
        return arms[0]
    before, after = number * independent_share, (number + 1) * independent_share
    # rounding keeps 10 × 0.1 from falling short of 1
    return (
        "independent" if math.floor(round(after, 9)) > math.floor(round(before, 9)) else "sharing"
    )


def run_seed(seed: int, *numbers: int) -> int:
    """The seed of a run, drawn from the search's seed and the run's numbers."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0] & 0x7FFFFFFF)
