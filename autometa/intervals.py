"""Intervals and tests: two-level bootstrap over seeds and evaluation rows, t, Benjamini–Hochberg.

Seeds alone on one split understate the spread, rows alone miss the luck of the initialisation.
`bootstrap` resamples both, for several arms at once and with the same resamples, so that any
statistic of the arms can be given an interval (`Bootstrap.intervals`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse, stats

from autometa.metrics import (
    Evaluation,
    Mask,
    Predictions,
    TaskOfRow,
    TaskSpec,
    Truth,
    check_shapes,
    constant_errors,
    divide,
    evaluate,
    labels,
    nan_mean,
    row_errors,
    task_predictions,
)

_CELLS = 8_000_000  # bootstrap weights held at once: 32 MB of float32, thrice that while drawn


Statistic: TypeAlias = Callable[[Evaluation, np.ndarray], np.ndarray]
"""(evaluation with error `[A, S, B or 1, T]`, seed weights `[B or 1, S]`) → `[B]` or `[B, T]`."""


@dataclass(frozen=True)
class Interval:
    """An estimate ± t quantile × standard error; `p` tests the value 0 (two-sided)."""

    estimate: float
    low: float
    high: float
    se: float
    df: float
    p: float


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Errors of A arms × S paired seeds under B resamples of the evaluation rows.

    Attributes:
        observed: statistics on the rows as they are, error `[A, S, 1, T]`.
        resampled: the same on resampled rows, error `[A, S, B, T]`, equal rows for all A and S.
        seeds: weights of the seeds in each resample, `[B, S]`, each row summing to 1.
    """

    observed: Evaluation
    resampled: Evaluation
    seeds: Float[np.ndarray, "resamples seeds"]

    def intervals(
        self,
        statistic: Statistic,
        n_rows: float | Float[np.ndarray, "tasks"],
        level: float = 0.95,
    ) -> list[Interval]:
        """t intervals of `statistic(evaluation, seed_weights) -> [B]` or `[B, T]`.

        The variance over joint resamples of rows and seeds counts their interaction three times
        (Owen 2007), so it is put together from its parts instead, as in a two-way analysis of
        variance: V = V_rows + V_seeds − V_interaction, and at least the larger of the first two.
        Degrees of freedom are Satterthwaite's, from S − 1 seeds and `n_rows` − 1 rows: where the
        seeds decide and are few, the quantile is that of a t with S − 1.
        """
        n_seeds = self.seeds.shape[1]
        even = np.full((1, n_seeds), 1.0 / n_seeds)
        estimate = _columns(statistic(self.observed, even))[0]
        by_rows = _columns(statistic(self.resampled, even)) - estimate
        by_seeds = _columns(statistic(self.observed, self.seeds)) - estimate
        both = _columns(statistic(self.resampled, self.seeds)) - estimate
        v_rows, v_seeds = _variance(by_rows), _variance(by_seeds)
        v_interaction = _variance(both - by_rows - by_seeds)
        variance = np.maximum(v_rows + v_seeds - v_interaction, np.maximum(v_rows, v_seeds))
        spread = v_seeds**2 / max(n_seeds - 1, 1) + v_rows**2 / np.maximum(
            np.asarray(n_rows, dtype=np.float64) - 1, 1
        )
        df = np.where(variance == 0, 1.0, np.maximum(divide(variance**2, spread), 1.0))
        return [t_interval(e, v, d, level) for e, v, d in zip(estimate, variance, df, strict=True)]


