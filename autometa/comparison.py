"""The final comparison: does sharing beat equally tuned independent networks on the test rows?

`compare` takes the predictions of both arms, trained with paired seeds, and answers with the
scores, their difference and Δm with two-level bootstrap intervals, what each task gained or lost,
and one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from autometa.errors import AutometaError, DataError
from autometa.intervals import Bootstrap, Interval, Statistic, benjamini_hochberg, bootstrap
from autometa.metrics import (
    Evaluation,
    Mask,
    Predictions,
    TaskOfRow,
    TaskSpec,
    Truth,
    check_shapes,
    divide,
    evaluate,
    judged_size,
    labels,
    nan_mean,
    not_judged,
    signs,
)

Arm: TypeAlias = Literal["sharing", "independent"]
Outcome: TypeAlias = Literal["sharing", "independent", "undecided"]
Effect: TypeAlias = Literal["helped", "hurt", "undecided"]


@dataclass(frozen=True)
class TaskComparison:
    """One task in the final comparison; numbers are means over the seeds.

    Attributes:
        rows: evaluation rows with a label.
        shared, independent: scores 1 − E/E0; None where E0 = 0 or a class is missing.
        shared_value, independent_value: RMSE in the target's units, accuracy or AUC.
        difference: `shared` − `independent`; `difference_ci` is its 95% interval, for this task
            alone (not corrected for the number of tasks).
        p: two-sided p value of the paired difference of mean errors, before Benjamini–Hochberg.
        effect: what sharing did; "undecided" unless the task is judged and the difference found.
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


@dataclass(frozen=True)
class Comparison:
    """Sharing against independent networks on one suite's evaluation rows.

    Attributes:
        outcome: whom the interval of the score difference favours; "undecided" if it holds 0, or
            if the interval of Δm excludes 0 on the other side.
        recommended: the winner, or where undecided the arm of the higher score.
        score, independent_score: suite values, means over the seeds; None if nothing is judged.
        difference: `score` − `independent_score`; `difference_ci` is its 95% interval.
        delta_m: Δm in percent, positive where sharing is better; `delta_m_ci` its 95% interval.
        constant_score: score of the training constant, 0 by definition.
        gbdt_score: score of gradient-boosted trees, one model a task, if given.
        seed_scores, independent_seed_scores: the suite value of each seed.
    """

    suite: str
    sharing: str
    independent: str
    outcome: Outcome
    recommended: Arm
    verdict: str
    score: float | None
    independent_score: float | None
    difference: float | None
    difference_ci: tuple[float, float] | None
    delta_m: float | None
    delta_m_ci: tuple[float, float] | None
    constant_score: float
    gbdt_score: float | None
    tasks: tuple[TaskComparison, ...]
    helped: int
    hurt: int
    seeds: int
    seed_scores: tuple[float, ...]
    independent_seed_scores: tuple[float, ...]
    resamples: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; what is not defined is null, never NaN."""
        return _plain(asdict(self))


def compare(
    shared: Predictions,
    independent: Predictions,
    y: Truth,
    specs: Sequence[TaskSpec],
    *,
    mask: Mask = None,
    task: TaskOfRow = None,
    gbdt: Float[np.ndarray, "*one rows outputs"] | None = None,
    suite: str = "this suite",
    sharing: str = "sharing",
    independent_words: str = "equally tuned independent networks",
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare the arms on the same rows.

    Args:
        shared, independent: predictions `[S, T, N, O]` (aligned) or `[S, N, O]` (grouped); seed s
            of one arm is paired with seed s of the other.
        y: truth, `[N, T]` or `[N]`: standardised regression targets, class indices.
        specs: the tasks with their training constants (`metrics.fit_specs`).
        mask: which labels are known; all if None.
        task: the task of each row, for grouped suites.
        gbdt: predictions of the tree baseline, `[T, N, O]` or `[N, O]`.
        suite, sharing, independent_words: how the verdict calls the data, the sharing network
            ("hard sharing") and the other arm.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: arrays that do not fit together.
        AutometaError: a network predicts NaN, so nothing can be said about its arm.
    """
    _check(shared, independent, y, specs, mask, task)
    boot = bootstrap(
        [shared, independent], y, specs, mask=mask, task=task, resamples=resamples, seed=seed
    )
    observed = boot.observed
    scores = observed.value()[:, :, 0]  # [arm, seed]
    values = observed.task_values()[:, :, 0]  # [arm, seed, task]
    n_rows = float(len(y)) if task is None else float(observed.n.sum())
    difference = boot.intervals(_score_difference, n_rows)[0]
    gain = boot.intervals(_delta_m_of(values, specs), n_rows)[0]
    outcome, recommended, notes = _decide(difference, gain)
    if len(shared) == 1:
        notes += ("one seed: the intervals cover the choice of test rows only",)
    tasks = compare_tasks(boot, values, y, mask, task)
    trees = None if gbdt is None else evaluate(gbdt, y, specs, mask=mask, task=task).value()
    result = Comparison(
        suite=suite,
        sharing=sharing,
        independent=independent_words,
        outcome=outcome,
        recommended=recommended,
        verdict="",
        score=_number(scores[0].mean()),
        independent_score=_number(scores[1].mean()),
        difference=_number(difference.estimate),
        difference_ci=_pair(difference),
        delta_m=_number(gain.estimate),
        delta_m_ci=_pair(gain),
        constant_score=0.0,
        gbdt_score=None if trees is None else _number(trees),
        tasks=tasks,
        helped=sum(t.effect == "helped" for t in tasks),
        hurt=sum(t.effect == "hurt" for t in tasks),
        seeds=len(shared),
        seed_scores=tuple(scores[0].tolist()),
        independent_seed_scores=tuple(scores[1].tolist()),
        resamples=resamples,
        notes=notes,
    )
    return replace(result, verdict=_sentence(result))


