"""Which sources rank the target's trials badly."""

from __future__ import annotations

import numpy as np

MIN_TRIALS = 4
CONFIDENCE = 0.95
N_BOOTSTRAPS = 400


def misleading(predictions: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[source]: does it order pairs of the target's trials wrongly more often than rightly?

    Trials are drawn with replacement; a source misleads if its balance of right and wrong pairs
    (Kendall's τ, up to ties) is below zero in `CONFIDENCE` of the draws.

    Args:
        predictions: [trial, source].
        values: [trial], what was found.
    """
    n, n_sources = predictions.shape
    if n < MIN_TRIALS:
        return np.zeros(n_sources, dtype=bool)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAPS).astype(float)
    order = np.sign(values[:, None] - values)
    found = np.zeros(n_sources, dtype=bool)
    for source in range(n_sources):
        agreement = order * np.sign(predictions[:, None, source] - predictions[None, :, source])
        balance = ((counts @ agreement) * counts).sum(1)
        found[source] = np.mean(balance < 0) >= CONFIDENCE
    return found