def bootstrap(
    arms: Sequence[Predictions],
    y: Truth,
    specs: Sequence[TaskSpec],
    *,
    mask: Mask = None,
    task: TaskOfRow = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Resample seeds and evaluation rows; both arms and all seeds see the same resamples.

    Aligned suites draw whole rows, which all tasks share; grouped ones draw within each task. Of
    n things n − 1 are drawn with replacement, each counting n/(n − 1): the resampled variance of
    a mean is then unbiased however small n is (McCarthy and Snowden 1985). One row or one seed
    has no spread.

    Args:
        arms: predictions of each arm, `[S, T, N, O]` or `[S, N, O]`; seed s of one arm is paired
            with seed s of the others.
    """
    n_seeds = len(arms[0])
    for arm in arms:
        check_shapes(arm, y, specs, task)
        if len(arm) != n_seeds:
            raise ValueError(f"Arms should have equal numbers of seeds. Found {[*map(len, arms)]}.")
    rng = np.random.default_rng(seed)
    runs = len(arms) * n_seeds
    error = np.zeros((runs, resamples, len(specs)))
    constant, n = np.zeros((resamples, len(specs))), np.zeros((resamples, len(specs)))
    weights = _draws(rng, n_seeds, resamples).T.astype(np.float64) / max(n_seeds - 1, 1)

    # Things that are drawn together: all rows of an aligned suite, the rows of one grouped task.
    blocks = [(len(y), range(len(specs)))]
    if task is not None:
        blocks = [(int((task == t).sum()), range(t, t + 1)) for t in range(len(specs))]
    for width, members in blocks:
        step = max(1, _CELLS // max(width, 1))
        for start in range(0, resamples, step):
            part = slice(start, min(start + step, resamples))
            draws = _draws(rng, width, part.stop - start)
            for t in members:
                rows, truth = labels(y, t, mask, task)
                if not len(rows):
                    continue
                pred = np.concatenate([task_predictions(arm, t, rows, task) for arm in arms])
                places = rows if task is None else np.flatnonzero(task == t).searchsorted(rows)
                kernel = _make_kernel(specs[t], truth, pred, places, width)
                error[:, part, t], constant[part, t], n[part, t] = kernel(draws)

    base = [evaluate(arm, y, specs, mask=mask, task=task) for arm in arms]
    observed = Evaluation(
        tuple(specs), np.stack([e.error for e in base])[:, :, None], base[0].constant_error,
        base[0].n,
    )  # fmt: skip
    shape = (len(arms), n_seeds, resamples, len(specs))
    return Bootstrap(observed, Evaluation(tuple(specs), error.reshape(shape), constant, n), weights)


def bootstrap_groups(
    spec: TaskSpec,
    error: Float[np.ndarray, "arms seeds groups"],
    constant_error: Float[np.ndarray, "groups"],
    n: Float[np.ndarray, "groups"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Resample groups of rows as wholes: held-out tasks, or episodes.

    Args:
        spec: stands for all groups, whose statistics (`metrics`) are summed.
    """
    rng = np.random.default_rng(seed)
    n_seeds, n_groups = error.shape[1:]
    weights = _draws(rng, n_seeds, resamples).T.astype(np.float64) / max(n_seeds - 1, 1)
    draws = _draws(rng, n_groups, resamples).astype(np.float64) * _scale(n_groups)

    def summed(by: np.ndarray) -> Evaluation:
        parts = (np.asarray(part @ by)[..., None] for part in (error, constant_error, n))
        return Evaluation((spec,), *parts)

    return Bootstrap(summed(np.ones((n_groups, 1))), summed(draws), weights)


_Kernel: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _make_kernel(
    spec: TaskSpec, truth: np.ndarray, pred: np.ndarray, rows: np.ndarray, width: int
) -> _Kernel:
    """Row weights `[width, B]` → error `[R, B]`, constant error `[B]`, rows `[B]` of one task."""
    if spec.metric == "auc":
        return _auc_kernel(truth == 1, pred[..., 0], rows, width)
    table = np.zeros((len(pred) + 2, width), dtype=np.float32)  # rows without a label stay 0
    table[:-2, rows] = row_errors(spec, truth, pred)
    table[-2, rows] = constant_errors(spec, truth)
    table[-1, rows] = 1.0
    scale = _scale(width)

    def linear(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sums = (table @ draws).astype(np.float64) * scale
        return sums[:-2], sums[-2], sums[-1]

    return linear


def _auc_kernel(positive: np.ndarray, logits: np.ndarray, rows: np.ndarray, width: int) -> _Kernel:
    """Weighted Mann–Whitney over all resamples at once.

    The rarer class has m distinct logits. A sparse matrix puts the other class's rows into the
    m + 1 gaps between them (a tied row half into each side), so that running sums over the gaps
    give the weight below each level, and a second one sums the rarer class's rows a level.
    """
    swap = bool(positive.sum() > (~positive).sum())
    rare = ~positive if swap else positive
    scale = _scale(width)
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


def _draws(rng: np.random.Generator, n: int, resamples: int) -> Float[np.ndarray, "n resamples"]:
    """How often each of n things is drawn in n − 1 draws (once if n = 1)."""
    if n < 2:
        return np.ones((n, resamples), dtype=np.float32)
    drawn = rng.integers(0, n, size=(resamples, n - 1))
    drawn += np.arange(resamples)[:, None] * n
    counts = np.bincount(drawn.ravel(), minlength=n * resamples).reshape(resamples, n)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


def _scale(n: int) -> float:
    return n / (n - 1) if n > 1 else 1.0


def _columns(x: np.ndarray) -> np.ndarray:
    return x[:, None] if x.ndim == 1 else x


def _variance(x: np.ndarray) -> np.ndarray:
    """Variance of each column over what is not NaN in it."""
    return nan_mean(np.square(x - nan_mean(x.T)).T)
