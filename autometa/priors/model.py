"""One proposal: the portfolio's next configuration, or the one of the best expected improvement, by
the sources and the target's trials or by these alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_expit

from autometa.priors import gp
from autometa.priors.belief import Belief
from autometa.priors.candidates import Candidates
from autometa.priors.coding import Coding
from autometa.priors.portfolio import greedy
from autometa.priors.sources import Sources, history, warp

N_POOL = 1000
"""Configurations whose predictions by the sources are kept from one suggestion to the next."""
N_BEST = 20
"""A source's best trials, between and around which the pool lies."""
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


@dataclass(frozen=True)
class Pool:
    key: Any
    codes: np.ndarray
    x: np.ndarray
    predicted: np.ndarray


Acquisition = Callable[[np.ndarray], np.ndarray]
"""Codes → [configuration]: log expected improvement."""


class Search:
    """The target's trials beside the sources, at the time of one proposal.

    Attributes:
        done: finished trials.
        done_codes, running_codes: [trial, parameter].
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
        running = [t for t in trials if t.state == TrialState.RUNNING and t.params]
        records = [*self.done.records(), *((t.params, t.distributions) for t in running)]
        self.space = {name: d for _, distributions in records for name, d in distributions.items()}
        self.coding = Coding([records], base=sources.coding)
        self.done_codes = self.coding.codes(self.done.params)
        self.running_codes = self.coding.codes([t.params for t in running])
        self.tried = {_key(row) for row in np.concatenate([self.done_codes, self.running_codes])}
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
        """The configuration of a source that adds most to those tried; None if none is left."""
        s = self.sources
        rows = np.concatenate([s.best(i, N_PORTFOLIO_BEST) for i in range(len(s)) if self.alive[i]])
        tried = np.concatenate([self.done_codes, self.running_codes])
        covered = s.regret(tried)[:, self.alive].min(0) if len(tried) else None
        weights = self.weights[self.alive]
        for i in greedy(s.regret(rows)[:, self.alive], weights, covered):
            wide = self.coding.snap(_widened(rows[i : i + 1], self.coding), self.space)
            if _key(wide[0]) not in self.tried:
                return s.coding.decode(rows[i])
        return None

    def model(self, rng: np.random.Generator, pool: Pool) -> dict[str, Any]:
        """By two beliefs, one with the sources and one without, each as far as the target's trials
        bear it out: the expected improvement is that of the mixture."""
        weights, alive = self.weights[self.alive], self.alive
        advised = self._belief(weights, self.sources.residual, CAUTION)
        own = self._own_belief()
        # the log odds of the two are the difference of their evidence
        odds = advised.evidence - own.evidence
        log_advised, log_own = log_expit(odds), log_expit(-odds)

        def improvement(x: np.ndarray, predicted: np.ndarray) -> np.ndarray:
            return np.logaddexp(
                log_advised + advised.improvement(x, predicted),
                log_own + own.improvement(x, predicted[:, :0]),
            )

        def acquisition(rows: np.ndarray) -> np.ndarray:
            return improvement(self._embed(rows), self.sources.predict(rows)[:, alive])

        values = improvement(pool.x, pool.predicted[:, alive])
        return self._climb(rng, self._all_candidates(), acquisition, pool.codes, values)

    def alone(self, rng: np.random.Generator) -> dict[str, Any]:
        """By the belief without the sources. Of these only the branches count, where they say which
        parameters go together."""
        own, candidates = self._own_belief(), self._all_candidates()

        def acquisition(rows: np.ndarray) -> np.ndarray:
            return own.improvement(self._embed(rows), np.zeros((len(rows), 0)))

        rows = candidates.draw(rng, self.done_codes, N_POOL)
        return self._climb(rng, candidates, acquisition, rows, acquisition(rows))

    def _own_belief(self) -> Belief:
        return self._belief(np.zeros(0), gp.Hyper.default(len(self.coding.names)), 1.0)

    def _belief(self, weights: np.ndarray, prior: gp.Hyper, caution: float) -> Belief:
        """With the sources that count, or without any if there are no weights."""
        counted = self.alive if len(weights) else np.zeros(len(self.sources), dtype=bool)
        return Belief(
            self._embed(self.done_codes),
            warp(self.done.values),
            self.sources.predict(self.done_codes)[:, counted],
            weights,
            self.coding.group,
            prior.widened(len(self.coding.names)),
            caution,
            pending=self._embed(self.running_codes),
            pending_predicted=self.sources.predict(self.running_codes)[:, counted],
        )

    def pool(self, old: Pool | None, seed: int) -> Pool:
        """Candidates for this space: the old ones if it is still the same."""
        s = self.sources
        space = sorted((name, repr(d)) for name, d in self.space.items())
        key = self.coding.names, space, self._required, self._lost
        if old is not None and old.key == key:
            return old
        seen = np.concatenate([_widened(c, self.coding) for c in s.codes])
        best = np.concatenate([s.best(i, N_BEST) for i in range(len(s))])
        candidates = self._candidates(seen)
        rng = np.random.default_rng(seed)
        codes = candidates.draw(rng, _widened(best, self.coding), N_POOL)
        return Pool(key, codes, self._embed(codes), s.predict(codes))

    def _embed(self, codes: np.ndarray) -> np.ndarray:
        """What is missing for good has no distance."""
        return np.nan_to_num(self.coding.embed(codes))

    def _candidates(self, seen: np.ndarray) -> Candidates:
        return Candidates(self.coding, self.space, seen, self._required, self._lost)

    def _all_candidates(self) -> Candidates:
        alike = [c for c, a in zip(self.sources.codes, self._alike, strict=True) if a]
        seen = [*(_widened(c, self.coding) for c in alike), self.done_codes]
        return self._candidates(np.concatenate(seen))

    def _climb(
        self,
        rng: np.random.Generator,
        candidates: Candidates,
        acquisition: Acquisition,
        rows: np.ndarray,
        values: np.ndarray,
    ) -> dict[str, Any]:
        """The best of the rows and of changes of the best, among those that were not tried."""
        best = self.done_codes[np.argsort(self.done.values, kind="stable")[:6]]
        for _ in range(2):
            top = rows[np.argsort(-values, kind="stable")[:6]]
            around = candidates.mutate(rng, np.repeat(np.concatenate([top, best]), 12, axis=0))
            rows = np.concatenate([rows, around])
            values = np.concatenate([values, acquisition(around)])
        order = np.argsort(-values, kind="stable")
        new = (i for i in order if _key(rows[i]) not in self.tried)
        return self.coding.decode(rows[next(new, order[0])])


def _key(row: np.ndarray) -> tuple[float, ...]:
    return tuple(np.nan_to_num(np.round(row, 6), nan=-9.0).tolist())


def _widened(codes: np.ndarray, coding: Coding) -> np.ndarray:
    """Codes of a coding that this one extends."""
    missing = len(coding.names) - codes.shape[1]
    return np.pad(codes, ((0, 0), (0, missing)), constant_values=np.nan)
