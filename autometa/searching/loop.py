"""The search loop: what to run next and what its results mean, from what the study holds.

With one worker the whole search is a function of (study, settings): the next unit depends on the
study alone, so a search that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from autometa.errors import InfrastructureError
from autometa.searching.bound import Reference, choose_reference
from autometa.searching.enqueued import assignment_of
from autometa.searching.executors import FINISHED, Script, ScriptSource
from autometa.searching.finalists import Runs, best_of
from autometa.searching.packing import MAX_BUNDLE, Shapes, ask_ahead, fullest
from autometa.searching.progress import Progress
from autometa.searching.promotion import PREDICTS, bracket, correlation, decide, rungs
from autometa.searching.settings import (
    TRIALS_SHARE,
    SearchSettings,
    arm_of,
    independent_trials,
    rerun_seeds,
    run_seed,
)
from autometa.searching.units import UnitResult, WorkUnit, checkpoint_path
from autometa.space import Arm, Space, readable
from autometa.study import (
    BEST_STEP,
    GivenTrial,
    OutsideSpaceError,
    StudyHandle,
    is_advised,
    is_default,
    is_eligible,
    make_sampler,
    rung_values,
    score_of,
)
from autometa.tasks import TaskSuite
from autometa.tracking import Tracker, task_key
from autometa.training.devices import find_device
from autometa.training.population import RunResult
from autometa.trial import TrialConfig

_TRACKED: dict[TrialState, Literal["COMPLETE", "PRUNED", "FAIL"]] = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAIL: "FAIL",
}
#: attribute of a study: its units in number, their runs, their seconds, and those of the probes
UNITS, COUNTED = "units", ("units", "runs", "seconds", "probe_seconds")
#: attribute of a study: how each rung's order agreed with that at the end, and whether it is used
RUNGS = "rungs"
#: of an arm's trials, the part that may be default configurations
_DEFAULTS = 1 / 4


@dataclass
class _Live:
    """A trial that is neither told nor lost."""

    trial: optuna.trial.Trial
    arm: Arm
    config: dict[str, Any]
    shape: str
    seed: int
    step: int = 0
    is_default: bool = False


class SearchLoop:
    """Source of units for an executor.

    With a bound (`no_task_worse_than`) it is finished twice: when the independent arm is tuned, so
    that `referencing()` can freeze what it reached, and after the sharing arm.

    Args:
        suite: folder of the saved suite, without test rows.
        checkpoints: folder of this study's checkpoints.
        samplers: arm → its sampler; an arm without one has a new `settings.sampler` a trial.
        notify: called with the state of the search after every change.
        taken: how much of a run's network starts from an earlier model (`training.initial.Taken`),
            None where it starts at random.
        settle: gives a suggested configuration what it leaves to the suite.
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
        samplers: Mapping[Arm, optuna.samplers.BaseSampler] | None = None,
        taken: Callable[[TrialConfig], dict[str, int] | None] = lambda config: None,
        settle: Callable[[TrialConfig], TrialConfig] = lambda config: config,
    ) -> None:
        self._taken = taken
        self._settle = settle
        self._handle = handle
        self._space = space
        self._settings = settings
        self._suite = suite
        self._fingerprint = fingerprint
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._notify = notify
        self._samplers = dict(samplers or {})
        self._started = time.monotonic()
        self._waiting: dict[int, _Live] = {}
        self._running: dict[int, _Live] = {}
        self._at_rung: dict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)
        self._broken: dict[int, set[int]] = defaultdict(set)
        self._limit = MAX_BUNDLE[find_device(settings.device).type]
        self._shapes = Shapes(handle, self._limit)
        counted = handle.study.user_attrs.get(UNITS, {})
        self._units: list[float] = [counted.get(key, 0) for key in COUNTED]
        self._states: dict[str, int] = {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
        kept = handle.study.user_attrs.get("reference")
        self.reference = None if kept is None else Reference(**kept)
        self._asked: dict[str, int] = {"sharing": 0, "independent": 0}
        self._defaults: dict[str, int] = {"sharing": 0, "independent": 0}
        self._best: tuple[float, int, str] | None = None
        self._total = 0
        self._done_before = 0
        self._restore()

    def next_unit(self, workers: int = 1) -> WorkUnit | Literal["FINISHED"] | None:
        """The next unit, from the trials that wait and the new ones that join them."""
        if self.is_late():
            return None if self._running else FINISHED
        self._ask()
        if not self._waiting:
            return None if self._running else FINISHED
        numbers = self._largest_group(workers)
        lives = {number: self._waiting.pop(number) for number in numbers}
        self._running.update(lives)
        return self._unit(lives)

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        """Report, decide, tell and commit; then tidy up what was told."""
        numbers = [int(name) for name in unit.names]
        lives = {number: self._running.pop(number) for number in numbers}
        self._shapes.learn(lives[numbers[0]].shape, result)
        more = (1, len(numbers), result.seconds, result.probe_seconds)
        self._units = [round(sum(pair), 4) for pair in zip(self._units, more, strict=True)]
        self._handle.set_attr(UNITS, dict(zip(COUNTED, self._units, strict=True)))
        reported: list[int] = []
        for number, found in zip(numbers, result.results, strict=True):
            if found.reason is None and found.value is not None:
                self._report(number, lives[number], found, found.value)
                reported.append(number)
            else:
                self._fail(number, lives[number], found)
        kept: dict[tuple[Arm, int, int], frozenset[int]] = {}
        for number in reported:  # once the whole unit is in
            self._promote(number, lives[number], kept)
        self._note_rungs()
        self._handle.commit()
        for name in unit.names:  # what the unit started from, and what a told trial left
            checkpoint_path(self._checkpoints, name, unit.from_step).unlink(missing_ok=True)
            if int(name) not in self._waiting:
                checkpoint_path(self._checkpoints, name, unit.to_step).unlink(missing_ok=True)
        self._announce()

    def referencing(self) -> ScriptSource[None]:
        """What stands between the arms where a bound is set: the best independent networks are run
        again, and their scores kept with the study. Finished at once where that is done already.

        Raises:
            InfrastructureError: there is no independent network to go by.
        """
        return ScriptSource(self._freeze_reference)

    def _freeze_reference(self) -> Script[None]:
        tuned = self._asked["independent"] >= self._n_independent and not self._waiting
        if not self._is_bound or self.reference is not None or not tuned or self.is_late():
            return
        finalists = best_of(self._handle.trials(), "independent")
        if finalists:
            self._announce("The best independent networks are run again: the bound is from them.")
            seeds = [rerun_seeds(self._settings.seed, trial.number) for trial in finalists]
            settings = self._settings
            runs = Runs(self._checkpoints, self._fingerprint, settings.max_steps, settings.device)
            reruns = yield from runs.rerun(finalists, seeds)
            reference = choose_reference(TaskSuite.load(self._suite), finalists, reruns)
            if reference is not None:
                (chosen,) = [
                    run
                    for trial, run in zip(finalists, reruns, strict=True)
                    if trial.number == reference.trial
                ]
                reference = reference.with_rungs({} if chosen is None else chosen.rungs)
            self.reference = reference
        if self.reference is None:
            raise InfrastructureError(
                "No independent network was trained to the end, so there is no reference for "
                f"`no_task_worse_than`. `autometa trials {self._handle.name}` gives the reason of "
                "each failure; resume with more trials."
            )
        self._handle.set_attr("reference", self.reference.to_json())
        self._handle.commit()

    def _promote(
        self, number: int, live: _Live, kept: dict[tuple[Arm, int, int], frozenset[int]]
    ) -> None:
        """Decide what becomes of a trial; `kept` has who goes on from a rung, if decided before."""
        if live.step == self._settings.max_steps:
            self._complete_trial(number, live, None)
            return
        rung = self._rung(number, live)
        if rung not in kept:
            arm, place, step = rung
            ends = self._at_rung[arm, place, self._settings.max_steps]
            values = self._at_rung[rung]
            kept[rung] = decide(self._settings.pruner, values, self._broken[step], ends)
        if number in kept[rung] or live.is_default:
            live.trial.set_user_attr("kept", live.step)
            self._waiting[number] = live
        else:
            self._tell(number, live, TrialState.PRUNED, self._at_rung[rung][number], None)

    def _fail(self, number: int, live: _Live, found: RunResult) -> None:
        """A run without a score at this rung counts with what it had reached before, if it had."""
        reason = found.reason or "The run has no score."
        has_cost = self._settings.cost is None or found.cost is not None
        if live.step == 0 or not has_cost:
            self._tell(number, live, TrialState.FAIL, None, reason)
            return
        if found.cost is not None:
            live.trial.set_user_attr("cost", found.cost)
        self._complete_trial(number, live, f"{reason} What it had reached before counts.")

    def _complete_trial(self, number: int, live: _Live, reason: str | None) -> None:
        """Tell the best rung's value; the scores of its tasks are what the bound is held to."""
        attrs = live.trial.user_attrs
        if self.reference is not None and live.arm == "sharing":
            closest = self.reference.closest(attrs["tasks"])
            live.trial.set_user_attr("closest", {"task": closest.task, "below": closest.below})
        value = max(self._reached(number, live).values())
        self._tell(number, live, TrialState.COMPLETE, value, reason)

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
            place = bracket(self._settings.pruner, frozen.number, self._settings.max_steps)
            self._asked[arm] += 1
            self._defaults[arm] += is_default(frozen)
            for step in frozen.user_attrs.get("broken", []):
                self._broken[step].add(frozen.number)
            for step, value in rung_values(frozen).items():
                self._at_rung[arm, place, step][frozen.number] = value
            if frozen.state.name in self._states:
                self._states[frozen.state.name] += 1
            if is_eligible(frozen):
                self._note_best(score_of(frozen), frozen.number, arm)
        self._done_before = sum(self._states.values())
        known = self._handle.trials()  # by number

        def sampler(number: int) -> optuna.samplers.BaseSampler:
            return self._sampler(known[number].user_attrs.get("arm", "sharing"), number)

        for trial in self._handle.revive(sampler):
            live = self._configure(trial, trial.user_attrs.get("arm", "sharing"))
            if live is None:
                continue
            live.step = max(rung_values(known[trial.number]), default=0)
            if live.step == trial.user_attrs.get("kept", 0):
                self._waiting[trial.number] = live
            else:  # killed while it wrote a unit's results: the decision is missing
                self._promote(trial.number, live, {})
        self._handle.commit()

    def _ask(self) -> None:
        """Suggest trials until enough wait to choose from."""
        n_trials = self._settings.n_trials
        wanted = ask_ahead(n_trials, self._limit)
        if len(self._waiting) >= wanted or self._total >= n_trials:
            return
        while len(self._waiting) < wanted and self._total < n_trials:
            arm = self._next_arm()
            if arm is None:
                break
            trial = self._handle.ask(arm, partial(self._sampler, arm), self._next_default(arm))
            self._total += 1
            self._asked[arm] += 1
            live = self._configure(trial, arm)
            if live is None:
                continue
            self._defaults[arm] += live.is_default
            self._waiting[trial.number] = live
            kind = {"sharing.kind": live.config["sharing.kind"]}
            searched = readable(trial.params, live.config) | kind
            tags = {"arm": arm, "taken": trial.user_attrs.get("taken")}
            self._tracker.trial_started(trial.number, searched, tags)
        self._handle.commit()

    def _next_arm(self) -> Arm | None:
        """The arm of the next trial; None while the other arm waits for the reference."""
        if not self._is_bound:
            return arm_of(self._total, self._settings.independent_share, self._space.arms)
        if self._asked["independent"] < self._n_independent:
            return "independent"
        return None if self.reference is None else "sharing"

    def _next_default(self, arm: Arm) -> dict[str, Any] | None:
        """What the arm's next trial is suggested as one of the space's default configurations."""
        settings, asked = self._settings, self._defaults[arm]
        n_trials = settings.n_trials
        if len(self._space.arms) > 1:
            independent = self._n_independent
            n_trials = independent if arm == "independent" else n_trials - independent
        defaults = self._space.default_suggestions(arm)[: math.ceil(n_trials * _DEFAULTS)]
        return defaults[asked] if asked < len(defaults) else None

    @property
    def _is_bound(self) -> bool:
        return self._settings.no_task_worse_than is not None

    @property
    def _n_independent(self) -> int:
        return independent_trials(self._settings.n_trials, self._settings.independent_share)

    def _configure(self, trial: GivenTrial, arm: Arm) -> _Live | None:
        """Suggest what has not been suggested yet, and note the whole configuration; None if the
        trial was given what the space has not: then it is told to have failed."""
        try:
            config = self._settle(TrialConfig.from_flat(assignment_of(self._space, trial, arm)))
        except OutsideSpaceError as exc:
            self._refuse(trial, arm, str(exc))
            return None
        seed = run_seed(self._settings.seed, trial.number)
        default = is_default(trial)
        live = _Live(trial, arm, config.flat(), config.shape_key(), seed, is_default=default)
        if "config" not in trial.user_attrs:
            trial.set_user_attr("config", live.config)
            trial.set_user_attr("seed", live.seed)
            if (taken := self._taken(config)) is not None:
                trial.set_user_attr("taken", taken)
        return live

    def _refuse(self, trial: GivenTrial, arm: Arm, reason: str) -> None:
        number = trial.number
        self._handle.tell(trial, state=TrialState.FAIL, reason=reason)
        self._states["FAIL"] += 1
        self._tracker.trial_started(number, trial.enqueued, {"arm": arm})
        self._tracker.trial_finished(number, "FAIL", None, reason)
        self._announce(f"Enqueued trial {number} of the {arm} arm cannot be run. {reason}")

    def _sampler(self, arm: Arm, number: int) -> optuna.samplers.BaseSampler:
        own = self._samplers.get(arm)
        return own or make_sampler(self._settings.sampler, self._settings.seed, number)

    def _largest_group(self, workers: int) -> list[int]:
        groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
        for number in sorted(self._waiting):
            live = self._waiting[number]
            groups[live.shape, live.step, self._next_rung(number, live)].append(number)
        steps = {key: key[1] for key in groups}
        most = {key: self._shapes.most(key[0]) for key in groups}
        return fullest(groups, steps, workers, len(self._running), most)

    def _unit(self, lives: dict[int, _Live]) -> WorkUnit:
        number, first = next(iter(lives.items()))
        to_step = self._next_rung(number, first)
        return WorkUnit(
            names=tuple(map(str, lives)),
            configs=tuple(live.config for live in lives.values()),
            seeds=tuple(live.seed for live in lives.values()),
            from_step=first.step,
            to_step=to_step,
            max_steps=self._settings.max_steps,
            suite=str(self._suite),
            fingerprint=self._fingerprint,
            checkpoints=str(self._checkpoints),
            keep=to_step < self._settings.max_steps,
            device=self._settings.device,
            cost=self._settings.cost,
            **self._shapes.known(first.shape),
        )

    def _next_rung(self, number: int, live: _Live) -> int:
        ladder = rungs(self._settings.pruner, self._settings.max_steps, number)
        return next(step for step in ladder if step > live.step)

    def _report(self, number: int, live: _Live, found: RunResult, value: float) -> None:
        live.step = found.step
        metrics = {f"task/{task_key(name)}": s for name, s in found.tasks.items() if s is not None}
        if found.train_loss is not None:
            metrics["train_loss"] = found.train_loss
        # what is told with the value is noted before it: a kill between them loses none of it
        before = [v for step, v in self._reached(number, live).items() if step < found.step]
        if not before or value > max(before):  # of equal rungs the earlier one counts
            live.trial.set_user_attr("tasks", found.tasks)
            live.trial.set_user_attr(BEST_STEP, found.step)
        if self.reference is not None and live.arm == "sharing":
            closest = self.reference.closest(found.tasks, found.step)
            live.trial.set_user_attr("closest", {"task": closest.task, "below": closest.below})
            metrics["below_reference"] = closest.below
            if closest.below > (self._settings.no_task_worse_than or 0.0):
                self._broken[found.step].add(number)
                at = [*live.trial.user_attrs.get("broken", []), found.step]
                live.trial.set_user_attr("broken", sorted(set(at)))
        if found.cost is not None:
            live.trial.set_user_attr("cost", found.cost)
            metrics["cost"] = found.cost
        self._handle.report(live.trial, value, found.step)
        seconds = live.trial.user_attrs.get("seconds", 0.0) + found.seconds
        live.trial.set_user_attr("seconds", round(seconds, 4))
        self._at_rung[self._rung(number, live)][number] = value
        self._tracker.trial_rung(number, found.step, {"value": value, **metrics})

    def _rung(self, number: int, live: _Live) -> tuple[Arm, int, int]:
        """Arm, bracket and step: trials are compared where these are equal."""
        place = bracket(self._settings.pruner, number, self._settings.max_steps)
        return live.arm, place, live.step

    def _reached(self, number: int, live: _Live) -> dict[int, float]:
        """Step → value, of every rung that a trial has reached."""
        arm, place, _ = self._rung(number, live)
        return {
            step: values[number]
            for (other, where, step), values in self._at_rung.items()
            if (other, where) == (arm, place) and number in values
        }

    def _note_rungs(self) -> None:
        """Keep with the study how well each rung's order agrees with that at the end."""
        found = []
        for arm, place, step in sorted(self._at_rung):
            ends = self._at_rung.get((arm, place, self._settings.max_steps), {})
            agreed = correlation(self._at_rung[arm, place, step], ends)
            if step < self._settings.max_steps and agreed is not None:
                where = {"bracket": place} if self._settings.pruner == "hyperband" else {}
                used = self._settings.pruner != "none" and agreed >= PREDICTS
                found.append(
                    {
                        "arm": arm,
                        "step": step,
                        **where,
                        "correlation": round(agreed, 4),
                        "used": used,
                    }
                )
        if found != self._handle.study.user_attrs.get(RUNGS, []):
            self._handle.set_attr(RUNGS, found)

    def _tell(
        self, number: int, live: _Live, state: TrialState, value: float | None, reason: str | None
    ) -> None:
        attrs = live.trial.user_attrs
        excess = 0.0
        delta = self._settings.no_task_worse_than
        if delta is not None and "closest" in attrs and state != TrialState.FAIL:
            excess = attrs["closest"]["below"] - delta
            self._handle.constrain(live.trial, excess)
        told: float | list[float] | None = None
        if state == TrialState.COMPLETE and value is not None:
            told = value if self._settings.cost is None else [value, attrs["cost"]]
            if excess <= 0.0:
                self._note_best(value, number, live.arm)
        self._handle.tell(live.trial, told, state=state, reason=reason)
        self._states[_TRACKED[state]] += 1
        self._tracker.trial_finished(number, _TRACKED[state], value, reason, live.step)

    def _note_best(self, value: float | None, number: int, arm: str) -> None:
        if value is not None and (self._best is None or value > self._best[0]):
            self._best = (value, number, arm)

    def is_late(self) -> bool:
        """Whether the trials' part of the time-out has passed; the judgement has the rest."""
        limit = self._settings.timeout
        return limit is not None and self.left() < (1 - TRIALS_SHARE) * limit

    def left(self) -> float:
        """Seconds until the time-out; infinity without one."""
        limit = self._settings.timeout
        return math.inf if limit is None else limit - (time.monotonic() - self._started)

    def _announce(self, message: str | None = None) -> None:
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
                message=message,
            )
        )
