"""Rivals of `TransferSampler` for `bench_transfer.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optuna.samplers import BaseSampler, TPESampler

from autometa.priors.sampler import TransferSampler


class PortfolioTpe(TransferSampler):
    """The same portfolio, then TPE."""

    def __init__(self, sources: Any, seed: int) -> None:
        super().__init__(sources, seed=seed)
        self.tpe = TPESampler(seed=seed, multivariate=True, n_startup_trials=5)

    def infer_relative_search_space(self, study, trial):
        return self.tpe.infer_relative_search_space(study, trial) if trial.number >= 5 else {}

    def sample_relative(self, study, trial, search_space):
        return self.tpe.sample_relative(study, trial, search_space) if trial.number >= 5 else {}

    def sample_independent(self, study, trial, name, distribution):
        if trial.number >= 5:
            return self.tpe.sample_independent(study, trial, name, distribution)
        return super().sample_independent(study, trial, name, distribution)


RIVALS: dict[str, Callable[..., BaseSampler]] = {
    "portfolio+tpe": lambda sources, seed: PortfolioTpe(sources, seed),
}
