"""What sharing does to each task, and to all of them in percent (Δm)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, SupportsFloat, TypeAlias

import numpy as np
from jaxtyping import Float

from autometa.comparison.resampling import Quantity, Resampled
from autometa.intervals import Interval, benjamini_hochberg
from autometa.metrics import Mask, TaskOfRow, divide, nan_mean, not_judged, signs

Effect: TypeAlias = Literal["helped", "hurt", "undecided", "not learned"]


@dataclass(frozen=True)
class TaskComparison:
    """One task under sharing and under independent networks.

    Attributes:
        rows: evaluation rows with a label.
        shared, independent: scores 1 − E/E0; None where E0 = 0 or a class is missing.
        shared_value, independent_value: RMSE in the target's units, accuracy or AUC.
        difference: `shared` − `independent`; `difference_ci` is its 95% interval, for this task
            alone (not corrected for the number of tasks).
        p: two-sided p value of the paired difference of mean errors, before Benjamini–Hochberg.
        effect: what sharing did; "undecided" unless the task is judged and the difference found;
            "not learned" where both are worse than the training constant.
        judged: False if the task cannot or should not be called; `reason` says why.
    """

    name: str
    metric: str
    rows: int
    shared: float | None
    independent: float | None
    shared_value: float | None
    independent_value: float | None
    p: float | None
    effect: Effect
    judged: bool
    reason: str | None
    difference: float | None = None
    difference_ci: tuple[float, float] | None = None


def task_effects(
    found: Resampled,
    sharing: str,
    independent: str,
    y: np.ndarray,
    mask: Mask = None,
    task: TaskOfRow = None,
) -> tuple[TaskComparison, ...]:
    """Effects by paired p values, Benjamini–Hochberg at 5% over the tasks that can be called.

    Args:
        sharing, independent: names of the two methods.
        y, mask, task: truth of the rows that were resampled.
    """
    specs, observed = found.observed.specs, found.observed
    reasons = not_judged(y, specs, mask=mask, task=task)
    errors = found.mean_errors()
    tests = found.intervals(
        [(independent, errors), (sharing, _times(errors, -1.0))], found.task_units
    )
    scores = _of_both(found, sharing, independent, observed.task_scores())
    values = _of_both(found, sharing, independent, observed.task_values())
    with np.errstate(invalid="ignore"):
        unlearned = np.asarray((scores < 0).all(0))
    p = np.array(
        [
            np.nan if reason or nothing else test.p
            for reason, nothing, test in zip(reasons, unlearned, tests, strict=True)
        ]
    )
    called = benjamini_hochberg(p)
    auc = np.array([s.metric == "auc" for s in specs])
    per_score = np.where(auc, 1.0, divide(observed.n, observed.constant_error))
    out = []
    for t, spec in enumerate(specs):
        effect: Effect = "undecided"
        if called[t]:
            effect = "helped" if tests[t].estimate > 0 else "hurt"
        elif unlearned[t] and reasons[t] is None:
            effect = "not learned"
        out.append(
            TaskComparison(
                name=spec.name,
                metric=spec.metric,
                rows=int(observed.n[t]),
                shared=number(scores[0, t]),
                independent=number(scores[1, t]),
                shared_value=number(values[0, t]),
                independent_value=number(values[1, t]),
                p=number(p[t]),
                effect=effect,
                judged=reasons[t] is None,
                reason=reasons[t],
                difference=number(tests[t].estimate * per_score[t]),
                difference_ci=pair(tests[t], per_score[t]),
            )
        )
    return tuple(out)


def learned(found: Resampled, sharing: str, independent: str) -> bool:
    """Whether one of two methods is not below the training constant, 0, on every task judged."""
    scores = _of_both(found, sharing, independent, found.observed.task_scores())
    known = scores[np.isfinite(scores)]
    return not len(known) or bool((known >= 0).any())


def delta_m_interval(found: Resampled, sharing: str, independent: str) -> Interval:
    """Δm to first order in M around the observed values.

    On resamples of a handful of rows the denominator M̄ can come out near 0, and a ratio of
    resampled means then says more about that than about the spread of Δm. Where a resample lacks
    a class, the task keeps its observed M.
    """
    quantity = found.task_values()
    shared, alone = (found.of(name, quantity)[0] for name in (sharing, independent))
    known = np.isfinite(shared) & (alone > 0)
    sign = 100.0 * signs(found.observed.specs)
    moved = np.where(np.isfinite(quantity.resampled), quantity.resampled, quantity.observed)
    parts = Quantity(quantity.observed, moved)
    # (M_s − M_i)/M_i = M_s/m_i − m_s·M_i/m_i² + (m_s − m_i)/m_i to first order; the last is fixed
    by_sharing = _weighed(parts, sign * divide(np.ones_like(alone), alone), known)
    by_alone = _weighed(parts, -sign * divide(shared, alone**2), known)
    fixed = float(nan_mean(np.where(known, sign * divide(shared - alone, alone), np.nan)))
    (interval,) = found.intervals([(sharing, by_sharing), (independent, by_alone)])
    return Interval(
        fixed, interval.low + fixed - interval.estimate, interval.high + fixed - interval.estimate,
        interval.se, interval.df, interval.p,
    )  # fmt: skip


def number(x: SupportsFloat) -> float | None:
    """A finite number for JSON, else None."""
    value = float(x)
    return value if np.isfinite(value) else None


def pair(interval: Interval, unit: float = 1.0) -> tuple[float, float] | None:
    """The ends of an interval for JSON; None where one is not finite."""
    ends = (float(interval.low * unit), float(interval.high * unit))
    return ends if np.isfinite(ends).all() else None


def _of_both(
    found: Resampled, sharing: str, independent: str, per_run: Float[np.ndarray, "run one task"]
) -> Float[np.ndarray, "two task"]:
    quantity = Quantity(per_run, per_run)
    return np.stack([found.of(name, quantity)[0] for name in (sharing, independent)])


def _times(quantity: Quantity, factor: float) -> Quantity:
    return Quantity(quantity.observed * factor, quantity.resampled * factor)


def _weighed(parts: Quantity, by: np.ndarray, known: np.ndarray) -> Quantity:
    """Mean over the known tasks of each run's values, weighed."""
    return Quantity(*(np.asarray(nan_mean(np.where(known, by * part, np.nan))) for part in parts))
