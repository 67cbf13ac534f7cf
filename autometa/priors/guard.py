"""Which sources rank the target's trials badly."""

from __future__ import annotations

import numpy as np

MIN_TRIALS = 4
CONFIDENCE = 0.95
N_BOOTSTRAPS = 400


def doubt(predictions: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[source]: the share of bootstrap draws of the trials in which the source orders them wrongly.

    It does if Σ (fᵢ − fⱼ) sign(yᵢ − yⱼ) over pairs of trials is negative: a pair that the source
    holds to be different counts for more than one that it holds to be alike, as the trials that it
    was itself the reason for are. Zero for fewer than `MIN_TRIALS` trials.

    Args:
        predictions: f [trial, source].
        values: y [trial], what was found.
    """
    n = len(values)
    if n < MIN_TRIALS:
        return np.zeros(predictions.shape[1])
    counts = rng.multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAPS).astype(float)
    order = np.sign(values[:, None] - values)
    # Σᵢⱼ cᵢ cⱼ (fᵢ − fⱼ) sᵢⱼ = 2 Σᵢ cᵢ fᵢ Σⱼ sᵢⱼ cⱼ, because s is antisymmetric
    balance = (counts * (counts @ order.T)) @ predictions
    return (balance < -1e-9).mean(0)
