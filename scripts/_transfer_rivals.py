"""Rivals of `TransferSampler` for `bench_transfer.py`: they begin with the same portfolio."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from _transfer_tables import holds
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from autometa.priors import TransferSampler, gp
from autometa.priors.belief import log_improvement
from autometa.priors.coding import Coding
from autometa.priors.sharing_bench import Answers
from autometa.priors.sources import history, warp
from autometa.space.parameters import Suggests

N_PORTFOLIO = 5
N_CANDIDATES = 1000
Sources = Sequence[Sequence[FrozenTrial]]
Ask = Callable[[Suggests], Any]


class AfterPortfolio(TransferSampler):
    """The portfolio of `TransferSampler`, then another sampler, which sees its trials."""

    def __init__(self, sources: Sources, seed: int, then: BaseSampler) -> None:
        super().__init__(sources, seed=seed, n_portfolio=N_PORTFOLIO, cold_share=0.0)
        self.then = then

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if trial.number < N_PORTFOLIO:
            return {}
        return self.then.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial.number < N_PORTFOLIO:
            return {}
        return self.then.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = super() if trial.number < N_PORTFOLIO else self.then
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class Surrogate(BaseSampler):
    """The configuration of the best expected improvement on the target's log regrets.

    A subclass learns from the sources' in `__init__`.

    Args:
        suggest: asks a trial for a configuration of the target.

    Attributes:
        tasks: of each source (x [trial, column], z [trial]).
    """

    def __init__(self, sources: Sources, seed: int, suggest: Ask) -> None:
        self._suggest = suggest
        self.rng = np.random.default_rng(seed)
        histories = [history(s, minimise=True) for s in sources]
        self.coding = Coding([h.records() for h in histories])
        self.tasks = [
            (self.coding.embed(self.coding.codes(h.params)), warp(h.values)) for h in histories
        ]

    @abstractmethod
    def _predict(
        self, x: np.ndarray, z: np.ndarray, new: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [candidate], where z was found at x on the target."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        self._plan = self._choose(study, trial)
        return self._plan.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._plan.params

    def _choose(self, study: optuna.Study, trial: FrozenTrial) -> Answers:
        done = history(study.get_trials(deepcopy=False), minimise=True)
        z = warp(done.values)
        x = self.coding.embed(self.coding.codes(done.params))
        # uniform candidates, and changes of the best trials
        uniform = optuna.samplers.RandomSampler(seed=int(self.rng.integers(2**31)))

        def drawn(name: str, distribution: BaseDistribution) -> Any:
            return uniform.sample_independent(study, trial, name, distribution)

        best = [done.params[i] for i in np.argsort(z)[:5]]
        found = [
            Answers(self._changed(best[i % len(best)], drawn) if i < N_CANDIDATES // 2 else drawn)
            for i in range(N_CANDIDATES)
        ]
        for asked in found:
            self._suggest(asked)
        new = self.coding.embed(self.coding.codes([asked.params for asked in found]))
        mean, deviation = self._predict(x, z, new)
        order = np.argsort(-log_improvement(mean, deviation, float(z.min())))
        fresh = (found[i] for i in order if found[i].params not in done.params)
        return next(fresh, found[order[0]])

    def _changed(
        self, kept: Mapping[str, Any], drawn: Callable[[str, BaseDistribution], Any]
    ) -> Callable[[str, BaseDistribution], Any]:
        """Answers like `kept`, of which three in ten are drawn anew."""

        def answer(name: str, distribution: BaseDistribution) -> Any:
            known = name in kept and holds(distribution, kept[name])
            return kept[name] if known and self.rng.random() >= 0.3 else drawn(name, distribution)

        return answer

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        uniform = optuna.samplers.RandomSampler(seed=int(self.rng.integers(2**31)))
        return uniform.sample_independent(study, trial, param_name, param_distribution)


class Rgpe(Surrogate):
    """Ranking-weighted Gaussian process ensemble (Feurer, Letham, Bakshy 2018).

    A model's weight is the share of posterior samples in which it orders the target's trials best;
    the target's own model is judged by leaving one out, and a source whose median loss exceeds the
    95th percentile of the target's is left out.
    """

    n_samples = 200

    def __init__(self, sources: Sources, seed: int, suggest: Ask) -> None:
        super().__init__(sources, seed, suggest)
        self.models = [self._fit(x, z) for x, z in self.tasks]

    def _fit(self, x: np.ndarray, z: np.ndarray) -> gp.GP:
        data, prior = gp.Data.plain(x, z), gp.Hyper.default(len(self.coding.names))
        return gp.GP(data, self.coding.group, gp.fit([data], self.coding.group, prior))

    def _predict(
        self, x: np.ndarray, z: np.ndarray, new: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        own = self._fit(x, z)
        mean, variance = np.zeros(len(new)), np.zeros(len(new))
        for weight, model in zip(self._weights(x, z, own), [*self.models, own], strict=True):
            if weight > 0:
                m, deviation = model.predict(new)
                mean, variance = mean + weight * m, variance + (weight * deviation) ** 2
        return mean, np.sqrt(variance)

    def _weights(self, x: np.ndarray, z: np.ndarray, own: gp.GP) -> np.ndarray:
        """[source and target]."""
        losses = []
        for model in self.models:
            mean, deviation = model.predict(x)
            losses.append(self._loss(mean, deviation, z))
        # leave-one-out of the target in closed form, with its hyperparameters as they are
        inverse = np.linalg.inv(own.root @ own.root.T)
        variance = 1 / np.diag(inverse)
        target = self._loss(z - own.alpha * variance, np.sqrt(variance), z)
        table = np.array([*losses, target])
        bad = np.median(table[:-1], axis=1) > np.quantile(target, 0.95)
        table[:-1][bad] = np.inf
        ties = table + 1e-6 * self.rng.random(table.shape)
        return np.bincount(ties.argmin(0), minlength=len(table)) / self.n_samples

    def _loss(self, mean: np.ndarray, deviation: np.ndarray, z: np.ndarray) -> np.ndarray:
        """[sample]: pairs in the wrong order."""
        drawn = mean + deviation * self.rng.normal(size=(self.n_samples, len(z)))
        wrong = (drawn[:, :, None] < drawn[:, None, :]) != (z[:, None] < z[None, :])
        return wrong.sum((1, 2)).astype(float)


RIVALS: dict[str, Callable[[Sources, int, Ask], BaseSampler]] = {
    "portfolio+tpe": lambda _, seed, __: TPESampler(seed=seed),
    "rgpe": Rgpe,
}
"""What comes after the portfolio."""
