"""What the trained networks of a diagnosis amount to, in numbers: plain data, JSON both ways."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """+1 or −1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class TaskEffect:
    """What a network did to one task: the difference of its scores on the validation rows.

    Attributes:
        effect: `helped`, `hurt` or `undecided`, as in the final comparison.
        reason: why the task is not judged; None if it is.
    """

    name: str
    difference: Estimate | None
    effect: str
    reason: str | None = None


@dataclass(frozen=True)
class Measured:
    """One network, means over its seeds.

    Attributes:
        changes: what is not as in the trial it was made from.
        train, val: scores on the training and the validation rows.
        tasks_train, tasks_val: the same a task; None where a task cannot be judged.
        curve: [point][task] validation score on the way; None where it cannot be judged.
        decline: best score on the way minus that at the end, an interval over the seeds.
        peak: step of the best mean score.
    """

    trial: int | None
    parameters: int
    width: int | None
    config: dict[str, Any]
    train: float
    val: float
    tasks_train: tuple[float | None, ...]
    tasks_val: tuple[float | None, ...]
    curve: tuple[tuple[float | None, ...], ...]
    peak: int
    decline: Estimate | None


@dataclass(frozen=True)
class Pairs:
    """How the training of one task affects the others while they share the trunk.

    Attributes:
        steps: the steps that the cosines are of, up to each from the one before.
        cosine: [step][task][task], of the gradients of the shared parameters; None if undefined.
        affinity: [task][task], Z[i][j]: by what share a step of task i alone lowers the loss of
            task j (Fifty et al. 2021), mean over training.
    """

    steps: tuple[int, ...]
    cosine: tuple[tuple[tuple[float | None, ...], ...], ...]
    affinity: tuple[tuple[float | None, ...], ...]

    def mean_affinity(self, task: int) -> float:
        """Mean of what a task does to the others and they to it."""
        found = [
            value
            for other in range(len(self.affinity))
            if other != task
            for value in (self.affinity[task][other], self.affinity[other][task])
            if value is not None
        ]
        return float(np.mean(found)) if found else 0.0


@dataclass(frozen=True)
class Influence:
    """What one task does to the others: they are trained without it beside them in the trunk.

    Attributes:
        task: its number.
        others: score of the other tasks when it has a tower of its own, minus that in the trunk:
            positive where it does harm.
        p: two-sided, of `others`; None for a task that a first look cleared.
        changes: the same for each task; None where it cannot be judged.
        since: the step from which on `others` is positive at every later one; None if it is not
            positive at the end.
    """

    task: int
    others: Estimate | None
    p: float | None
    changes: tuple[Estimate | None, ...]
    since: int | None


@dataclass(frozen=True)
class Measurements:
    """All that the findings follow from.

    Attributes:
        tasks: names.
        steps: steps of the points of the curves; the last is the length of training.
        seeds: how many each network was trained with.
        blocks: how many the backbone of the sharing network has.
        networks: by role; `trunk` is the same as `sharing` where that shares every block.
        contrasts: "a-b" → score of a − score of b on the validation rows.
        training: "a-b" → the same on the training rows, an interval over the seeds.
        gaps: "a-b" → (training − validation score) of a minus that of b.
        effects: "a-b" → what a did to each task, against b.
        pairs: None where it was not measured.
        influences: of the tasks that were isolated in turn; empty where none was.
    """

    tasks: tuple[str, ...]
    steps: tuple[int, ...]
    seeds: int
    blocks: int
    networks: dict[str, Measured]
    contrasts: dict[str, Estimate] = field(default_factory=dict)
    training: dict[str, Estimate] = field(default_factory=dict)
    gaps: dict[str, Estimate] = field(default_factory=dict)
    effects: dict[str, tuple[TaskEffect, ...]] = field(default_factory=dict)
    pairs: Pairs | None = None
    influences: tuple[Influence, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, numbers to six digits."""
        return _rounded(asdict(self))


def _rounded(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value) for value in data]
    if isinstance(data, float):
        return float(f"{data:.6g}") if math.isfinite(data) else None
    return data
