"""Trained networks to numbers: scores, contrasts, curves and influences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from autometa.comparison import (
    Candidate,
    Method,
    Resampled,
    TaskComparison,
    resample_rows,
    task_effects,
)
from autometa.diagnosis.measurements import (
    Estimate,
    Influence,
    Measured,
    Measurements,
    Pairs,
    TaskEffect,
)
from autometa.diagnosis.networks import Network, Role
from autometa.intervals import Interval, mean_interval, t_interval
from autometa.metrics import Evaluation, TaskSpec, evaluate
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
    boot = _resampled({str(role): trained[role].val for role in roles}, val, specs, seed)
    labels, mask, task = _arrays(train)
    fits = {
        role: evaluate(one.train, labels, specs, mask=mask, task=task)
        for role, one in trained.items()
        if one.train is not None
    }
    scores, per_task = boot.scores(), boot.task_scores()
    networks = {
        role: _measured(
            one, fits[role], float(boot.of(role, scores)[0]), boot.of(role, per_task)[0], steps
        )
        for role, one in trained.items()
    }
    seeds = len(trained[roles[0]].val)
    found = Measurements(
        tuple(spec.name for spec in specs),
        tuple(steps),
        seeds,
        blocks,
        {str(role): one for role, one in networks.items()},
        pairs=pairs,
    )
    for a, b in CONTRASTS:
        if a not in trained or b not in trained or trained[a] is trained[b]:
            continue
        name = f"{a}-{b}"
        on_val = boot.difference(a, b)
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
        found.effects[name] = _effects(boot, a, b, val)
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
    outputs = {"trunk": trunk.val, **{str(number): one.val for number, one in isolated.items()}}
    boot = _resampled(outputs, val, specs, seed)
    found = []
    for number, one in isolated.items():
        rest = [t for t in range(len(specs)) if t != number]
        interval = boot.difference(str(number), "trunk", rest)
        with np.errstate(invalid="ignore"):
            ahead = (one.curve - trunk.curve)[:, :, rest].mean((0, 2)) > 0  # NaN is not ahead
        found.append(
            Influence(
                number,
                _estimate(interval),
                float(interval.p) if math.isfinite(interval.p) else None,
                tuple(e.difference for e in _effects(boot, str(number), "trunk", val)),
                _since(ahead, steps),
            )
        )
    return tuple(found)


def _since(ahead: np.ndarray, steps: Sequence[int]) -> int | None:
    """The first step from which on all are true."""
    behind = np.flatnonzero(~ahead)
    first = int(behind[-1]) + 1 if len(behind) else 0
    return int(steps[first]) if first < len(steps) else None


def _resampled(
    outputs: Mapping[str, np.ndarray], val: Rows, specs: Sequence[TaskSpec], seed: int
) -> Resampled:
    """Networks, each judged by the mean of its seeds, on resampled validation rows."""
    labels, mask, task = _arrays(val)
    methods = [
        Method(name, name, "network", (Candidate(None, math.nan, found),))
        for name, found in outputs.items()
    ]
    groups = None if val.group is None else val.group.numpy()
    return resample_rows(
        methods, labels, specs, mask=mask, task=task, groups=groups, ensemble=False,
        resamples=_RESAMPLES, seed=seed,
    )  # fmt: skip


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


def _effects(boot: Resampled, a: str, b: str, val: Rows) -> tuple[TaskEffect, ...]:
    found = task_effects(boot, a, b, *_arrays(val))
    return tuple(_effect(task) for task in found)


def _effect(task: TaskComparison) -> TaskEffect:
    estimate = None
    if task.difference is not None and task.difference_ci is not None:
        estimate = Estimate(task.difference, *task.difference_ci)
    return TaskEffect(task.name, estimate, task.effect, task.reason)


def _arrays(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    return rows.y.numpy(), rows.mask.numpy(), None if rows.task is None else rows.task.numpy()


def _estimate(interval: Interval) -> Estimate | None:
    ends = (interval.estimate, interval.low, interval.high)
    return Estimate(*map(float, ends)) if np.isfinite(ends).all() else None


def _numbers(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values)
