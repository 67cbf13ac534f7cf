"""`TransferSampler`: what finished searches teach the next, for any Optuna study."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa.priors import guard
from autometa.priors.coding import fit_value
from autometa.priors.model import Pool, Search
from autometa.priors.sources import Source, Sources, read_sources

_logger = logging.getLogger(__name__)

PROPOSED_BY = "transfer:by"
"""System attribute of a trial: `portfolio`, `model`, `cold` (prior-free) or `random`."""
DROPPED = "transfer:dropped"
"""System attribute of a trial: positions of the sources that were dropped when it was proposed."""
MIN_MODEL = 3
"""Finished trials that a Gaussian process without sources needs."""


@dataclass(frozen=True)
class _Plan:
    """What is proposed for one trial; parameters that it lacks are drawn at random."""

    params: dict[str, Any]
    by: str


class TransferSampler(BaseSampler):
    """An Optuna sampler that learned from finished studies.

    It first proposes a *portfolio*: configurations that between them were good for every source.
    Then it proposes what a *model* expects to improve most on the best trial: the weighted mean of
    the sources' Gaussian processes of the log regret, plus a Gaussian process of what that leaves
    unexplained, whose hyperparameters are learned by making every source the target of the others.
    A source that orders the target's trials wrongly is *dropped* (`guard.misleading`), and a share
    of the trials is proposed by a Gaussian process that knows no source.

    Spaces may differ and may be conditional. Parameters that no source has are searched like those
    of any Gaussian process, those that the target lacks are averaged out; a number is matched by
    value where ranges differ, a category by the choices that both have.

    The same seed and the same trials give the same suggestion, whichever instance is asked. What
    was done is in each trial's system attributes, `transfer:by` and `transfer:dropped`.

    Studies with several objectives raise ValueError. Constraints are not looked at.

    Args:
        sources: finished studies, or lists of their trials, of one objective with the direction of
            the study that is searched. Those with fewer than three finished trials, or with equal
            values only, are passed over. Their order is part of what a resumed study relies on.
        seed: of all random choices.
        probes: [1 + source, probe], what was measured of the target's problem (first row) and of
            each source's, in whatever units; a source counts for more the nearer it is. All count
            the same if not given.
        n_portfolio: trials of the portfolio.
        cold_share: share of the later trials that is proposed without sources.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int | None = None,
        probes: ArrayLike | None = None,
        n_portfolio: int = 5,
        cold_share: float = 0.125,
    ) -> None:
        if n_portfolio < 0:
            raise ValueError(
                "Parameter `n_portfolio` should be at least 0. "
                f"Found `n_portfolio = {n_portfolio}`."
            )
        if not 0 <= cold_share <= 1:
            raise ValueError(
                "Parameter `cold_share` should be between 0 and 1. "
                f"Found `cold_share = {cold_share}`."
            )
        table = None if probes is None else np.asarray(probes, dtype=float)
        if table is not None and (table.ndim != 2 or len(table) != len(sources) + 1):
            raise ValueError(
                "Parameter `probes` should have one row for the target and one for each of the "
                f"{len(sources)} sources. Found `probes` of shape {table.shape}."
            )
        self._given = sources
        self._probes = table
        self._n_portfolio = n_portfolio
        self._cold_share = cold_share
        self._fitted: dict[bool, Sources | None] = {}
        self._pool: Pool | None = None
        self._plans: dict[tuple[str, int], _Plan] = {}
        self._reseed(seed)

    def with_seed(self, seed: int) -> TransferSampler:
        """The same sampler with another seed; what was fitted to the sources is shared."""
        other = TransferSampler(
            self._given,
            seed=seed,
            probes=self._probes,
            n_portfolio=self._n_portfolio,
            cold_share=self._cold_share,
        )
        other._fitted = self._fitted
        return other

    def reseed_rng(self) -> None:
        self._reseed(None)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Empty: a source may know a parameter before the study does; each is asked for alone."""
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
        """The value in the plan of the whole trial, which is made when its first value is asked."""
        self._raise_error_if_multi_objective(study)
        key = study.study_name, trial.number
        if key not in self._plans:
            self._plans[key] = self._propose(study, trial)
        planned = self._plans[key].params
        if param_name in planned:
            value = fit_value(planned[param_name], param_distribution)
            if value is not None:
                return value
        sampler = RandomSampler(seed=self._stream(trial, zlib.crc32(param_name.encode())))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._plans.pop((study.study_name, trial.number), None)

    def _reseed(self, seed: int | None) -> None:
        self._seed = int(np.random.default_rng(seed).integers(2**31))
        self._pool = None

    def _stream(self, trial: FrozenTrial, purpose: int) -> int:
        state = np.random.SeedSequence([self._seed, trial.number, purpose]).generate_state(1)
        return int(state[0])

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> _Plan:
        minimise = study.direction == StudyDirection.MINIMIZE
        trials = [t for t in study._get_trials(deepcopy=False) if t.number != trial.number]
        if minimise not in self._fitted:
            self._fitted[minimise] = read_sources(self._given, minimise)
        sources = self._fitted[minimise]
        search = Search(sources, trials, minimise, self._probes)
        if sources is not None:
            search.alive = self._alive(study, trial, trials, sources, search)
        plan = self._plan(trial, trials, search)
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSED_BY, plan.by)
        return plan

    def _plan(self, trial: FrozenTrial, trials: Sequence[FrozenTrial], search: Search) -> _Plan:
        n_portfolio = sum(t.system_attrs.get(PROPOSED_BY) == "portfolio" for t in trials)
        if n_portfolio < self._n_portfolio and search.alive.any():
            params = search.portfolio()
            if params is not None:
                return _Plan(params, "portfolio")
        values = search.done.values
        rng = np.random.default_rng(self._stream(trial, 0))
        if not search.alive.any() or rng.random() < self._cold_share:
            if len(values) < MIN_MODEL or np.ptp(values) == 0:
                return _Plan({}, "random")
            return _Plan(search.without_sources().cold(rng), "cold")
        if len(values) == 0:
            return _Plan({}, "random")
        self._pool = search.pool(self._pool, self._seed)
        return _Plan(search.model(rng, self._pool), "model")

    def _alive(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        sources: Sources,
        search: Search,
    ) -> np.ndarray:
        """[source]: not dropped, now or for an earlier trial."""
        alive = np.ones(len(sources), dtype=bool)
        for t in trials:
            dropped = json.loads(t.system_attrs.get(DROPPED, "[]"))
            alive &= ~np.isin(sources.positions, dropped)
        rng = np.random.default_rng(self._stream(trial, 1))
        if alive.any():
            predicted = sources.predict(search.done_codes)
            bad = alive & guard.misleading(predicted, search.done.values, rng)
            if bad.any():
                dropped = sources.positions[bad].tolist()
                study._storage.set_trial_system_attr(trial._trial_id, DROPPED, json.dumps(dropped))
                names = ", ".join(n for n, b in zip(sources.names, bad, strict=True) if b)
                _logger.info(
                    "Trial %d: dropped %s, which ordered the %d trials so far wrongly.",
                    trial.number,
                    names,
                    len(search.done.values),
                )
            alive &= ~bad
        return alive
