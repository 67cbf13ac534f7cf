"""The handle of a study: what its one driver asks, tells, commits and revives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autometa.space import Arm
from autometa.study.databases import DatabaseOwner, storage_errors
from autometa.study.given import GivenTrial
from autometa.study.journal import GroupedJournalBackend
from autometa.study.samplers import ArmStudy
from autometa.study.values import DEFAULT, RUNGS, WORST_TASK

SamplerFor = Callable[[int], BaseSampler]
"""Trial number → the sampler that suggests its parameters."""


class StudyHandle:
    """A study held by this process, the only one that may change it. A context manager.

    Attributes:
        name: the study's name.
        study: the Optuna study, of both arms.
        resumed: whether it had been started before.
        path: its journal, or None in a database.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        resumed: bool,
        backend: GroupedJournalBackend | None = None,
        owner: DatabaseOwner | None = None,
        where: str = "",
    ) -> None:
        self.name = study.study_name
        self.study = study
        self.resumed = resumed
        self.path = backend.path if backend else None
        self._backend = backend
        self._owner = owner
        self._where = where
        self._looked_at: int | None = None  # trials with lower numbers are known
        self._enqueued: list[int] = []
        self._mine: set[int] = set()  # made here, and not looked at yet

    def ask(
        self, arm: Arm, make: SamplerFor, default: Mapping[str, Any] | None = None
    ) -> GivenTrial:
        """Start a trial of one arm: the next waiting one of that arm, or a new one.

        Args:
            arm: its sampler sees this arm's trials only, at most `SAMPLER_TRIALS` finished ones.
            make: a new sampler for the trial's number, such as
                `functools.partial(make_sampler, "tpe", seed)`.
            default: parameter → value of a default configuration, which a new trial is to be; what
                it lacks the sampler suggests. As if someone had enqueued it.

        Raises:
            StudyError: another process took the study over.
            InfrastructureError: the database failed.
        """
        self._check()
        with storage_errors(self._where):
            storage, study_id = self.study._storage, self.study._study_id
            trial_id = self._next_waiting(arm)
            if trial_id is None:
                # What it is is part of the record that creates it: a kill leaves none without.
                template = create_trial(
                    state=TrialState.RUNNING,
                    user_attrs={"arm": arm} | ({} if default is None else {DEFAULT: True}),
                    system_attrs={} if default is None else {"fixed_params": dict(default)},
                )
                trial_id = storage.create_new_trial(study_id, template_trial=template)
                self._mine.add(trial_id)
            return self._trial(trial_id, arm, make)

    def report(self, trial: Trial, value: float, step: int) -> None:
        """Note the score of a rung; see `values` for where."""
        with storage_errors(self._where):
            if len(self.study.directions) == 1:
                trial.report(value, step)
            else:
                trial.set_user_attr(RUNGS, {**trial.user_attrs.get(RUNGS, {}), str(step): value})

    def constrain(self, trial: Trial, excess: float) -> None:
        """Note how far a trial's worst task is beyond the bound; not above 0 keeps to it."""
        with storage_errors(self._where):
            if WORST_TASK not in trial.constraints:  # set, if a driver died before it told
                trial.set_constraint(WORST_TASK, excess)

    def tell(
        self,
        trial: Trial | int,
        value: float | Sequence[float] | None = None,
        *,
        state: TrialState = TrialState.COMPLETE,
        reason: str | None = None,
    ) -> FrozenTrial:
        """Finish a trial: COMPLETE with its value (or score and cost), PRUNED (its value is the
        last one reported), or FAIL with a reason, which is kept as a user attribute."""
        number = trial if isinstance(trial, int) else trial.number
        with storage_errors(self._where):
            if reason is not None:
                trial_id = self.study._storage.get_trial_id_from_study_id_trial_number(
                    self.study._study_id, number
                )
                self.study._storage.set_trial_user_attr(trial_id, "reason", reason)
            return self.study.tell(number, value, state=state)

    def add(self, trial: FrozenTrial) -> int:
        """Write a finished trial that was not asked for, in one record; returns its number."""
        self._check()
        with storage_errors(self._where):
            storage = self.study._storage
            trial_id = storage.create_new_trial(self.study._study_id, template_trial=trial)
            return storage.get_trial_number_from_id(trial_id)

    def revive(self, make: SamplerFor | None = None) -> list[GivenTrial]:
        """The RUNNING trials, which a driver that died left behind, to go on with.

        With `make`, a trial whose parameters had not all been suggested can be suggested again.
        """
        default: SamplerFor = make or (lambda number: RandomSampler(seed=number))
        with storage_errors(self._where):
            return [
                self._trial(t._trial_id, t.user_attrs.get("arm", "sharing"), default)
                for t in self.trials()
                if t.state == TrialState.RUNNING
            ]

    def trials(self) -> list[FrozenTrial]:
        """All trials by number, not copied: they must not be changed."""
        with storage_errors(self._where):
            return self.study._storage.get_all_trials(self.study._study_id, deepcopy=False)

    def set_attr(self, key: str, value: Any) -> None:
        """Set a user attribute of the study."""
        with storage_errors(self._where):
            self.study.set_user_attr(key, value)

    def commit(self) -> None:
        """Make everything since the last commit durable (a database does so by itself).

        Raises:
            StudyError: another process took the study over.
            InfrastructureError: the disk failed or is full; nothing committed before is lost.
        """
        self._check()
        if self._backend is not None:
            self._backend.commit()

    def close(self) -> None:
        """Commit and let others drive the study."""
        try:
            if self._backend is not None and self._backend.pending:
                self._backend.commit()
        finally:
            self._release()

    def __enter__(self) -> StudyHandle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._owner is not None:
            self._owner.check()

    def _release(self) -> None:
        if self._backend is not None:
            self._backend.close()
        if self._owner is not None:
            self._owner.release()

    def _trial(self, trial_id: int, arm: str, make: SamplerFor) -> GivenTrial:
        number = self.study._storage.get_trial_number_from_id(trial_id)
        return GivenTrial(ArmStudy(self.study, arm, make(number)), trial_id)

    def _next_waiting(self, arm: str) -> int | None:
        """Pop a trial that someone enqueued for this arm, or for either.

        Trials are looked at once each: going through all of them for every new one would cost
        more and more.
        """
        storage, study_id = self.study._storage, self.study._study_id
        if self._looked_at is None:
            trials = self.trials()
            self._looked_at = len(trials)
            self._enqueued = [t._trial_id for t in trials if t.state == TrialState.WAITING]
        while True:
            try:
                new = storage.get_trial_id_from_study_id_trial_number(study_id, self._looked_at)
            except KeyError:
                break
            self._looked_at += 1
            if new not in self._mine:
                self._enqueued.append(new)
            self._mine.discard(new)
        for trial_id in list(self._enqueued):
            trial = storage.get_trial(trial_id)
            if trial.state != TrialState.WAITING:
                self._enqueued.remove(trial_id)
            elif trial.user_attrs.get("arm", arm) == arm:
                self._enqueued.remove(trial_id)
                storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
                storage.set_trial_user_attr(trial_id, "arm", arm)
                return trial_id
        return None
