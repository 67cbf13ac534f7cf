"""One proposal: the portfolio's next configuration, or the best expected improvement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr, ndtr

from autometa.priors import gp
from autometa.priors.candidates import Candidates
from autometa.priors.coding import Coding
from autometa.priors.portfolio import greedy
from autometa.priors.sources import Sources, basis, history, residual_data, warp

N_POOL = 1000
MAX_TARGET = 150


class Search:
    """The target's trials beside the sources, at the time of one proposal."""

    def __init__(
        self, sources: Sources | None, trials: Sequence[FrozenTrial], minimise: bool, seed: int
    ) -> None:
        self.sources, self.seed = sources, seed
        self.done = history(trials, minimise)
        running = [t for t in trials if t.state == TrialState.RUNNING]
        records = self.done.records()
        self.coding = Coding(
            [records + [(t.params, t.distributions) for t in running]],
            base=sources.coding if sources else None,
        )
        self.done_codes = self.coding.codes(self.done.params)
        self.running_codes = self.coding.codes([t.params for t in running if t.params])
        self.alive = np.ones(len(sources) if sources else 0, dtype=bool)
        self.space = {n: d for _, dists in records for n, d in dists.items()}
        self.tried = {_key(r) for r in np.concatenate([self.done_codes, self.running_codes])}

    def weights(self) -> np.ndarray:
        """[alive source], their sum is 1."""
        n = int(self.alive.sum())
        return np.full(n, 1 / n)

    def portfolio(self) -> dict[str, Any] | None:
        s = self.sources
        rows = np.concatenate(
            [c[np.argsort(r, kind="stable")[:10]] for c, r, a in zip(s.codes, s.regrets, self.alive) if a]
        )
        predicted = s.predict_regret(rows)[:, self.alive]
        tried = np.concatenate([self.done_codes, self.running_codes])[:, : rows.shape[1]]
        covered = None
        if len(tried):
            covered = s.predict_regret(tried)[:, self.alive].min(0)
        for i in greedy(predicted, self.weights(), covered):
            full = np.full(len(self.coding.names), np.nan)
            full[: rows.shape[1]] = rows[i]
            if _key(self.coding.snap(full[None], self.space)[0]) not in self.tried:
                return s.coding.decode(rows[i])
        return None

    def cold(self, rng: np.random.Generator) -> dict[str, Any]:
        coding = Coding([self.done.records()])
        codes = coding.codes(self.done.params)
        x = np.nan_to_num(coding.embed(codes))
        z = warp(self.done.values)
        data = gp.Data.plain(x, z)
        log = gp.fit([data], coding.group, gp.Hyper.default(len(coding.names)), 30)
        process = gp.GP(data, coding.group, log)
        candidates = self._candidates(coding, codes)

        def acquisition(rows):
            mean, deviation = process.predict(np.nan_to_num(coding.embed(rows)))
            return log_improvement(mean, deviation, z.min())

        starts = codes[np.argsort(z, kind="stable")[:8]]
        row = self._climb(rng, candidates, starts, acquisition, candidates.draw(rng, starts, N_POOL))
        return coding.decode(row)

    def model(self, rng: np.random.Generator, pools: dict) -> dict[str, Any]:
        s, weights = self.sources, self.weights()
        f = s.predict(self.done_codes)[:, self.alive]
        z = warp(self.done.values)
        x = np.nan_to_num(self.coding.embed(self.done_codes))
        data = residual_data(x, z, f, weights)
        prior = self._prior()
        log = gp.fit([data], self.coding.group, prior, 20) if len(z) > 2 else prior.log
        process = gp.GP(data, self.coding.group, log)
        width = len(self.coding.names)
        seen = np.concatenate([_padded(c, width) for c in s.codes] + [self.done_codes])
        candidates = self._candidates(self.coding, seen)
        key = (tuple(self.coding.names), repr(sorted(self.space.items())))
        if key not in pools:
            pool_rng = np.random.default_rng(self.seed)
            top = np.concatenate(
                [_padded(c[np.argsort(r, kind="stable")[:20]], width) for c, r in zip(s.codes, s.regrets)]
            )
            rows = candidates.draw(pool_rng, top, N_POOL)
            pools.clear()
            pools[key] = rows, s.predict(rows)

        def acquisition(rows, f=None):
            f = s.predict(rows) if f is None else f
            f = f[:, self.alive]
            fixed, tied = basis(f, weights)
            mean, deviation = process.predict(np.nan_to_num(self.coding.embed(rows)), fixed, tied)
            return log_improvement(mean + f @ weights, deviation, z.min())

        rows, pool_f = pools[key]
        row = self._climb(
            rng, candidates, self.done_codes[np.argsort(z, kind="stable")[:8]], acquisition, rows, acquisition(rows, pool_f)
        )
        return self.coding.decode(row)

    def _prior(self) -> gp.Hyper:
        known, n = self.sources.residual, len(self.coding.names)
        new = gp.Hyper.default(n)
        d = len(self.sources.coding.names)
        new.log[:d], new.deviation[:d] = known.log[:d], known.deviation[:d]
        new.log[-3:], new.deviation[-3:] = known.log[-3:], known.deviation[-3:]
        return new

    def _candidates(self, coding: Coding, seen: np.ndarray) -> Candidates:
        n = len(self.done.params)
        required = {m for m in self.space if sum(m in p for p in self.done.params) == n}
        lost = set()
        if n:
            lost = {m for m, c in zip(coding.names, coding.conditional) if not c} - self.space.keys()
        return Candidates(coding, self.space, seen, required, lost)

    def _climb(self, rng, candidates, best, acquisition, rows, values=None) -> np.ndarray:
        values = acquisition(rows) if values is None else values
        for _ in range(2):
            top = rows[np.argsort(-values, kind="stable")[:6]]
            around = candidates.mutate(rng, np.repeat(np.concatenate([top, best]), 12, axis=0))
            rows = np.concatenate([rows, around])
            values = np.concatenate([values, acquisition(around)])
        for i in np.argsort(-values, kind="stable"):
            if _key(rows[i]) not in self.tried:
                return rows[i]
        return rows[int(np.argmax(values))]


def _key(row: np.ndarray) -> tuple:
    return tuple(np.nan_to_num(np.round(row, 6), nan=-9.0).tolist())


def _padded(codes: np.ndarray, width: int) -> np.ndarray:
    return np.pad(codes, ((0, 0), (0, width - codes.shape[1])), constant_values=np.nan)


def log_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the expected improvement (minimisation), stable far from the best."""
    u = (best - mean) / deviation
    density = -0.5 * u * u - 0.5 * np.log(2 * np.pi)
    near = np.log(np.maximum(np.exp(density) + u * ndtr(u), 1e-300))
    far = density - 2 * np.log(np.maximum(-u, 1.0))
    return np.log(deviation) + np.where(u > -5, near, far)
