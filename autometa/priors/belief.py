"""What is believed of the target, and what improvement is expected of a configuration."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from autometa.priors import gp
from autometa.priors.sources import basis


class Belief:
    """The weighted mean of what the sources predict plus a Gaussian process of what that leaves.
    Without sources: the Gaussian process.

    Args:
        x: [trial, column], the embedding of the target's trials.
        z: [trial], what was found, to be minimised.
        predicted: [trial, source].
        weights: [source].
        group: [column], the parameter of each column.
        prior: of the process's hyperparameters.
        caution: deviations are held to be this many times as large.
        pending, pending_predicted: of trials that still run; they are held to find what is expected
            of them.

    Attributes:
        evidence: log marginal likelihood of z, the hyperparameters being the most likely ones.
    """

    def __init__(
        self,
        x: np.ndarray,
        z: np.ndarray,
        predicted: np.ndarray,
        weights: np.ndarray,
        group: np.ndarray,
        prior: gp.Hyper,
        caution: float,
        *,
        pending: np.ndarray,
        pending_predicted: np.ndarray,
    ) -> None:
        self._weights, self._caution = weights, caution
        mean = predicted @ weights
        data = gp.Data(x, z - mean, *basis(predicted, weights))
        process = gp.GP(data, group, gp.fit([data], group, prior, 20))
        self.evidence = process.evidence
        # the best value may be luck: what is to be improved is the best that the model believes in
        self._best = float((mean + process.predict(data.x, data.fixed, data.tied)[0]).min())
        if len(pending):
            known = basis(pending_predicted, weights)
            data = data.plus(pending, process.predict(pending, *known)[0], *known)
            process = gp.GP(data, group, process.log)
        self._process = process

    def improvement(self, x: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Log expected improvement [configuration] on the best trial.

        Args:
            x: [configuration, column].
            predicted: [configuration, source].
        """
        left, deviation = self._process.predict(x, *basis(predicted, self._weights))
        mean = predicted @ self._weights + left
        return log_improvement(mean, self._caution * deviation, self._best)


def log_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the expected improvement (minimisation), stable far from the best.

    EI = σ (φ(u) + u Φ(u)), u = (best − μ)/σ; for u → −∞ it approaches σ φ(u)/u².
    """
    u = (best - mean) / deviation
    density = -0.5 * u * u - 0.5 * np.log(2 * np.pi)
    near = np.log(np.maximum(np.exp(density) + u * ndtr(u), 1e-300))
    far = density - 2 * np.log(np.maximum(-u, 1.0))
    return np.log(deviation) + np.where(u > -5, near, far)
