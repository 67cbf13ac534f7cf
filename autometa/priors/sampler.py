"""`TransferSampler`: what finished searches teach the next, for any Optuna study."""

from __future__ import annotations

import json
import logging
import threading
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from autometa.priors import guard
from autometa.priors.coding import NOTHING, fit_value
from autometa.priors.model import Search
from autometa.priors.sources import Source, Sources, read_sources

_logger = logging.getLogger(__name__)

PROPOSED_BY = "transfer:by"
"""System attribute of a trial: `portfolio`, `model`, or without sources `random`, `tpe` or `gp`."""
DROPPED = "transfer:dropped"
"""System attribute of a trial: positions of the sources that were dropped when it was proposed."""
MAX_PLANS = 256
"""Trials whose parameters may be asked for in turns; a plan that was forgotten is made again."""
PRIOR_FREE = {"random", "tpe", "gp"}
"""Ways to propose a trial that know no source."""
N_STARTUP = 5
"""Trials of any kind, at least one of them prior-free, before a model of these alone proposes
one."""
_ALONE = threading.Lock()
"""One proposal at a time: threads share what was fitted, and the limit on BLAS is the process's."""


@dataclass(frozen=True)
class _Plan:
    """What is proposed for one trial; `rest` draws what it lacks, at random if it is None."""

    params: dict[str, Any]
    by: str
    rest: BaseSampler | None = None


