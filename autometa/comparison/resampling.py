"""Errors of all methods under resampled rows, and intervals of what is made of them.

The variance of a statistic has three parts: which test rows there are (paired bootstrap over rows,
or over groups of rows as wholes), which seeds the networks had (paired jackknife: the same seed is
left out of all methods), and which trial the search of an arm happened to name (`luck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from autometa.comparison.methods import Method
from autometa.comparison.runs import (
    Entry,
    averaged,
    check_seeds,
    entry_of,
    outputs_of,
    padded,
    statistics_of,
)
from autometa.intervals import Interval, draw_counts, rows_kernel, t_interval, unbiased
from autometa.metrics import (
    Evaluation,
    Mask,
    TaskOfRow,
    TaskSpec,
    Truth,
    check_shapes,
    divide,
    evaluate,
    judged_size,
    labels,
    nan_mean,
    task_predictions,
)

_CELLS = 8_000_000  # bootstrap weights held at once: 32 MB of float32, thrice that while drawn


class Quantity(NamedTuple):
    """Something of every run: on the rows as they are [run, 1, …], and resampled [run, B, …]."""

    observed: np.ndarray
    resampled: np.ndarray


@dataclass(frozen=True, eq=False)
class Resampled:
    """Statistics of R runs under B resamples, equal for all runs.

    Attributes:
        observed: on the rows as they are, error [R, 1, T].
        resampled: on resampled rows, error [R, B, T].
        entries: name of a method → what it is made of.
        units: what was resampled, rows or groups; `task_units` those that limit each task [T].
    """

    observed: Evaluation
    resampled: Evaluation
    entries: dict[str, Entry]
    units: float
    task_units: Float[np.ndarray, "tasks"]

    def scores(self, tasks: Sequence[int] | None = None) -> Quantity:
        """The suite's value of every run, of all or of some of its tasks."""
        parts = (_some(self.observed, tasks), _some(self.resampled, tasks))
        return Quantity(*(part.value() for part in parts))

    def task_scores(self) -> Quantity:
        return Quantity(self.observed.task_scores(), self.resampled.task_scores())

    def mean_errors(self) -> Quantity:
        return Quantity(self.observed.mean_errors(), self.resampled.mean_errors())

    def task_values(self) -> Quantity:
        return Quantity(self.observed.task_values(), self.resampled.task_values())

    def of(self, name: str, quantity: Quantity) -> Float[np.ndarray, "candidate *rest"]:
        """What each candidate of a method reaches on the rows as they are."""
        return _mix(self.entries[name].full, quantity.observed)[:, 0]

    def difference(self, first: str, second: str, tasks: Sequence[int] | None = None) -> Interval:
        """Score of the first method − that of the second, of all or of some tasks."""
        scores = self.scores(tasks)
        minus = Quantity(-scores.observed, -scores.resampled)
        return self.intervals([(first, scores), (second, minus)])[0]

    def intervals(
        self,
        terms: Sequence[tuple[str, Quantity]],
        units: float | Float[np.ndarray, "tasks"] | None = None,
        level: float = 0.95,
    ) -> list[Interval]:
        """t intervals of the sum over `terms` of what a method reaches, one a task if it has tasks.

        Seeds are a part of the luck of a search (another winner has other seeds, too), so the
        larger of the two variances counts. What of it depends on the rows is in the variance over
        rows as well, and is taken out once, as in a two-way analysis of variance:
        V = V_rows + V_search − V_interaction, and at least the larger of the first two. Degrees of
        freedom are Satterthwaite's, from units − 1, S − 1 seeds and those of the luck of each arm.
        """
        units = self.units if units is None else units
        zero = np.zeros(())
        estimate, by_rows, luck, luck_resampled, luck_spread = (zero,) * 5
        seeds, seeds_resampled = [], []
        for name, quantity in terms:
            entry = self.entries[name]
            found, resampled = (_mix(entry.full, part) for part in quantity)
            estimate = estimate + found[0, 0]
            by_rows = by_rows + (resampled[0] - found[0, 0])
            if entry.luck is not None:
                own = entry.luck.variance(found)[0]
                luck = luck + own
                luck_resampled = luck_resampled + _mean(entry.luck.variance(resampled))
                luck_spread = luck_spread + own**2 / entry.luck.df
            if len(entry.without):
                seeds.append(_mix(entry.without, quantity.observed)[:, 0])
                seeds_resampled.append(_mix(entry.without, quantity.resampled))
        v_seeds, v_seeds_resampled, n_seeds = _jackknife(seeds, seeds_resampled)
        lucky = luck >= v_seeds
        v_search = np.where(lucky, luck, v_seeds)
        search_spread = np.where(lucky, luck_spread, v_seeds**2 / max(n_seeds - 1, 1))
        interaction = np.where(lucky, luck_resampled, v_seeds_resampled) - v_search
        v_rows = _mean(np.square(by_rows - _mean(by_rows)))
        largest = np.maximum(v_rows, v_search)
        variance = np.maximum(v_rows + v_search - np.maximum(interaction, 0.0), largest)
        spread = search_spread + v_rows**2 / np.maximum(np.asarray(units, float) - 1, 1)
        # parts overlap where the floor holds: the whole has the freedom of parts that add up to it
        df = np.where(variance == 0, 1.0, np.maximum(divide(variance**2, spread), 1.0))
        columns = (np.atleast_1d(part) for part in (estimate, variance, df))
        return [t_interval(e, v, d, level) for e, v, d in zip(*columns, strict=True)]


