"""Kernels of the bootstrap over evaluation rows, t intervals and tests, Benjamini–Hochberg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse, stats

from autometa.metrics import TaskSpec, constant_errors, row_errors


@dataclass(frozen=True)
class Interval:
    """An estimate ± t quantile × standard error; `p` tests the value 0 (two-sided)."""

    estimate: float
    low: float
    high: float
    se: float
    df: float
    p: float


Kernel: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def rows_kernel(
    spec: TaskSpec,
    truth: np.ndarray,
    pred: np.ndarray,
    rows: np.ndarray,
    width: int,
    scale: float,
) -> Kernel:
    """Row weights `[width, B]` → error `[R, B]`, constant error `[B]`, rows `[B]` of one task.

    Args:
        truth, pred: of the labelled rows, whose places among all are `rows`.
        scale: what each draw counts (`unbiased`).
    """
    if spec.metric == "auc":
        return _auc_kernel(truth == 1, pred[..., 0], rows, width, scale)
    table = np.zeros((len(pred) + 2, width), dtype=np.float32)  # rows without a label stay 0
    table[:-2, rows] = row_errors(spec, truth, pred)
    table[-2, rows] = constant_errors(spec, truth)
    table[-1, rows] = 1.0

    def linear(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sums = (table @ draws).astype(np.float64) * scale
        return sums[:-2], sums[-2], sums[-1]

    return linear


def _auc_kernel(
    positive: np.ndarray, logits: np.ndarray, rows: np.ndarray, width: int, scale: float
) -> Kernel:
    """Weighted Mann–Whitney over all resamples at once.

    The rarer class has m distinct logits. A sparse matrix puts the other class's rows into the
    m + 1 gaps between them (a tied row half into each side), so that running sums over the gaps
    give the weight below each level, and a second one sums the rarer class's rows a level.
    """
    swap = bool(positive.sum() > (~positive).sum())
    rare = ~positive if swap else positive
    matrices = []
    for run in logits:
        levels, level_of = np.unique(run[rare], return_inverse=True)
        sides = [np.searchsorted(levels, run[~rare], side) for side in ("left", "right")]
        half = np.full(2 * int((~rare).sum()), 0.5, dtype=np.float32)
        gaps = sparse.csr_matrix(
            (half, (np.concatenate(sides), np.tile(rows[~rare], 2))), (len(levels) + 1, width)
        )
        ones = np.ones(len(level_of), dtype=np.float32)
        own = sparse.csr_matrix((ones, (level_of, rows[rare])), (len(levels), width))
        matrices.append((gaps[: len(levels)], own))

    def mann_whitney(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        total, rarer = draws[rows].sum(0, dtype=np.float64), draws[rows[rare]].sum(0)
        pairs = rarer * (total - rarer)
        below = np.stack(
            [
                (np.cumsum(gaps @ draws, axis=0) * (own @ draws)).sum(0, dtype=np.float64)
                for gaps, own in matrices
            ]
        )
        wrong = below if swap else pairs - below
        return 2.0 * wrong * scale**2, pairs * scale**2, total * scale

    return mann_whitney


# --- tests and intervals --------------------------------------------------------------------------


def t_interval(estimate: float, variance: float, df: float, level: float = 0.95) -> Interval:
    """`estimate` ± t quantile × √`variance`; a single point with p = 0 or 1 if that is 0."""
    se = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.5 + level / 2, df)) * se
    if se > 1e-12 * max(abs(estimate), 1e-300):
        p = float(2.0 * stats.t.sf(abs(estimate) / se, df))
    else:
        p = float(estimate == 0) if np.isfinite(estimate) and np.isfinite(se) else float("nan")
    return Interval(float(estimate), float(estimate - half), float(estimate + half), se,
                    float(df), p)  # fmt: skip


def mean_interval(sample: Float[np.ndarray, "n"], level: float = 0.95) -> Interval:
    """t interval of a sample's mean, for example over (split, seed) repeats; n ≥ 2."""
    n = len(sample)
    if n < 2:
        raise ValueError(f"An interval should have at least 2 values. Found {n}.")
    return t_interval(
        float(np.mean(sample)), float(np.var(sample, ddof=1)) / n, float(n - 1), level
    )


def benjamini_hochberg(
    p: Float[np.ndarray, "tests"], rate: float = 0.05
) -> Bool[np.ndarray, "tests"]:
    """Which tests are discoveries at the false discovery rate `rate`; NaN is not a test."""
    found = np.zeros(len(p), dtype=bool)
    tested = ~np.isnan(p)
    if tested.any():
        found[tested] = stats.false_discovery_control(p[tested], method="bh") <= rate
    return found


def draw_counts(
    rng: np.random.Generator, n: int, resamples: int
) -> Float[np.ndarray, "n resamples"]:
    """How often each of n things is drawn in n − 1 draws (once if n = 1)."""
    if n < 2:
        return np.ones((n, resamples), dtype=np.float32)
    drawn = rng.integers(0, n, size=(resamples, n - 1))
    drawn += np.arange(resamples)[:, None] * n
    counts = np.bincount(drawn.ravel(), minlength=n * resamples).reshape(resamples, n)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


def unbiased(n: int) -> float:
    """What each of n − 1 draws counts, so that a resampled mean has the variance of a mean."""
    return n / (n - 1) if n > 1 else 1.0
