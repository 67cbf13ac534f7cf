"""What finished searches say about a configuration: a Gaussian process a source."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa.priors import gp
from autometa.priors.coding import Coding

Source = optuna.Study | Sequence[FrozenTrial]

MIN_TRIALS = 3
"""A source with fewer trials, or with equal values only, says nothing."""
MAX_TRIALS = 100
"""Of a longer source the best half of these is seen, and an even choice by value of the others."""
OUTSIDE = 0.5
"""How far beyond its range a source is asked, as a part of the range."""
N_LEARN = 25
"""Trials of a source from which the residual is learned: as many as a search soon has."""
SHARPNESS = 0.3
"""Regrets are told apart down to this part of the distance between the best and the median."""
MAX_REGRET = 10.0
"""Larger regrets, in the same unit, are all as bad."""


@dataclass(frozen=True)
class History:
    """Finished trials of one study; values are to be minimised and finite."""

    params: list[Mapping[str, Any]]
    distributions: list[Mapping[str, BaseDistribution]]
    values: np.ndarray

    def records(self) -> list[tuple[Mapping[str, Any], Mapping[str, BaseDistribution]]]:
        return list(zip(self.params, self.distributions, strict=True))

    def says_something(self) -> bool:
        """Whether there are enough trials, and better and worse ones."""
        return len(self.values) >= MIN_TRIALS and bool(np.ptp(self.values) > 0)

    def thinned(self, limit: int) -> History:
        """The best half of `limit` trials, and an even choice by value of the others."""
        order = np.argsort(self.values, kind="stable")
        return self._rows(order[best_and_spread(len(order), limit)])

    def recent(self, limit: int) -> History:
        """The best half of `limit` trials, and the most recent others."""
        n_best = min(limit // 2, len(self.values))
        order = np.argsort(self.values, kind="stable")
        others = np.sort(order[n_best:])[::-1][: limit - n_best]
        return self._rows(np.concatenate([order[:n_best], others]))

    def _rows(self, rows: np.ndarray) -> History:
        rows = np.sort(rows)
        return History(
            [self.params[i] for i in rows], [self.distributions[i] for i in rows], self.values[rows]
        )


def history(trials: Sequence[FrozenTrial], minimise: bool) -> History:
    """Completed trials with their values, and pruned ones.

    A pruned trial has its last intermediate value, but is no better than the median of the
    completed. Infinite values are as bad as the worst finite one.
    """
    sign = 1.0 if minimise else -1.0
    complete = [t for t in trials if t.state == TrialState.COMPLETE and not math.isnan(t.values[0])]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
    values = sign * np.array([t.values[0] for t in complete], dtype=float)
    if len(values):
        last = sign * np.array([t.intermediate_values[max(t.intermediate_values)] for t in pruned])
        last = np.where(np.isnan(last), np.inf, last)
        values = np.concatenate([values, np.maximum(last, np.median(values))])
    kept = [*complete, *pruned] if len(values) else []
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    order = sorted(range(len(kept)), key=lambda i: kept[i].number)
    return History(
        params=[kept[i].params for i in order],
        distributions=[kept[i].distributions for i in order],
        values=np.clip(values, low, high)[order],
    )


def regrets(values: np.ndarray) -> np.ndarray:
    """0 for the best of the values, 1 for their median, at most `MAX_REGRET`."""
    values = np.clip(values, -1e150, 1e150)
    best, middle = values.min(), np.median(values)
    unit = middle - best if middle > best else max(values.max() - best, 1e-300)
    return np.minimum((values - best) / unit, MAX_REGRET)


def warp(values: np.ndarray) -> np.ndarray:
    """Log regrets, standardised: the nearer to the best, the finer."""
    z = np.log(regrets(values) + SHARPNESS)
    return (z - z.mean()) / max(z.std(), 1e-6)


def best_and_spread(n: int, limit: int) -> np.ndarray:
    """[place], of n things ordered from best to worst: the best half of `limit`, and an even choice
    of the others."""
    n_best = min(limit // 2, n)
    rest = n - n_best
    others = np.linspace(0, rest - 1, min(limit - n_best, rest)).astype(int)
    return np.concatenate([np.arange(n_best), n_best + others])


def distances(probes: np.ndarray) -> np.ndarray:
    """[source]: root mean square over probes of how far it is from the target.

    Args:
        probes: [1 + source, probe], the target's first, NaN if not measured. Each is divided by
            its deviation. Without a probe in common a source is as far as the farthest.
    """
    measured = ~np.isnan(probes)
    deviation = np.array(
        [np.std(p[m]) if m.any() else 0.0 for p, m in zip(probes.T, measured.T, strict=True)]
    )
    both = measured[1:] & measured[0]
    gaps = np.where(both, probes[1:] - probes[0], 0.0) / np.maximum(deviation, 1e-12)
    distance = np.sqrt((gaps**2).sum(1) / np.maximum(both.sum(1), 1))
    distance[~both.any(1)] = distance.max(initial=0.0)
    return np.asarray(distance)


def weights(distance: np.ndarray) -> np.ndarray:
    """[source], their sum is 1: from the nearest source to the median one, the median of the
    farther ones if most are nearest, the weight falls to a third, and nowhere to zero."""
    beyond = distance - distance.min()
    unit = np.median(beyond) or np.median(beyond[beyond > 0]) if beyond.any() else 1.0
    found = np.maximum((1 / 3) ** (beyond / unit), 1e-3)
    return np.asarray(found / found.sum())


def read_sources(given: Sequence[Source], minimise: bool) -> Sources | None:
    """Fits the sources that say anything; None if none does."""
    found = []
    for position, source in enumerate(given):
        name = f"source {position}"
        if isinstance(source, optuna.Study):
            name, trials = f"{name} ({source.study_name})", source.get_trials(deepcopy=False)
            wanted = StudyDirection.MINIMIZE if minimise else StudyDirection.MAXIMIZE
            if list(source.directions) != [wanted]:
                raise ValueError(
                    f"Parameter `sources` should be studies that {wanted.name.lower()} one value, "
                    f"as the study that is searched. Found {name} with {source.directions}."
                )
        else:
            trials = list(source)
        if any(len(t.values or ()) > 1 for t in trials):
            raise ValueError(
                "Parameter `sources` should have trials with one value. "
                f"Found one with several in {name}."
            )
        h = history(trials, minimise)
        if h.says_something():
            found.append((position, name, h.thinned(MAX_TRIALS)))
    if not found:
        return None
    positions, names, histories = zip(*found, strict=True)
    return Sources(histories, names, np.array(positions))


class Sources:
    """Gaussian processes of the log regret of every source, and what unites them.

    Args:
        histories: of the sources, with values that differ.
        names: of the sources, for messages.
        positions: of the sources among those that were given.

    Attributes:
        coding: of the sources' parameters.
        codes: for each source [trial, parameter].
        regrets: for each source [trial].
        residual: prior of the hyperparameters of what the mean of the sources leaves unexplained.
    """

    def __init__(
        self, histories: Sequence[History], names: Sequence[str], positions: np.ndarray
    ) -> None:
        self.names, self.positions = names, positions
        self.coding = Coding([h.records() for h in histories])
        self.codes = [self.coding.codes(h.params) for h in histories]
        self.regrets = [regrets(h.values) for h in histories]
        self._fit([warp(h.values) for h in histories])
        self.residual = self._learn_residual([h.values for h in histories])

    def __len__(self) -> int:
        return len(self.codes)

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """[configuration, source]: log regret, standardised within the source.

        Args:
            codes: [configuration, parameter] of this coding or one that extends it.
        """
        codes = codes[:, : len(self.coding.names)]
        numbers = self.coding.sizes == 0
        # far outside its range a source says what it says just outside
        codes = np.where(numbers, np.clip(codes, -OUTSIDE, 1 + OUTSIDE), codes)
        embedded = self.coding.embed(codes)
        found = np.empty((len(codes), len(self)))
        # one by one, each in the processor's cache, is faster than all at once
        for source, (centre, scale) in enumerate(zip(self._centre, self._scale, strict=True)):
            x = np.where(np.isnan(embedded), centre, embedded) * scale
            r2 = gp.squared_distances(x.astype(np.float32), self._x[source])
            found[:, source] = gp.matern(r2) @ self._alpha[source]
        return found + self._offset

    def regret(self, codes: np.ndarray) -> np.ndarray:
        """[configuration, source] as predicted, in the unit of `regrets`."""
        log = self.predict(codes) * self._spread + self._middle
        return np.clip(np.exp(log) - SHARPNESS, 0.0, MAX_REGRET)

    def best(self, source: int, n: int) -> np.ndarray:
        """[trial, parameter]: codes of a source's n best trials."""
        return self.codes[source][np.argsort(self.regrets[source], kind="stable")[:n]]

    def overlap(self, trials: Iterable[Collection[str]]) -> np.ndarray:
        """[source]: the part of a trial's parameters that the source has, the mean over trials.

        Trial by trial, because some spaces name a parameter anew in every branch: all the names
        ever seen would soon outnumber those of any one trial.
        """
        known = np.array([(~np.isnan(codes)).any(0) for codes in self.codes])
        column = {name: i for i, name in enumerate(self.coding.names)}
        parts = [
            known[:, [column[name] for name in names if name in column]].sum(1) / len(names)
            for names in trials
            if names
        ]
        return np.mean(parts, axis=0) if parts else np.ones(len(self))

    def weights(self, probes: np.ndarray | None) -> np.ndarray:
        """[source], their sum is 1: less for sources whose probes are farther from the target's.

        Args:
            probes: [1 + given source, probe], the target's first (`distances`).
        """
        if probes is None:
            return np.full(len(self), 1 / len(self))
        return weights(distances(probes[[0, *(self.positions + 1)]]))

    def _fit(self, warped: Sequence[np.ndarray]) -> None:
        coding, n = self.coding, max(len(z) for z in warped)
        n_columns, n_sources = len(coding.group), len(warped)
        self._centre = np.zeros((n_sources, n_columns))
        self._scale = np.zeros((n_sources, n_columns))
        self._x = np.zeros((n_sources, n, n_columns), dtype=np.float32)
        self._alpha = np.zeros((n_sources, n), dtype=np.float32)
        self._offset = np.zeros(n_sources)
        prior = gp.Hyper.default(len(coding.names))
        for s, z in enumerate(warped):
            x = coding.embed(self.codes[s])
            known = ~np.isnan(x).all(0)
            centre = np.where(known, np.nanmean(np.where(known, x, 0.0), 0), 0.0)
            x = np.where(np.isnan(x), centre, x)
            data = gp.Data.plain(x, z)
            process = gp.GP(data, coding.group, gp.fit([data], coding.group, prior))
            self._centre[s] = centre
            # a parameter that the source never had is no distance at all
            self._scale[s] = process.scale * known
            self._x[s, : len(z)] = x * self._scale[s]
            self._alpha[s, : len(z)] = process.amplitude * process.alpha
            self._offset[s] = process.alpha.sum()
        logs = [np.log(r + SHARPNESS) for r in self.regrets]
        self._middle = np.array([log.mean() for log in logs])
        self._spread = np.array([max(log.std(), 1e-6) for log in logs])

    def _learn_residual(self, values: Sequence[np.ndarray]) -> gp.Hyper:
        """Every source in turn is the target of the others, as a search would see it."""
        prior = gp.Hyper.default(len(self.coding.names))
        if len(self) < 2:
            return prior
        rng = np.random.default_rng(0)
        sets = []
        for s in range(len(self)):
            rows = rng.permutation(len(values[s]))[:N_LEARN]
            others = np.delete(self.predict(self.codes[s][rows]), s, axis=1)
            weights = np.full(len(self) - 1, 1 / (len(self) - 1))
            x = np.nan_to_num(self.coding.embed(self.codes[s][rows]))
            mean = others @ weights
            sets.append(gp.Data(x, warp(values[s][rows]) - mean, *basis(others, weights)))
        return prior.learned(gp.fit(sets, self.coding.group, prior), deviation=0.5)


def basis(predictions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the target may add to the sources' mean without help of the configuration: a constant,
    a multiple of the mean, and other weights for the sources."""
    mean = predictions @ weights
    fixed = np.stack([np.ones(len(mean)), 0.5 * mean], axis=1)
    return fixed, (predictions - mean[:, None]) / math.sqrt(predictions.shape[1])
