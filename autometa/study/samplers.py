"""Samplers for one suggestion: seeded from (seed, trial number), seeing one arm of the study.

A new sampler is made for every trial. Whatever it needs to know it reads from the study, so a
resumed search makes the suggestions that the uninterrupted one would have made.
"""

from __future__ import annotations

import heapq
import json
import math
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from autometa.errors import ConfigError, nearest, reason_of
from autometa.study.values import is_advised, pareto_front, rung_values, violation

SAMPLER_TRIALS = 500
"""At most so many finished trials are shown to a sampler: its cost grows with them."""
GP_TRIALS = 200
"""The same for Gaussian processes, whose cost grows with the cube (3 s a suggestion at 200)."""


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """A new sampler for trial `number`; equal arguments and equal history suggest equal values.

    Args:
        name: a key of `SAMPLERS`: `tpe`, `gp`, `random` or `cmaes`.

    Raises:
        ConfigError: the name is not known, or the package behind it is not installed.
    """
    if name not in SAMPLERS:
        raise ConfigError(
            f"Parameter `sampler` should be one of {', '.join(SAMPLERS)}. "
            f"Found `sampler = {name}`.{nearest(name, SAMPLERS)}"
        )
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        # `group` and `consider_pruned_trials` are what conditional spaces and pruning need.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](state)


class ArmStudy(optuna.Study):
    """The study as the sampler of one suggestion sees it: one arm's trials, frozen at that time.

    Writes go to the same storage. `_get_trials` is where every Optuna sampler looks for trials.
    """

    def __init__(self, study: optuna.Study, arm: str, sampler: BaseSampler) -> None:
        self.__setstate__(study.__getstate__())
        self.sampler = sampler
        self.arm = arm
        self._visible: list[FrozenTrial] | None = None

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self._visible is None:
            trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
            limit = GP_TRIALS if isinstance(self.sampler, GPSampler) else SAMPLER_TRIALS
            self._visible = visible_trials(trials, self.arm, limit)
        return [t for t in self._visible if states is None or t.state in states]


def visible_trials(
    trials: Sequence[FrozenTrial], arm: str, limit: int = SAMPLER_TRIALS
) -> list[FrozenTrial]:
    """The running trials of an arm and at most `limit` finished ones, ordered by number.

    Beyond the limit: the best half of it (complete before pruned, pruned ones by how far they came;
    those that keep to a bound before those that do not; with a cost, by Pareto front after front)
    and the most recent of the others, which keep the model's picture of bad regions.
    """
    # an advised trial has no parameters: with one among them GP and CMA-ES would know none
    own = [t for t in trials if t.user_attrs.get("arm") == arm and not is_advised(t)]
    running = [t for t in own if t.state == TrialState.RUNNING]
    finished = [t for t in own if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if len(finished) > limit:
        fronts = _fronts(finished, limit // 2)
        best = heapq.nlargest(limit // 2, finished, key=lambda t: _rank(t, fronts))
        kept = {t.number for t in best}
        rest = [t for t in finished if t.number not in kept]
        finished = best + rest[len(rest) - (limit - len(best)) :]
    return sorted(running + finished, key=lambda t: t.number)


def _rank(trial: FrozenTrial, fronts: Mapping[int, int]) -> tuple[bool, float, float, float]:
    """Larger is better."""
    if trial.state == TrialState.COMPLETE:
        excess = max(0.0, violation(trial) or 0.0)
        return True, -excess, -fronts.get(trial.number, 0), trial.values[0]
    rungs = rung_values(trial)
    step = max(rungs, default=-1)
    value = rungs.get(step, -math.inf)
    return False, step, 0.0, -math.inf if math.isnan(value) else value


def _fronts(trials: Sequence[FrozenTrial], n_best: int) -> dict[int, int]:
    """Trial number → its Pareto front, 0 the best, of the first `n_best` completed trials of a
    study with two values; the others share the front after those."""
    left = [t for t in trials if t.state == TrialState.COMPLETE and len(t.values) == 2]
    found: dict[int, int] = {}
    front = 0
    while left and len(found) < n_best:
        numbers = {t.number for t in pareto_front(left)} or {t.number for t in left}
        found.update(dict.fromkeys(numbers, front))
        left = [t for t in left if t.number not in numbers]
        front += 1
    return found | {t.number: front for t in left}


class _CmaEs(CmaEsSampler):
    """Optuna's CMA-ES with its state stored as JSON: Optuna pickles it, and unpickling a journal
    that someone sent you would run whatever they put in it."""

    _optimizer: Any = None

    def _init_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self._optimizer = super()._init_optimizer(*args, **kwargs)
        return self._optimizer

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        state = {k: _plain(v) for k, v in self._optimizer.__getstate__().items()}
        return super()._split_optimizer_str(json.dumps(state))

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        prefix = self._attr_key_optimizer
        for trial in reversed(completed_trials):
            attrs = {k: v for k, v in trial.system_attrs.items() if k.startswith(prefix)}
            self._optimizer = _restored(self._concat_optimizer_attrs(attrs)) if attrs else None
            if self._optimizer is not None:
                return self._optimizer
        return None


def _restored(text: str) -> Any:
    """The optimizer of a stored state; None if Optuna's own sampler or another cmaes wrote it."""
    import cmaes

    try:
        state = json.loads(text)
        optimizer = cmaes.CMA(mean=np.zeros(state["_n_dim"]), sigma=1.0)
    except (ValueError, TypeError, KeyError):
        return None
    if state.keys() != optimizer.__getstate__().keys():
        return None
    optimizer.__setstate__({k: np.array(v) if isinstance(v, list) else v for k, v in state.items()})
    return optimizer


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    try:
        import cmaes  # noqa: F401 - Optuna imports it lazily, in the middle of a search
    except ImportError as exc:
        raise ConfigError(
            "Parameter `sampler = cmaes` needs the package cmaes: `pip install cmaes` "
            f"({reason_of(exc)})."
        ) from exc
    return _CmaEs(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)


#: samplers that can minimise a cost beside the score, and keep to a bound
WITH_OBJECTIVES = ("tpe", "gp", "random")

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "random": lambda seed: RandomSampler(seed=seed),
    "cmaes": _cmaes,
}
