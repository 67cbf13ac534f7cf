"""Gaussian processes on the embedding of configurations: Matérn 5/2 with a length a parameter.

    y = B w + g(x) + e,  w ~ N(0, diag(1, …, 1, τ², …, τ²)),  g ~ GP(0, a² k(x, x')),  e ~ N(0, s²)

The hyperparameters (lengths, a, s, τ) maximise the marginal likelihood of one or several data sets
times a log-normal prior. B holds what is known of the function beside x, such as what other
searches predict (Kennedy and O'Hagan 2000, with several cheap functions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

_JITTER = 1e-6


@dataclass(frozen=True)
class Data:
    """x [row, column]; y [row]; fixed [row, basis], w of variance 1; tied [row, basis], τ²."""

    x: np.ndarray
    y: np.ndarray
    fixed: np.ndarray
    tied: np.ndarray

    @classmethod
    def plain(cls, x: np.ndarray, y: np.ndarray) -> Data:
        """With a constant of variance 1."""
        return cls(x, y, np.ones((len(y), 1)), np.zeros((len(y), 0)))

    def plus(
        self,
        x: np.ndarray,
        y: np.ndarray,
        fixed: np.ndarray | None = None,
        tied: np.ndarray | None = None,
    ) -> Data:
        """With more rows. Without a basis: of a constant."""
        more = Data.plain(x, y)
        return Data(
            np.concatenate([self.x, x]),
            np.concatenate([self.y, y]),
            np.concatenate([self.fixed, more.fixed if fixed is None else fixed]),
            np.concatenate([self.tied, more.tied if tied is None else tied]),
        )


@dataclass(frozen=True)
class Hyper:
    """Logarithms: [parameter] lengths, then a, s and τ; with the deviations of their prior."""

    log: np.ndarray
    deviation: np.ndarray

    @classmethod
    def default(cls, n_parameters: int) -> Hyper:
        """Lengths grow with √parameters, so that distances do not make everything unlike."""
        log = np.full(n_parameters + 3, math.log(0.6) + 0.5 * math.log(max(n_parameters, 1)))
        log[-3:] = 0.0, math.log(0.1), math.log(0.3)
        return cls(log, np.array([1.0] * n_parameters + [0.7, 1.0, 0.7]))

    def learned(self, log: np.ndarray, deviation: float) -> Hyper:
        """The prior of one more data set like those that `log` was fitted to."""
        return Hyper(log, np.minimum(self.deviation, deviation))

    def widened(self, n_parameters: int) -> Hyper:
        """With default lengths for parameters that come after those it has."""
        wide, known = Hyper.default(n_parameters), len(self.log) - 3
        for new, old in ((wide.log, self.log), (wide.deviation, self.deviation)):
            new[:known], new[-3:] = old[:-3], old[-3:]
        return wide


def fit(sets: Sequence[Data], group: np.ndarray, prior: Hyper, iterations: int = 50) -> np.ndarray:
    """Logarithms of the hyperparameters, one for all data sets, that maximise the posterior."""
    distances = [_distances(d.x, group, len(prior.log) - 3) for d in sets]

    def loss(log: np.ndarray) -> tuple[float, np.ndarray]:
        off = (log - prior.log) / prior.deviation
        total, gradient = 0.5 * float(off @ off), off / prior.deviation
        for data, squared in zip(sets, distances, strict=True):
            value, slope = _loss(log, data, squared)
            total += value
            gradient = gradient + slope
        return total, gradient

    bounds = [(m - 4 * s, m + 4 * s) for m, s in zip(prior.log, prior.deviation, strict=True)]
    options = {"maxiter": iterations}
    return minimize(loss, prior.log, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def _loss(log: np.ndarray, data: Data, squared: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log marginal likelihood and its gradient; squared [parameter, row, row]."""
    n = len(data.y)
    inverse = np.exp(-2 * log[:-3])
    amplitude, noise, tie = np.exp(2 * log[-3:])
    r2 = np.tensordot(inverse, squared, 1)
    r = np.sqrt(5 * r2)
    decay = amplitude * np.exp(-r)
    smooth = decay * (1 + r + r * r / 3)
    tied = tie * data.tied @ data.tied.T
    k = smooth + tied + data.fixed @ data.fixed.T
    k[np.diag_indices(n)] += noise + _JITTER
    root = cholesky(k, lower=True, check_finite=False)
    alpha = cho_solve((root, True), data.y, check_finite=False)
    inverted = cho_solve((root, True), np.eye(n), check_finite=False)
    value = 0.5 * float(data.y @ alpha) + float(np.log(np.diag(root)).sum())
    # dL/dK = ½ (K⁻¹ − ααᵀ), and dk/dr² = −5/6 a² (1 + r) exp(−r)
    outer = 0.5 * (inverted - np.outer(alpha, alpha))
    lengths = (5 / 3) * inverse * np.tensordot(squared, outer * decay * (1 + r), 2)
    rest = [2 * np.sum(outer * smooth), 2 * noise * np.trace(outer), 2 * np.sum(outer * tied)]
    return value, np.concatenate([lengths, rest])