class TransferSampler(BaseSampler):
    """An Optuna sampler that learned from finished studies.

    It first proposes a *portfolio*: configurations that between them were good for every source.
    Then it proposes what a *model* expects to improve most on the best trial. The model is a
    mixture of two: the weighted mean of the sources' Gaussian processes of the log regret, plus a
    Gaussian process of what that leaves unexplained, whose hyperparameters are learned by making
    every source the target of the others; and a Gaussian process of the target's trials alone. Each
    has the share that its marginal likelihood gives it.

    A source that orders the target's trials wrongly is *dropped* (`guard.doubt`), one that has less
    than a third of the target's parameters is passed over, and a share of the trials is
    *prior-free*: proposed by TPE, which knows no source. With no source left all trials are, half
    of them by TPE and half by a Gaussian process of the target's trials.

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
        n_portfolio: trials of the portfolio. Trials that are suggested before there is any result
            are the portfolio's too, but for the prior-free share; none are if it is zero.
        cold_share: prior-free share of the trials after the portfolio. Unless it is zero, the
            first of them is random, which puts the sources to the test, and all trials are
            prior-free while the sources together are more likely wrong than right.

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
        self._plans: dict[tuple[int, int], _Plan] = {}
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
        key = _key(study, trial)
        if key not in self._plans:
            # a driver that tells trials past this sampler leaves their plans behind
            while len(self._plans) >= MAX_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            # matrices of a hundred rows: more threads only wait for each other, 10 times slower
            with _ALONE, threadpool_limits(limits=1, user_api="blas"):
                self._plans[key] = self._propose(study, trial)
        planned = self._plans[key].params
        if param_name in planned:
            value = fit_value(planned[param_name], param_distribution)
            if value is not NOTHING:
                return value
        sampler = self._plans[key].rest
        if sampler is None:
            sampler = RandomSampler(seed=self._stream(trial, zlib.crc32(param_name.encode())))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._plans.pop(_key(study, trial), None)

    def _reseed(self, seed: int | None) -> None:
        self._seed = int(np.random.default_rng(seed).integers(2**31))

    def _stream(self, trial: FrozenTrial, purpose: int) -> int:
        state = np.random.SeedSequence([self._seed, trial.number, purpose]).generate_state(1)
        return int(state[0])

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> _Plan:
        minimise = study.direction == StudyDirection.MINIMIZE
        trials = [t for t in study._get_trials(deepcopy=False) if t.number != trial.number]
        if minimise not in self._fitted:
            self._fitted[minimise] = read_sources(self._given, minimise)
        sources = self._fitted[minimise]
        plan, trusted = None, False
        if sources is not None:
            search = Search(sources, trials, minimise, self._probes)
            trusted = self._judge(study, trial, trials, search)
            plan = (self._from_sources if trusted else self._from_target)(trial, trials, search)
        if plan is None:
            plan = self._without_sources(study, trial, trials, trusted)
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSED_BY, plan.by)
        return plan

    def _from_sources(
        self, trial: FrozenTrial, trials: Sequence[FrozenTrial], search: Search
    ) -> _Plan | None:
        """None if this trial is to be prior-free."""
        by = [t.system_attrs.get(PROPOSED_BY) for t in trials]
        # of a long study the caller may show the sampler a part only
        if by.count("portfolio") < self._n_portfolio and len(trials) < 10 * self._n_portfolio:
            params = search.portfolio()
            if params is not None:
                return _Plan(params, "portfolio")
        # sources are hardly found to be wrong where they speak of good configurations only
        if self._cold_share > 0 and not PRIOR_FREE & set(by):
            return None
        rng = np.random.default_rng(self._stream(trial, 0))
        if rng.random() < self._cold_share:
            return None
        if len(search.done.values):
            return _Plan(search.model(rng), "model")
        # suggested ahead of all results, which leaves the model nothing to go on
        params = search.portfolio() if self._n_portfolio else None
        return None if params is None else _Plan(params, "portfolio")

    def _from_target(
        self, trial: FrozenTrial, trials: Sequence[FrozenTrial], search: Search
    ) -> _Plan | None:
        """By a Gaussian process of the target's trials, or for a random half None, which makes it
        TPE's: where one of the two does badly the other seldom does."""
        rng = np.random.default_rng(self._stream(trial, 3))
        if _starting(trials) or rng.random() < 0.5:
            return None
        return _Plan(search.alone(rng), "gp")

    def _without_sources(
        self, study: optuna.Study, trial: FrozenTrial, trials: Sequence[FrozenTrial], trusted: bool
    ) -> _Plan:
        """At random, then TPE: it looks at ranks, so that no outlying value of a bad portfolio
        bends it, and learns from bad trials where not to look.

        Args:
            trusted: the other trials are the sources'. Then parameters are drawn together, as the
                model does; else one by one, which explores more.
        """
        if _starting(trials):
            return _Plan({}, "random")
        with warnings.catch_warnings():
            # `group` is what conditional spaces need, `constant_liar` trials that run beside others
            warnings.simplefilter("ignore", ExperimentalWarning)
            tpe = TPESampler(
                seed=self._stream(trial, 2),
                multivariate=trusted,
                group=trusted,
                constant_liar=True,
                n_startup_trials=0,
            )
        space = tpe.infer_relative_search_space(study, trial)
        return _Plan(tpe.sample_relative(study, trial, space), "tpe", tpe)

    def _judge(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        search: Search,
    ) -> bool:
        """Drops sources; whether any is left and all together were more likely right than wrong."""
        sources = search.sources
        for t in trials:
            dropped = json.loads(t.system_attrs.get(DROPPED, "[]"))
            search.alive &= ~np.isin(sources.positions, dropped)
        if not search.alive.any():
            return False
        rng = np.random.default_rng(self._stream(trial, 1))
        predicted = search.done_predicted
        # the sources one by one, and the mean of those that are left
        mean = predicted @ search.weights
        doubt = guard.doubt(np.column_stack([predicted, mean]), search.done.values, rng)
        doubt, together = doubt[:-1], doubt[-1]
        bound = 0.5 if together >= guard.CONFIDENCE else guard.CONFIDENCE
        bad = search.alive & (doubt >= bound)
        if bad.any():
            positions = sources.positions[bad].tolist()
            study._storage.set_trial_system_attr(trial._trial_id, DROPPED, json.dumps(positions))
            _logger.info(
                "Trial %d: dropped %s, which ordered the %d trials so far wrongly.",
                trial.number,
                ", ".join(name for name, b in zip(sources.names, bad, strict=True) if b),
                len(search.done.values),
            )
            search.alive &= ~bad
        doubted = self._cold_share > 0 and together > 0.5
        return bool(search.alive.any()) and not doubted


def _key(study: optuna.Study, trial: FrozenTrial) -> tuple[int, int]:
    """Of a trial among those of all studies: two may have one name."""
    return id(study._storage), trial._trial_id


def _starting(trials: Sequence[FrozenTrial]) -> bool:
    """Whether there are too few trials for a model of these alone."""
    by = [t.system_attrs.get(PROPOSED_BY) for t in trials if t.state == TrialState.COMPLETE]
    return len(by) < N_STARTUP or not PRIOR_FREE & set(by)
