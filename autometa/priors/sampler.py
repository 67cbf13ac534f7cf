"""`TransferSampler`: what finished searches teach the next, for any Optuna study."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from autometa.priors import guard
from autometa.priors.coding import fit_value
from autometa.priors.model import Search
from autometa.priors.portfolio import greedy
from autometa.priors.sources import MIN_TRIALS, Source, Sources, history

_logger = logging.getLogger(__name__)

PROPOSED_BY = "transfer:by"
"""System attribute of a trial: `portfolio`, `model`, `cold` (prior-free) or `random`."""
DROPPED = "transfer:dropped"
"""System attribute of a trial: the sources that were dropped before it was proposed."""
COLD_SHARE = 0.125
MIN_MODEL = 3
"""Finished trials that a Gaussian process without sources needs."""


@dataclass
class _Plan:
    """What is proposed for one trial."""

    params: dict[str, Any]
    by: str


class TransferSampler(BaseSampler):
    """An Optuna sampler that learned from finished studies.

    It proposes a *portfolio* of `n_portfolio` configurations that between them were good for every
    source, then what a *model* expects to improve on the best: the mean of the sources' Gaussian
    processes plus a Gaussian process of what the target's trials leave unexplained.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int | None = None,
        probes: ArrayLike | None = None,
        n_portfolio: int = 5,
        cold_share: float = COLD_SHARE,
    ) -> None:
        self._given = sources
        self._seed = int(np.random.default_rng(seed).integers(2**31))
        self._probes = probes
        self._n_portfolio = n_portfolio
        self._cold_share = cold_share
        self._random = RandomSampler(seed=self._seed)
        self._fitted: dict[bool, tuple[Sources | None, list[int]]] = {}
        self._plans: dict[int, _Plan] = {}
        self._pools: dict[Any, Any] = {}

    def reseed_rng(self) -> None:
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        return {
            name: self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        plan = self._plans.get(trial.number)
        if plan is None:
            plan = self._plans[trial.number] = self._propose(study, trial)
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSED_BY, plan.by)
        if param_name in plan.params:
            value = fit_value(plan.params[param_name], param_distribution)
            if value is not None:
                return value
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._plans.pop(trial.number, None)

    def _sources(self, minimise: bool) -> Sources | None:
        if minimise not in self._fitted:
            histories = []
            for source in self._given:
                trials = source.trials if isinstance(source, optuna.Study) else source
                h = history(trials, minimise)
                if len(h.values) >= MIN_TRIALS and np.ptp(h.values) > 0:
                    histories.append(h)
            self._fitted[minimise] = Sources(histories, self._seed) if histories else None
        return self._fitted[minimise]

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> _Plan:
        minimise = study.direction == optuna.study.StudyDirection.MINIMIZE
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = [
            t
            for t in study._get_trials(deepcopy=False, states=states)
            if t.number != trial.number
        ]
        rng = np.random.default_rng([self._seed, trial.number])
        sources = self._sources(minimise)
        search = Search(sources, trials, minimise, self._seed)
        if sources is not None:
            search.alive = self._guard(study, trial, trials, sources, search, rng)
            n_portfolio = sum(t.system_attrs.get(PROPOSED_BY) == "portfolio" for t in trials)
            if n_portfolio < self._n_portfolio and search.alive.any():
                params = search.portfolio()
                if params is not None:
                    return _Plan(params, "portfolio")
        n = len(search.done.values)
        if sources is None or not search.alive.any() or rng.random() < self._cold_share:
            if n < MIN_MODEL or np.ptp(search.done.values) == 0:
                return _Plan({}, "random")
            return _Plan(search.cold(rng), "cold")
        if n == 0:
            return _Plan({}, "random")
        return _Plan(search.model(rng, self._pools), "model")

    def _guard(self, study, trial, trials, sources, search, rng) -> np.ndarray:
        alive = np.ones(len(sources), dtype=bool)
        for t in trials:
            alive[json.loads(t.system_attrs.get(DROPPED, "[]"))] = False
        if len(search.done.values) >= guard.MIN_TRIALS and alive.any():
            bad = alive & guard.misleading(sources.predict(search.done_codes), search.done.values, rng)
            if bad.any():
                alive &= ~bad
                dropped = np.flatnonzero(bad).tolist()
                study._storage.set_trial_system_attr(trial._trial_id, DROPPED, json.dumps(dropped))
                _logger.info("Trial %d: dropped sources %s", trial.number, dropped)
        return alive