def _distances(x: np.ndarray, group: np.ndarray, n_parameters: int) -> np.ndarray:
    """[parameter, row, row] squared."""
    found = np.zeros((n_parameters, len(x), len(x)))
    for column, parameter in enumerate(group):
        found[parameter] += (x[:, None, column] - x[None, :, column]) ** 2
    return found


def matern(r2: np.ndarray) -> np.ndarray:
    """Matérn 5/2 of squared distances, which are overwritten."""
    r = np.sqrt(np.maximum(r2, 0, out=r2), out=r2)
    r *= np.sqrt(np.asarray(5, r.dtype))
    smooth = 1 + r * (1 + r / 3)
    smooth *= np.exp(np.negative(r, out=r), out=r)
    return smooth


def scale_of(log: np.ndarray, group: np.ndarray) -> np.ndarray:
    """[column]: what columns are multiplied by before their distances are taken."""
    return np.exp(-log[:-3])[group] if len(group) else np.zeros(0)


class GP:
    """A Gaussian process conditioned on one data set.

    Attributes:
        evidence: log marginal likelihood of the data set.
    """

    def __init__(self, data: Data, group: np.ndarray, log: np.ndarray) -> None:
        self.data, self.log = data, log
        self.scale = scale_of(log, group)
        self.amplitude, self.noise, self.tie = np.exp(2 * log[-3:])
        k = self._k(data.x, data.fixed, data.tied)
        k[np.diag_indices(len(k))] += self.noise + _JITTER
        self.root = cholesky(k, lower=True, check_finite=False)
        self.alpha = cho_solve((self.root, True), data.y, check_finite=False)
        fit, volume = float(data.y @ self.alpha), float(np.log(np.diag(self.root)).sum())
        self.evidence = -0.5 * (fit + len(k) * math.log(2 * math.pi)) - volume

    def predict(
        self, x: np.ndarray, fixed: np.ndarray | None = None, tied: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [row] of the function without noise. Without a basis: a constant."""
        fixed = np.ones((len(x), 1)) if fixed is None else fixed
        tied = np.zeros((len(x), 0)) if tied is None else tied
        k = self._k(x, fixed, tied)
        prior = self.amplitude + (fixed**2).sum(1) + self.tie * (tied**2).sum(1)
        half = solve_triangular(self.root, k.T, lower=True, check_finite=False)
        variance = np.maximum(prior - (half**2).sum(0), 1e-10)
        return k @ self.alpha, np.sqrt(variance)

    def _k(self, x: np.ndarray, fixed: np.ndarray, tied: np.ndarray) -> np.ndarray:
        data = self.data
        k = self.amplitude * matern(squared_distances(x * self.scale, data.x * self.scale))
        return k + fixed @ data.fixed.T + self.tie * (tied @ data.tied.T)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[…, row of a, row of b]."""
    inner = a @ np.swapaxes(b, -1, -2)
    return (a**2).sum(-1)[..., :, None] + (b**2).sum(-1)[..., None, :] - 2 * inner
