"""One proposal: the portfolio's next configuration, or the one of the best expected improvement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from autometa.priors import gp
from autometa.priors.candidates import Candidates
from autometa.priors.coding import Coding
from autometa.priors.portfolio import greedy
from autometa.priors.sources import Sources, basis, history, warp

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
the residual are taken as known, which they are not."""
MAX_TRIALS = 150
"""Of a longer study the model sees the best half of these and the most recent others."""


@dataclass(frozen=True)
class Pool:
    key: Any
    codes: np.ndarray
    x: np.ndarray
    predicted: np.ndarray


Acquisition = Callable[[np.ndarray], np.ndarray]


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
        self.alive = sources.overlap(params for params, _ in records) >= MIN_OVERLAP
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
        """By the sources' mean and the residual's Gaussian process."""
        s, weights = self.sources, self.weights[self.alive]
        z = warp(self.done.values)

        f = s.predict(self.done_codes)[:, self.alive]
        data = gp.Data(self._embed(self.done_codes), z - f @ weights, *basis(f, weights))
        prior = s.residual.widened(len(self.coding.names))
        process = gp.GP(data, self.coding.group, gp.fit([data], self.coding.group, prior, 20))
        # the best value may be luck: what is to be improved is the best that the model believes in
        believed = (f @ weights + process.predict(data.x, data.fixed, data.tied)[0]).min()
        if len(self.running_codes):
            x, pending = self._embed(self.running_codes), s.predict(self.running_codes)
            known = basis(pending[:, self.alive], weights)
            data = data.plus(x, process.predict(x, *known)[0], *known)
            process = gp.GP(data, self.coding.group, process.log)

        def improvement(x: np.ndarray, f: np.ndarray) -> np.ndarray:
            left, deviation = process.predict(x, *basis(f, weights))
            return log_improvement(f @ weights + left, CAUTION * deviation, best=believed)

        def acquisition(rows: np.ndarray) -> np.ndarray:
            return improvement(self._embed(rows), s.predict(rows)[:, self.alive])

        seen = [*(_widened(c, self.coding) for c in s.codes), self.done_codes]
        best = self.done_codes[np.argsort(z, kind="stable")[:6]]
        values = improvement(pool.x, pool.predicted[:, self.alive])
        candidates = self._candidates(np.concatenate(seen))
        return self._climb(rng, candidates, best, acquisition, pool.codes, values)

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

    def _climb(
        self,
        rng: np.random.Generator,
        candidates: Candidates,
        best: np.ndarray,
        acquisition: Acquisition,
        rows: np.ndarray,
        values: np.ndarray,
    ) -> dict[str, Any]:
        """The best of the rows and of changes of the best, among those that were not tried."""
        for _ in range(2):
            top = rows[np.argsort(-values, kind="stable")[:6]]
            around = candidates.mutate(rng, np.repeat(np.concatenate([top, best]), 12, axis=0))
            rows = np.concatenate([rows, around])
            values = np.concatenate([values, acquisition(around)])
        order = np.argsort(-values, kind="stable")
        new = (i for i in order if _key(rows[i]) not in self.tried)
        return self.coding.decode(rows[next(new, order[0])])


def log_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the expected improvement (minimisation), stable far from the best.

    EI = σ (φ(u) + u Φ(u)), u = (best − μ)/σ; for u → −∞ it approaches σ φ(u)/u².
    """
    u = (best - mean) / deviation
    density = -0.5 * u * u - 0.5 * np.log(2 * np.pi)
    near = np.log(np.maximum(np.exp(density) + u * ndtr(u), 1e-300))
    far = density - 2 * np.log(np.maximum(-u, 1.0))
    return np.log(deviation) + np.where(u > -5, near, far)


def _key(row: np.ndarray) -> tuple[float, ...]:
    return tuple(np.nan_to_num(np.round(row, 6), nan=-9.0).tolist())


def _widened(codes: np.ndarray, coding: Coding) -> np.ndarray:
    """Codes of a coding that this one extends."""
    missing = len(coding.names) - codes.shape[1]
    return np.pad(codes, ((0, 0), (0, missing)), constant_values=np.nan)
