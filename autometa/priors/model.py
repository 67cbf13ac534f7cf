"""One proposal: the portfolio's next configuration, or the one of the best expected improvement, by
the sources and the target's trials or by these alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_expit

from autometa.priors import gp
from autometa.priors.belief import Belief
from autometa.priors.candidates import Candidates
from autometa.priors.coding import Category, Coding
from autometa.priors.portfolio import greedy
from autometa.priors.sources import Sources, history, warp

N_CANDIDATES = 800
"""Configurations of which the most promising is proposed."""
N_BEST = 5
"""The target's best trials, of which half of the candidates are variations."""
N_PORTFOLIO_BEST = 10
"""A source's best trials, from which the portfolio is chosen."""
MIN_OVERLAP = 1 / 3
"""Of the parameters of a trial of the target a source has at least this part in the mean, or it is
passed over."""
CAUTION = 2.2
"""Deviations are held to be this many times as large: what the sources predict and the lengths of
the residual are taken as known, which they are not. Without sources they count as they are."""
MAX_TRIALS = 150
"""Of a longer study the model sees the best half of these and the most recent others."""


Acquisition = Callable[[np.ndarray], np.ndarray]
"""Codes → [configuration]: log expected improvement."""


class Search:
    """The target's trials beside the sources, at the time of one proposal.

    Attributes:
        done: finished trials.
        done_codes, running_codes: [trial, parameter].
        done_predicted: [trial, source], what the sources say of the finished trials.
        alive: [source], those that count.
    """

    def __init__(
        self,
        sources: Sources,
        trials: Sequence[FrozenTrial],
        minimise: bool,
        probes: np.ndarray | None,
    ) -> None:
        self.sources = sources
        self.done = history(trials, minimise).recent(MAX_TRIALS)
        asked = [t for t in trials if t.params]
        running = [t for t in asked if t.state == TrialState.RUNNING]
        records = [*self.done.records(), *((t.params, t.distributions) for t in running)]
        self.space = {name: d for t in asked for name, d in t.distributions.items()}
        self.coding = Coding([records], base=sources.coding)
        self.done_codes = self.coding.codes(self.done.params)
        self.running_codes = self.coding.codes([t.params for t in running])
        self.done_predicted = sources.predict(self.done_codes)
        self._running_predicted = sources.predict(self.running_codes)
        self._asked_codes = self.coding.codes([t.params for t in asked])
        self._alike = sources.overlap(params for params, _ in records) >= MIN_OVERLAP
        self.alive = self._alike.copy()
        self._prior_weights = sources.weights(probes)
        self._required = {n for n in self.space if all(n in params for params, _ in records)}
        known = zip(self.coding.names, self.coding.conditional, strict=True)
        unconditional = {name for name, conditional in known if not conditional}
        self._lost = unconditional - self.space.keys() if records else set()

    @property
    def weights(self) -> np.ndarray:
        """[source], their sum is 1; zero for those that do not count."""
        weights = np.where(self.alive, self._prior_weights, 0.0)
        return weights / weights.sum()

    def portfolio(self) -> dict[str, Any] | None:
        """The configuration of a source that adds most to those tried, whatever became of them;
        None if none is left.

        Two are the same if they are so in what both the source and the target have.
        """
        s, tried = self.sources, self._asked_codes
        best = [s.best(i, N_PORTFOLIO_BEST) for i in range(len(s)) if self.alive[i]]
        known = [(~np.isnan(c)).any(0) for c, a in zip(s.codes, self.alive, strict=True) if a]
        rows = np.concatenate(best)
        wide = self.coding.snap(_widened(rows, self.coding), self.space)
        common = np.zeros(wide.shape, dtype=bool)
        common[:, : rows.shape[1]] = np.repeat(known, [len(b) for b in best], axis=0)
        common &= (~np.isnan(tried)).any(0) & self._available(wide)
        covered = s.regret(tried)[:, self.alive].min(0) if len(tried) else None
        for i in greedy(s.regret(rows)[:, self.alive], self.weights[self.alive], covered):
            same = np.isclose(tried, wide[i], rtol=0, atol=1e-6, equal_nan=True)
            if not (same | ~common[i]).all(1).any():
                return s.coding.decode(rows[i])
        return None

    def model(self, rng: np.random.Generator) -> dict[str, Any]:
        """By two beliefs, one with the sources and one without, each as far as the target's trials
        bear it out: the expected improvement is that of the mixture."""
        weights, alive = self.weights[self.alive], self.alive
        advised = self._belief(weights, self.sources.residual, CAUTION)
        own = self._own_belief()
        # the log odds of the two are the difference of their evidence
        odds = advised.evidence - own.evidence
        log_advised, log_own = log_expit(odds), log_expit(-odds)

        def acquisition(rows: np.ndarray) -> np.ndarray:
            x, predicted = self._embed(rows), self.sources.predict(rows)[:, alive]
            return np.logaddexp(
                log_advised + advised.improvement(x, predicted),
                log_own + own.improvement(x, predicted[:, :0]),
            )

        return self._best_of(rng, acquisition)

    def alone(self, rng: np.random.Generator) -> dict[str, Any]:
        """By the belief without the sources. Of these only the branches count, where they say which
        parameters go together."""
        own = self._own_belief()

        def acquisition(rows: np.ndarray) -> np.ndarray:
            return own.improvement(self._embed(rows), np.zeros((len(rows), 0)))

        return self._best_of(rng, acquisition)

    def _available(self, codes: np.ndarray) -> np.ndarray:
        """[configuration, parameter]: not a category that the target lacks, in place of which it
        draws one of its own."""
        found = np.ones(codes.shape, dtype=bool)
        for column, name in enumerate(self.coding.names):
            if isinstance(self.coding.parameters[name], Category):
                options = self.coding.options(name, self.space)
                found[:, column] = np.isnan(codes[:, column]) | np.isin(codes[:, column], options)
        return found

    def _own_belief(self) -> Belief:
        return self._belief(np.zeros(0), gp.Hyper.default(len(self.coding.names)), 1.0)

    def _belief(self, weights: np.ndarray, prior: gp.Hyper, caution: float) -> Belief:
        """With the sources that count, or without any if there are no weights."""
        counted = self.alive if len(weights) else np.zeros(len(self.sources), dtype=bool)
        return Belief(
            self._embed(self.done_codes),
            warp(self.done.values),
            self.done_predicted[:, counted],
            weights,
            self.coding.group,
            prior.widened(len(self.coding.names)),
            caution,
            pending=self._embed(self.running_codes),
            pending_predicted=self._running_predicted[:, counted],
        )

    def _embed(self, codes: np.ndarray) -> np.ndarray:
        """What is missing for good has no distance."""
        return np.nan_to_num(self.coding.embed(codes))

    def _best_of(self, rng: np.random.Generator, acquisition: Acquisition) -> dict[str, Any]:
        """The candidate that is expected to improve most, among those that were not tried."""
        alike = [c for c, a in zip(self.sources.codes, self._alike, strict=True) if a]
        seen = [*(_widened(c, self.coding) for c in alike), self.done_codes]
        candidates = Candidates(
            self.coding, self.space, np.concatenate(seen), self._required, self._lost
        )
        best = self.done_codes[np.argsort(self.done.values, kind="stable")[:N_BEST]]
        rows = candidates.draw(rng, best, N_CANDIDATES)
        order = np.argsort(-acquisition(rows), kind="stable")
        tried = {_key(row) for row in self._asked_codes}
        new = (i for i in order if _key(rows[i]) not in tried)
        return self.coding.decode(rows[next(new, order[0])])


def _key(row: np.ndarray) -> tuple[float, ...]:
    return tuple(np.nan_to_num(np.round(row, 6), nan=-9.0).tolist())


def _widened(codes: np.ndarray, coding: Coding) -> np.ndarray:
    """Codes of a coding that this one extends."""
    missing = len(coding.names) - codes.shape[1]
    return np.pad(codes, ((0, 0), (0, missing)), constant_values=np.nan)