def resample_rows(
    methods: Sequence[Method],
    y: Truth,
    specs: Sequence[TaskSpec],
    *,
    mask: Mask = None,
    task: TaskOfRow = None,
    groups: Int[np.ndarray, "rows"] | None = None,
    ensemble: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample test rows; all methods see the same resamples.

    Aligned suites draw whole rows, which all tasks share; grouped ones draw within each task.
    Where rows belong to groups, whole groups are drawn. Of n things n − 1 are drawn with
    replacement, each counting n/(n − 1): the resampled variance of a mean is then unbiased however
    small n is (McCarthy and Snowden 1985).

    Args:
        y, mask, task, specs: as in `metrics.evaluate`.
        groups: the group of each row.
        ensemble: whether a candidate predicts with all its seeds together; else its result is the
            mean of what they reach one by one.

    Raises:
        DataError: arrays that do not fit together, or networks of unequal numbers of seeds.
        AutometaError: a network predicts NaN, so nothing can be said about its method.
    """
    for method in methods:
        for candidate in method.candidates:
            check_shapes(outputs_of(candidate.outputs), y, specs, task)
    check_seeds(methods)
    outputs: list[np.ndarray] = []
    entries = {}
    for method in methods:
        entries[method.name] = entry_of(method, outputs, y, specs, mask, task, ensemble)
    runs = np.concatenate(outputs)
    n_runs = len(runs)
    entries = {name: padded(entry, n_runs) for name, entry in entries.items()}

    rng = np.random.default_rng(seed)
    error = np.zeros((n_runs, resamples, len(specs)))
    constant, n = np.zeros((resamples, len(specs))), np.zeros((resamples, len(specs)))
    # What is drawn together: all rows, or those of one task; `unit_of`: which unit each row is.
    blocks = [(np.arange(len(y)), range(len(specs)))]
    if task is not None and groups is None:
        blocks = [(np.flatnonzero(task == t), range(t, t + 1)) for t in range(len(specs))]
    for place, members in blocks:
        unit_of = np.arange(len(place))
        if groups is not None:
            unit_of = np.unique(groups[place], return_inverse=True)[1]
        n_units = int(unit_of.max(initial=-1)) + 1
        step = max(1, _CELLS // max(len(place), 1))
        for start in range(0, resamples, step):
            part = slice(start, min(start + step, resamples))
            draws = draw_counts(rng, n_units, part.stop - start)[unit_of]
            for t in members:
                rows, truth = labels(y, t, mask, task)
                if len(rows):
                    kernel = rows_kernel(
                        specs[t], truth, task_predictions(runs, t, rows, task),
                        place.searchsorted(rows), len(place), unbiased(n_units),
                    )  # fmt: skip
                    error[:, part, t], constant[part, t], n[part, t] = kernel(draws)
    base = evaluate(runs, y, specs, mask=mask, task=task)
    observed = replace(base, error=base.error[:, None])
    per_task = [_units_of(specs[t], *labels(y, t, mask, task), groups) for t in range(len(specs))]
    units = float(len(y)) if task is None else float(base.n.sum())
    if groups is not None:
        units = float(len(np.unique(groups)))
    return Resampled(
        observed, Evaluation(tuple(specs), error, constant, n), entries, units, np.array(per_task)
    )


def resample_episodes(
    methods: Sequence[Method],
    spec: TaskSpec,
    member: Float[np.ndarray, "episode group"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample groups of episodes as wholes: held-out tasks, or single episodes.

    Where predictions are not finite the constant's errors count.

    Args:
        spec: stands for all episodes, whose statistics are summed.
        member: 1 where an episode belongs to a group.
    """
    check_seeds(methods)
    errors: list[np.ndarray] = []
    entries = {}
    first = found_of(methods[0])
    for method in methods:
        start = sum(map(len, errors))
        parts = [settled(statistics_of(c.found)) @ member for c in method.candidates]
        scores = 1.0 - divide(parts[0].sum(1), first.constant_error.sum())
        counts = [len(part) for part in parts]
        entries[method.name] = averaged(method, start, counts, np.maximum(scores, -1.0))
        errors += parts
    error = np.concatenate(errors)
    entries = {name: padded(entry, len(error)) for name, entry in entries.items()}
    n_groups = member.shape[1]
    rng = np.random.default_rng(seed)
    draws = draw_counts(rng, n_groups, resamples).astype(np.float64) * unbiased(n_groups)
    sums = (error, first.constant_error @ member, first.n @ member)

    def summed(by: np.ndarray) -> Evaluation:
        return Evaluation((spec,), *(np.asarray(part @ by)[..., None] for part in sums))

    size = float(n_groups)
    return Resampled(summed(np.ones((n_groups, 1))), summed(draws), entries, size, np.array([size]))


def found_of(method: Method) -> Evaluation:
    """The statistics of a method's best candidate in episodes."""
    return statistics_of(method.best.found)


def settled(found: Evaluation) -> Float[np.ndarray, "seeds episodes"]:
    """Errors, those of the constant where predictions are not finite."""
    return np.where(np.isfinite(found.error), found.error, found.constant_error)


# --- helpers --------------------------------------------------------------------------------------


def _units_of(
    spec: TaskSpec, rows: np.ndarray, truth: np.ndarray, groups: np.ndarray | None
) -> float:
    """What limits a task's test: rows or groups with a label, for AUC those of the rarer class."""
    if groups is None:
        return judged_size(spec, truth)
    if spec.metric != "auc":
        return float(len(np.unique(groups[rows])))
    return float(min(len(np.unique(groups[rows[truth == c]])) for c in (0, 1)))


def _some(found: Evaluation, tasks: Sequence[int] | None) -> Evaluation:
    if tasks is None:
        return found
    places = list(tasks)
    return Evaluation(
        tuple(found.specs[t] for t in places),
        found.error[..., places],
        found.constant_error[..., places],
        found.n[..., places],
    )


def _mix(weights: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Sums of runs [run, …] with these weights [k, run]; runs of weight 0 do not count."""
    used = weights.any(0)
    return np.tensordot(weights[:, used], runs[used], 1)


def _mean(x: Float[np.ndarray, "resample *task"]) -> np.ndarray:
    """Over resamples, of what is defined."""
    return nan_mean(np.moveaxis(np.asarray(x), 0, -1))


def _jackknife(
    seeds: Sequence[np.ndarray], resampled: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Variance over seeds of a sum, on the rows as they are and in the mean of the resamples."""
    if not seeds:
        return np.zeros(()), np.zeros(()), 1
    n = len(seeds[0])

    def variance(parts: Sequence[np.ndarray]) -> np.ndarray:
        total = np.sum(parts, 0)
        return np.asarray((n - 1) / n * np.square(total - total.mean(0)).sum(0))

    return variance(seeds), _mean(variance(resampled)), n
