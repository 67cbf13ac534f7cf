"""Prediction intervals of models that were trained on their tasks: split conformal prediction.

How far off a model may be is read from rows that it has not learned from. Their scores

    s = |y − ŷ| / (d + σ0)

divide the error by the members' standard deviation d at the row plus σ0, the task's median error,
so that a single network has intervals too and rows on which members agree by chance do not get
none. The interval of a new row is ŷ ± q·(d + σ0), where q is the ⌈(n + 1)·level⌉-th smallest of the
n scores: with this, it holds the new value with at least that probability where new rows are like
the calibration rows (Lei et al. 2018, "Distribution-free predictive inference for regression",
arXiv:1604.04173, with locally weighted scores). A task with few rows borrows the scores of all.

We deviate in two points: σ0 is measured on the calibration rows themselves, and of many scores only
200 are kept, of which the next larger one is taken. The first is exact where members agree, the
second makes intervals a little wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from autometa.ensembles import combine
from autometa.errors import UserError
from autometa.metrics import Mask, TaskOfRow, TaskSpec, Truth, labels, task_predictions

#: rows that a task needs for intervals of its own
MIN_ROWS = 20
#: scores of a task that are kept
_KEPT = 200


@dataclass(frozen=True)
class Scores:
    """The scores of n calibration rows: all of them, or every (n/200)-th; sorted.

    Attributes:
        rows: n.
    """

    rows: int
    values: tuple[float, ...]

    @classmethod
    def of(cls, scores: Float[np.ndarray, " row"]) -> Scores:
        n = len(scores)
        kept = np.arange(1, min(n, _KEPT) + 1)
        ranks = -(-kept * n // max(len(kept), 1))
        return cls(n, tuple(np.sort(scores)[ranks - 1].tolist()))

    @property
    def highest(self) -> float:
        """The highest level that so many rows allow, n/(n + 1)."""
        return self.rows / (self.rows + 1)

    def quantile(self, level: float) -> float | None:
        """The ⌈(n + 1)·level⌉-th smallest score; None where there are too few."""
        rank = math.ceil((self.rows + 1) * level - 1e-9)
        if rank > self.rows:
            return None
        return self.values[(max(rank, 1) - 1) * len(self.values) // self.rows]


@dataclass(frozen=True)
class Calibration:
    """How far off a model may be, task by task.

    Attributes:
        sigma: σ0 of each task, in standard deviations of its target; None for classification.
        own: the scores of each task; None for classification and where they are too few.
        pooled: those of all tasks together.
    """

    sigma: tuple[float | None, ...]
    own: tuple[Scores | None, ...]
    pooled: Scores

    def width(self, number: int, name: str, level: float) -> float:
        """q of one regression task.

        Raises:
            UserError: the level is too high for so few calibration rows.
        """
        own = self.own[number]
        for scores in (own, self.pooled):
            found = None if scores is None else scores.quantile(level)
            if found is not None:
                return found
        highest = math.floor(1000 * self.pooled.highest) / 1000
        raise UserError(
            f"Parameter `interval` should be at most {highest:g} for `{name}`, whose errors are "
            f"known on {self.pooled.rows} rows. Found `interval = {level}`."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Calibration:
        """Inverse of `to_json`."""
        own = tuple(None if one is None else _scores(one) for one in data["own"])
        return cls(tuple(data["sigma"]), own, _scores(data["pooled"]))


def calibrate(
    outputs: Float[np.ndarray, "member *cells output"],
    y: Truth,
    specs: Sequence[TaskSpec],
    *,
    mask: Mask = None,
    task: TaskOfRow = None,
) -> Calibration | None:
    """What the errors on rows that a model has not learned from say of its intervals.

    Args:
        outputs: of its members for these rows, `[M, T, N, O]` or `[M, N, O]` with `task`.
        y: truth of the rows, standardised; `mask`: which labels are known, all if None.

    Returns:
        None where no regression task has a labelled row.
    """
    mean, spread = combine(outputs, specs, task), spread_of(outputs)
    sizes: list[Float[np.ndarray, " row"] | None] = []
    spreads: list[Float[np.ndarray, " row"]] = []
    for t, spec in enumerate(specs):
        rows, truth = labels(y, t, mask, task)
        known = spec.kind == "regression" and len(rows) > 0
        found = task_predictions(mean, t, rows, task)[..., 0].astype(np.float64)
        sizes.append(np.abs(truth - found) if known else None)
        spreads.append((spread if task is not None else spread[t])[rows])
    errors = [one for one in sizes if one is not None]
    if not errors:
        return None
    common = _scale(np.concatenate(errors))
    sigma: list[float | None] = []
    scores: list[Float[np.ndarray, " row"] | None] = []
    for spec, size, far in zip(specs, sizes, spreads, strict=True):
        few = size is None or len(size) < MIN_ROWS
        own = common if few or size is None else _scale(size)
        sigma.append(own if spec.kind == "regression" else None)
        scores.append(None if size is None else size / (far + own))
    pooled = np.concatenate([one for one in scores if one is not None])
    kept = tuple(None if s is None or len(s) < MIN_ROWS else Scores.of(s) for s in scores)
    return Calibration(tuple(sigma), kept, Scores.of(pooled))


def reach(
    calibration: Calibration,
    outputs: Float[np.ndarray, "member *cells output"],
    names: Sequence[str],
    wanted: Sequence[int],
    level: float,
    task: TaskOfRow = None,
) -> Float[np.ndarray, "*cells"]:
    """Half the length of every row's interval, in standard deviations of its target.

    Args:
        outputs: of the members, as in `calibrate`.
        names: of all tasks.
        wanted: the tasks whose intervals are asked for.

    Returns:
        `[T, N]`, or `[N]` with `task`; NaN where a task is of classes or is not asked for.

    Raises:
        UserError: the level is too high for the calibration rows of a task.
    """
    spread = spread_of(outputs)
    found = np.full(spread.shape, np.nan)
    for t in wanted:
        sigma = calibration.sigma[t]
        if sigma is not None:
            cells = t if task is None else task == t
            found[cells] = calibration.width(t, names[t], level) * (spread[cells] + sigma)
    return found


def spread_of(
    outputs: Float[np.ndarray, "member *cells output"],
) -> Float[np.ndarray, "*cells"]:
    """The members' standard deviation of standardised values; 0 for one member."""
    if len(outputs) == 1:
        return np.zeros(outputs.shape[1:-1])
    return np.ascontiguousarray(outputs[..., 0]).astype(np.float64).std(0)


def _scale(errors: Float[np.ndarray, " row"]) -> float:
    """The median error, or where more than half of them are 0 the mean, or 1."""
    return float(np.median(errors)) or float(np.mean(errors)) or 1.0


def _scores(data: dict[str, Any]) -> Scores:
    return Scores(data["rows"], tuple(data["values"]))