# --- statistics (see `intervals.Statistic`) -------------------------------------------------------


def _score_difference(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
    values = evaluation.value()
    return ((values[0] - values[1]) * seeds.T).sum(0)


def _error_difference(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
    """Mean error of independent − sharing a task, positive where sharing helps."""
    errors = evaluation.mean_errors()
    return ((errors[1] - errors[0]) * seeds.T[:, :, None]).sum(0)


def _delta_m_of(values: np.ndarray, specs: Sequence[TaskSpec]) -> Statistic:
    """Δm to first order in M around the observed means `values` `[arm, seed, T]`.

    On resamples of a handful of rows the denominator M̄ can come out near 0, and a ratio of
    resampled means then says more about that than about the spread of Δm. Where a resample lacks
    a class, the task keeps its observed M.
    """
    sharing, alone = values.mean(1)
    known = np.isfinite(sharing) & (alone > 0)
    sign = 100.0 * signs(specs)

    def statistic(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
        moved = (evaluation.task_values() * seeds.T[:, :, None]).sum(1)  # [arm, B, T]
        by = np.where(np.isfinite(moved), moved - values.mean(1)[:, None], 0.0)
        first = divide(sharing - alone + by[0], alone) - divide(sharing * by[1], alone**2)
        return np.asarray(nan_mean(np.where(known, sign * first, np.nan)))

    return statistic


# --- decisions ------------------------------------------------------------------------------------


def _decide(difference: Interval, gain: Interval) -> tuple[Outcome, Arm, tuple[str, ...]]:
    """Outcome, recommended arm and notes, from the intervals of the score and of Δm."""
    by_score, by_gain = _side(difference), _side(gain)
    higher: Arm = "sharing" if difference.estimate >= 0 else "independent"  # NaN: independent
    if by_score == "undecided":
        return "undecided", higher, ()
    if by_gain not in ("undecided", by_score):
        note = f"the score favours {_CALLED[by_score]} but Δm favours {_CALLED[by_gain]}"
        return "undecided", higher, (note,)
    return by_score, higher, ()


def _side(interval: Interval) -> Outcome:
    if interval.low > 0:
        return "sharing"
    return "independent" if interval.high < 0 else "undecided"


def compare_tasks(
    boot: Bootstrap, values: np.ndarray, y: np.ndarray, mask: Mask, task: TaskOfRow
) -> tuple[TaskComparison, ...]:
    """Effects by paired p values, Benjamini–Hochberg at 5% over the tasks that can be called."""
    specs, observed = boot.observed.specs, boot.observed
    sizes = np.array([judged_size(s, labels(y, t, mask, task)[1]) for t, s in enumerate(specs)])
    reasons = not_judged(y, specs, mask=mask, task=task)
    tests = boot.intervals(_error_difference, sizes)
    p = np.array([np.nan if r else i.p for r, i in zip(reasons, tests, strict=True)])
    found = benjamini_hochberg(p)
    scores = observed.task_scores()[:, :, 0].mean(1)
    auc = np.array([s.metric == "auc" for s in specs])
    per_score = np.where(auc, 1.0, divide(observed.n, observed.constant_error))
    out = []
    for t, spec in enumerate(specs):
        effect: Effect = "undecided"
        if found[t]:
            effect = "helped" if tests[t].estimate > 0 else "hurt"
        shared, independent = scores[:, t]
        shared_value, independent_value = values[:, :, t].mean(1)
        out.append(
            TaskComparison(
                name=spec.name,
                metric=spec.metric,
                rows=int(observed.n[t]),
                shared=_number(shared),
                independent=_number(independent),
                shared_value=_number(shared_value),
                independent_value=_number(independent_value),
                p=_number(p[t]),
                effect=effect,
                judged=reasons[t] is None,
                reason=reasons[t],
                difference=_number(tests[t].estimate * per_score[t]),
                difference_ci=_pair(tests[t], per_score[t]),
            )
        )
    return tuple(out)


# --- words ----------------------------------------------------------------------------------------

_CALLED = {"sharing": "sharing", "independent": "independent networks"}


def _sentence(c: Comparison) -> str:
    if None in (c.score, c.independent_score) or c.difference is None or c.difference_ci is None:
        return (
            f"Nothing can be judged on {c.suite}: the training constant makes no error on the "
            "evaluation rows, or they have one class only; independent networks are recommended."
        )
    gain = "Δm not defined"
    if c.delta_m is not None and c.delta_m_ci is not None:
        digits = _digits(c.delta_m_ci, 1)
        low, high = (_signed(v, digits) for v in c.delta_m_ci)
        gain = f"Δm {_signed(c.delta_m, digits)}%, {low} to {high}"
    digits = _digits(c.difference_ci, 3)
    low, high = (_signed(v, digits) for v in c.difference_ci)
    scores = (
        f"{c.sharing} scores {c.score:.3f} against {c.independent_score:.3f} for {c.independent} "
        f"(difference {_signed(c.difference, digits)}, 95% interval {low} to "
        f"{high}; {gain})"
    )
    effects = f"{c.helped} of {len(c.tasks)} tasks helped, {c.hurt} hurt"
    if c.outcome == "sharing":
        return f"Sharing helps on {c.suite}: {scores}; {effects}."
    if c.outcome == "independent":
        return f"Independent networks win on {c.suite}: {scores}; {effects}."
    pick = c.sharing if c.recommended == "sharing" else "independent networks"
    better = "higher" if c.score != c.independent_score else "equal"
    if opposed := [n for n in c.notes if n.startswith("the score favours")]:
        return (
            f"Whether sharing helps on {c.suite} is undecided, because {opposed[0]}: {scores}; "
            f"recommended by the score: {pick}; {effects}."
        )
    return (
        f"Sharing neither helps nor hurts measurably on {c.suite}: {scores}, a difference within "
        f"noise; recommended for its {better} mean score: {pick}; {effects}."
    )


def _digits(ends: tuple[float, float], least: int) -> int:
    """Enough digits that no end of an interval reads as 0 that is not: its side is the finding."""
    enough = (d for d in range(least, least + 3) if all(round(v, d) or not v for v in ends))
    return next(enough, least)


def _signed(x: float, digits: int) -> str:
    return f"{round(x, digits) + 0.0:+.{digits}f}"  # + 0.0 turns −0.0 into 0.0


def _number(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def _pair(interval: Interval, unit: float = 1.0) -> tuple[float, float] | None:
    ends = (float(interval.low * unit), float(interval.high * unit))
    return ends if np.isfinite(ends).all() else None


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _plain(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    return None if isinstance(data, float) and not np.isfinite(data) else data


def _check(
    shared: np.ndarray,
    independent: np.ndarray,
    y: np.ndarray,
    specs: Sequence[TaskSpec],
    mask: Mask,
    task: TaskOfRow,
) -> None:
    if len(shared) != len(independent) or not len(shared):
        raise DataError(
            "Both arms should have the same number of seeds, at least one. "
            f"Found {len(shared)} for sharing and {len(independent)} for independent networks."
        )
    for arm, pred in (("sharing", shared), ("independent", independent)):
        check_shapes(pred, y, specs, task)
        found = evaluate(pred, y, specs, mask=mask, task=task).error
        bad = ~np.isfinite(found)
        if bad.any():
            s, t = np.argwhere(bad)[0]
            raise AutometaError(
                f"The {arm} network of seed {s} predicts values that are not finite for task "
                f"{specs[t].name!r}; leave it out of the comparison."
            )
