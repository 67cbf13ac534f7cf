"""Trained networks to numbers: scores, contrasts, curves and influences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from autometa.comparison import TaskComparison, compare_tasks
from autometa.diagnosis.measurements import (
    Estimate,
    Influence,
    Measured,
    Measurements,
    Pairs,
    TaskEffect,
)
from autometa.diagnosis.networks import Network, Role
from autometa.intervals import (
    Bootstrap,
    Interval,
    bootstrap,
    mean_interval,
    t_interval,
)
from autometa.metrics import Evaluation, TaskSpec, divide, evaluate
from autometa.tasks import Rows

#: (a, b): the score of a minus that of b
CONTRASTS: tuple[tuple[Role, Role], ...] = (
    ("sharing", "independent"),
    ("trunk", "independent"),
    ("trunk", "sharing"),
    ("wide", "trunk"),
    ("wide", "independent"),
    ("wide", "sharing"),
    ("trunk", "narrow"),
)
#: more resamples of the validation rows would not change a finding
_RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class Trained:
    """A network after training, one entry a seed.

    Attributes:
        train, val: outputs on the training (None if not wanted) and the validation rows, as
            `evaluate` takes them.
        values: [seed][point] validation score on the way.
        curve: [seed][point][task], the same a task; NaN where it cannot be judged.
    """

    network: Network
    train: np.ndarray | None
    val: np.ndarray
    values: Float[np.ndarray, "seed point"]
    curve: Float[np.ndarray, "seed point task"]


def measure(
    trained: Mapping[Role, Trained],
    train: Rows,
    val: Rows,
    specs: Sequence[TaskSpec],
    *,
    steps: Sequence[int],
    blocks: int,
    pairs: Pairs | None,
    seed: int = 0,
) -> Measurements:
    """Scores, contrasts and curves of the networks.

    Intervals of validation scores are over seeds and rows, those of training scores over seeds:
    the question there is how well these very rows are fitted.
    """
    roles = list(trained)
    labels, mask, task = _arrays(val)
    boot = bootstrap(
        [trained[role].val for role in roles],
        labels, specs, mask=mask, task=task, resamples=_RESAMPLES, seed=seed,
    )  # fmt: skip
    labels, mask, task = _arrays(train)
    fits = {
        role: evaluate(one.train, labels, specs, mask=mask, task=task)
        for role, one in trained.items()
        if one.train is not None
    }
    scores = boot.observed.value()[:, :, 0]
    per_task = boot.observed.task_scores()[:, :, 0].mean(1)
    networks = {
        role: _measured(one, fits[role], float(scores[k].mean()), per_task[k], steps)
        for k, (role, one) in enumerate(trained.items())
    }
    n_rows = float(boot.observed.n.sum() if val.task is not None else len(val.y))
    found = Measurements(
        tuple(spec.name for spec in specs),
        tuple(steps),
        len(scores[0]),
        blocks,
        {str(role): one for role, one in networks.items()},
        pairs=pairs,
    )
    for a, b in CONTRASTS:
        if a not in trained or b not in trained or trained[a] is trained[b]:
            continue
        both = _arms(boot, [roles.index(a), roles.index(b)])
        name = f"{a}-{b}"
        on_val = both.intervals(_score_difference, n_rows)[0]
        fit = mean_interval(fits[a].value() - fits[b].value())
        gap = t_interval(fit.estimate - on_val.estimate, fit.se**2 + on_val.se**2, fit.df)
        for into, interval in (
            (found.contrasts, on_val),
            (found.training, fit),
            (found.gaps, gap),
        ):
            estimate = _estimate(interval)
            if estimate is not None:
                into[name] = estimate
        found.effects[name] = _effects(both, val)
    return found


def influences(
    trunk: Trained,
    isolated: Mapping[int, Trained],
    val: Rows,
    specs: Sequence[TaskSpec],
    steps: Sequence[int],
    seed: int = 0,
) -> tuple[Influence, ...]:
    """What each task does to the others in the trunk.

    Args:
        isolated: task → the trunk in which it alone has a tower of its own, with the same seeds.
    """
    labels, mask, task = _arrays(val)
    boot = bootstrap(
        [trunk.val, *(one.val for one in isolated.values())],
        labels, specs, mask=mask, task=task, resamples=_RESAMPLES, seed=seed,
    )  # fmt: skip
    found = []
    for place, (number, one) in enumerate(isolated.items(), start=1):
        both = _arms(boot, [place, 0])
        rest = [t for t in range(len(specs)) if t != number]
        others = _tasks(both, rest)
        n_rows = float(others.observed.n.sum() if val.task is not None else len(val.y))
        interval = others.intervals(_score_difference, n_rows)[0]
        with np.errstate(invalid="ignore"):
            ahead = (one.curve - trunk.curve)[:, :, rest].mean((0, 2)) > 0  # NaN is not ahead
        found.append(
            Influence(
                number,
                _estimate(interval),
                float(interval.p) if math.isfinite(interval.p) else None,
                tuple(effect.difference for effect in _effects(both, val)),
                _since(ahead, steps),
            )
        )
    return tuple(found)


def _since(ahead: np.ndarray, steps: Sequence[int]) -> int | None:
    """The first step from which on all are true."""
    behind = np.flatnonzero(~ahead)
    first = int(behind[-1]) + 1 if len(behind) else 0
    return int(steps[first]) if first < len(steps) else None


def _tasks(boot: Bootstrap, places: list[int]) -> Bootstrap:
    """The same resamples of some of the tasks."""

    def some(found: Evaluation) -> Evaluation:
        return Evaluation(
            tuple(found.specs[t] for t in places),
            found.error[..., places],
            found.constant_error[..., places],
            found.n[..., places],
        )

    return Bootstrap(some(boot.observed), some(boot.resampled), boot.seeds)


def _measured(
    one: Trained,
    fit: Evaluation,
    val: float,
    tasks_val: np.ndarray,
    steps: Sequence[int],
) -> Measured:
    with np.errstate(invalid="ignore"):
        mean = one.values.mean(0)
    best = int(np.argmax(mean))
    decline = mean_interval(one.values[:, best] - one.values[:, -1])
    return Measured(
        trial=one.network.trial,
        parameters=one.network.parameters,
        width=one.network.width,
        config=one.network.config.flat(),
        train=float(fit.value().mean()),
        val=val,
        tasks_train=_numbers(fit.task_scores().mean(0)),
        tasks_val=_numbers(tasks_val),
        curve=tuple(_numbers(row) for row in one.curve.mean(0)),
        peak=int(steps[best]),
        decline=_estimate(decline),
    )


def _effects(both: Bootstrap, val: Rows) -> tuple[TaskEffect, ...]:
    labels, mask, task = _arrays(val)
    observed = both.observed
    found = compare_tasks(both, observed.task_values()[:, :, 0], labels, mask, task)
    scale = divide(
        observed.constant_error,
        np.array([
            n if spec.metric != "auc" else pairs
            for spec, n, pairs in zip(
                observed.specs, observed.n, observed.constant_error, strict=True
            )
        ]),
    )  # fmt: skip

    def difference(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
        errors = evaluation.mean_errors()
        return divide(((errors[1] - errors[0]) * seeds.T[:, :, None]).sum(0), scale)

    intervals = both.intervals(difference, observed.n)
    return tuple(_effect(a, b) for a, b in zip(found, intervals, strict=True))


def _effect(task: TaskComparison, interval: Interval) -> TaskEffect:
    return TaskEffect(task.name, _estimate(interval), task.effect, task.reason)


def _arms(boot: Bootstrap, places: list[int]) -> Bootstrap:
    """The same resamples of some of the arms."""

    def some(found: Evaluation) -> Evaluation:
        return Evaluation(found.specs, found.error[places], found.constant_error, found.n)

    return Bootstrap(some(boot.observed), some(boot.resampled), boot.seeds)


def _score_difference(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
    values = evaluation.value()
    return ((values[0] - values[1]) * seeds.T).sum(0)


def _arrays(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    return rows.y.numpy(), rows.mask.numpy(), None if rows.task is None else rows.task.numpy()


def _estimate(interval: Interval) -> Estimate | None:
    ends = (interval.estimate, interval.low, interval.high)
    return Estimate(*map(float, ends)) if np.isfinite(ends).all() else None


def _numbers(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values)
