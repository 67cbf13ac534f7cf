"""Task metrics, the score and Δm, from plain arrays.

Everything is computed from three sums a task, its sufficient statistics on the evaluation rows:

| metric     | error E                           | constant's error E0              | value M      |
|------------|-----------------------------------|----------------------------------|--------------|
| `rmse`     | Σ (y − ŷ)², targets standardised  | Σ y² (the training mean is 0)    | std·√(E/n)   |
| `accuracy` | wrong rows                        | rows not of training's majority  | 1 − E/n      |
| `auc`      | 2 × wrongly ordered pairs, ties ½ | n⁺n⁻                             | 1 − E/(2·E0) |

Errors are summed before they are compared, because tasks can be tiny. The score of a group of
tasks with one metric is 1 − ΣE/ΣE0 (for `auc` this is Σn⁺n⁻(2·AUC − 1)/Σn⁺n⁻); a suite's value
weights the groups by their number of tasks and is clipped below at −1. The training constant
scores 0, perfect predictions score 1. A task with E0 = 0 is not judged: its score is NaN, never 0.

Predictions are `[…, T, N, O]` in aligned suites (one table, T targets) and `[…, N, O]` in grouped
ones (a row belongs to one task), any leading axes being runs: channel 0 is the standardised value
of a regression or the logit of a binary task, the first C channels are a multiclass task's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from autometa.errors import ConfigError, DataError, nearest

METRICS = {
    "regression": ("rmse",),
    "binary": ("accuracy", "auc"),
    "multiclass": ("accuracy",),
}
"""The metrics that a kind of task can have."""

MIN_ROWS = 30
"""A regression or accuracy task is called helped or hurt only with this many evaluation rows."""
MIN_RARER = 10
"""An AUC task is called helped or hurt only with this many rows of its rarer class."""

Predictions: TypeAlias = Float[np.ndarray, "*runs rows outputs"]
Truth: TypeAlias = Float[np.ndarray, "rows tasks"] | Float[np.ndarray, "rows"]
Mask: TypeAlias = Bool[np.ndarray, "rows tasks"] | Bool[np.ndarray, "rows"] | None
TaskOfRow: TypeAlias = Int[np.ndarray, "rows"] | None


@dataclass(frozen=True)
class TaskSpec:
    """What the metrics know of a task.

    Attributes:
        constant: the class index that most training rows have; unused for regression and `auc`.
        std: standard deviation of a regression target on the training rows, for RMSE in its units.
        n_classes: number of classes, for `multiclass`.
    """

    name: str
    kind: str
    metric: str
    constant: int = 0
    std: float = 1.0
    n_classes: int = 2

    def __post_init__(self) -> None:
        if self.kind not in METRICS:
            raise ConfigError(
                f"Parameter `kind` of task {self.name!r} should be one of {', '.join(METRICS)}. "
                f"Found `kind = {self.kind!r}`.{nearest(self.kind, METRICS)}"
            )
        if self.metric not in METRICS[self.kind]:
            raise ConfigError(
                f"Parameter `metric` of the {self.kind} task {self.name!r} should be "
                f"{' or '.join(METRICS[self.kind])}. Found `metric = {self.metric!r}`."
            )


@dataclass(frozen=True)
class TaskEval:
    """Sufficient statistics of one task and one run (see the module's table).

    `value` is M: RMSE in the target's units, accuracy or AUC; NaN where it is not defined.
    """

    name: str
    kind: str
    metric: str
    n: int
    error: float
    constant_error: float
    value: float

    @property
    def judged(self) -> bool:
        """Whether the constant errs at all (for `auc`: whether both classes are present)."""
        return self.constant_error > 0

    @property
    def score(self) -> float | None:
        """1 − E/E0; None if the task is not judged."""
        return 1.0 - self.error / self.constant_error if self.judged else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Sufficient statistics of all T tasks, for any number of runs or resamples at once.

    `constant_error` and `n` broadcast against `error`, whose leading axes are the runs.
    """

    specs: tuple[TaskSpec, ...]
    error: Float[np.ndarray, "*runs tasks"]
    constant_error: Float[np.ndarray, "*some tasks"]
    n: Float[np.ndarray, "*some tasks"]

    def group_scores(self) -> dict[str, Float[np.ndarray, "*runs"]]:
        """Metric → 1 − ΣE/ΣE0 over its tasks; NaN where ΣE0 = 0."""
        out = {}
        for metric in dict.fromkeys(s.metric for s in self.specs):
            group = [i for i, s in enumerate(self.specs) if s.metric == metric]
            total = _sum(self.constant_error[..., group])
            out[metric] = np.asarray(1.0 - divide(_sum(self.error[..., group]), total))
        return out

    def value(self) -> Float[np.ndarray, "*runs"]:
        """The suite's value: group scores weighted by their number of tasks, at least −1.

        A group whose constant makes no error cannot be judged and carries no weight; the value
        is NaN if that leaves no group, or if a judged group's error is NaN (a diverged run).
        """
        total = np.zeros(self.error.shape[:-1])
        weight = np.zeros(self.error.shape[:-1])
        for metric, score in self.group_scores().items():
            group = [i for i, s in enumerate(self.specs) if s.metric == metric]
            defined = _sum(self.constant_error[..., group]) > 0
            total += np.where(defined, len(group) * score, 0.0)
            weight += np.where(defined, len(group), 0.0)
        return np.asarray(np.maximum(divide(total, weight), -1.0))

    def task_scores(self) -> Float[np.ndarray, "*runs tasks"]:
        """1 − E/E0 a task (2·AUC − 1 for `auc`); NaN where the task is not judged."""
        return 1.0 - divide(self.error, self.constant_error)

    def task_values(self) -> Float[np.ndarray, "*runs tasks"]:
        """M a task: RMSE in the target's units, accuracy or AUC; NaN where it is not defined."""
        auc = np.array([s.metric == "auc" for s in self.specs])
        rmse = np.array([s.metric == "rmse" for s in self.specs])
        std = np.array([s.std for s in self.specs])
        mean = self.mean_errors()
        with np.errstate(invalid="ignore"):  # the branch not taken of other metrics
            return np.where(rmse, std * np.sqrt(mean), np.where(auc, 1.0 - mean / 2, 1.0 - mean))

    def mean_errors(self) -> Float[np.ndarray, "*runs tasks"]:
        """E a row (for `auc`: a pair) a task; NaN without rows (pairs)."""
        auc = np.array([s.metric == "auc" for s in self.specs])
        return divide(self.error, np.where(auc, self.constant_error, self.n))

    def tasks(self, run: int | tuple[int, ...] = ()) -> tuple[TaskEval, ...]:
        """The statistics of one run as plain records, in task order."""
        error, value = self.error[run], self.task_values()[run]
        constant = np.broadcast_to(self.constant_error, self.error.shape)[run]
        n = np.broadcast_to(self.n, self.error.shape)[run]
        return tuple(
            TaskEval(s.name, s.kind, s.metric, int(n[t]), float(error[t]), float(constant[t]),
                     float(value[t]))
            for t, s in enumerate(self.specs)
        )  # fmt: skip


def fit_specs(
    y: Truth,
    *,
    names: Sequence[str],
    kinds: Sequence[str],
    metrics: Sequence[str],
    n_classes: Sequence[int],
    stds: Sequence[float] | None = None,
    mask: Mask = None,
    task: TaskOfRow = None,
) -> tuple[TaskSpec, ...]:
    """The tasks with their constants, fitted on the training rows.

    Args:
        y: truth of the training rows, `[N, T]`, or `[N]` with `task` (the task of each row).
        mask: which labels are known; all if None.
    """
    out = []
    for t, name in enumerate(names):
        rows, truth = labels(y, t, mask, task)
        majority = 0
        if kinds[t] != "regression" and len(rows):
            majority = int(np.bincount(truth.astype(int)).argmax())
        std = 1.0 if stds is None else float(stds[t])
        out.append(TaskSpec(name, kinds[t], metrics[t], majority, std, int(n_classes[t])))
    return tuple(out)


def evaluate(
    pred: Predictions,
    y: Truth,
    specs: Sequence[TaskSpec],
    *,
    mask: Mask = None,
    task: TaskOfRow = None,
) -> Evaluation:
    """Sufficient statistics of every run in `pred`.

    Args:
        pred: `[…, T, N, O]`, or `[…, N, O]` with `task`; see the module for the channels.
        y: truth of the same rows, `[N, T]` or `[N]`: standardised values, class indices.
        mask: which labels are known; all if None.
        task: the task of each row, for grouped suites.

    A NaN among a task's predictions makes its error NaN; infinite ones of a regression make it
    infinite.
    """
    check_shapes(pred, y, specs, task)
    runs = pred.shape[: -3 if task is None else -2]
    error = np.zeros((*runs, len(specs)))
    constant, n = np.zeros(len(specs)), np.zeros(len(specs))
    for t, spec in enumerate(specs):
        rows, truth = labels(y, t, mask, task)
        if not len(rows):
            continue
        error[..., t], constant[t] = evaluate_task(
            spec, truth, task_predictions(pred, t, rows, task)
        )
        n[t] = len(rows)
    return Evaluation(tuple(specs), error, constant, n)


def evaluate_task(
    spec: TaskSpec, truth: Float[np.ndarray, "rows"], pred: Float[np.ndarray, "*runs rows outputs"]
) -> tuple[Float[np.ndarray, "*runs"], float]:
    """E of every run and E0, for one task's labelled rows."""
    if spec.metric != "auc":
        return _sum(row_errors(spec, truth, pred)), float(constant_errors(spec, truth).sum())
    positive = truth == 1
    pairs = float(positive.sum() * (~positive).sum())
    if not pairs:
        return np.zeros(pred.shape[:-2]), 0.0
    from scipy import stats  # a second to import, which every worker would wait for

    ranks = stats.rankdata(pred[..., 0], axis=-1)
    n_pos = int(positive.sum())
    right = ranks[..., positive].sum(-1) - n_pos * (n_pos + 1) / 2  # pairs in order, ties half
    return np.asarray(2.0 * (pairs - right)), pairs


def row_errors(
    spec: TaskSpec, truth: Float[np.ndarray, "rows"], pred: Float[np.ndarray, "*runs rows outputs"]
) -> Float[np.ndarray, "*runs rows"]:
    """Squared error (`rmse`) or 0–1 error (`accuracy`) of every row; NaN predictions stay NaN."""
    if spec.metric == "rmse":
        return np.square(pred[..., 0].astype(np.float64) - truth)
    if spec.kind == "binary":
        logits = pred[..., :1]
        found = (logits[..., 0] > 0).astype(np.int64)
    else:
        logits = pred[..., : spec.n_classes]
        found = logits.argmax(-1)
    return np.where(np.isnan(logits).any(-1), np.nan, (found != truth).astype(np.float64))


def delta_m(
    values: Float[np.ndarray, "*runs tasks"],
    independent: Float[np.ndarray, "*seeds tasks"],
    specs: Sequence[TaskSpec],
) -> Float[np.ndarray, "*runs"]:
    """Δm = 100/T Σ_t s_t (M_t − M̄_t)/M̄_t in percent (Maninis 2019; Vandenhende 2021).

    M is RMSE (s = −1), accuracy or AUC (s = +1), never r2 or the score; M̄_t is the mean of the
    independent networks over their seeds, not the run's own start. Tasks without a defined M or
    with M̄_t = 0 are left out of the mean; NaN if none is left. A ratio of noisy RMSEs leans to
    the negative: two equal networks with 20 evaluation rows a task came out at −0.9 in a
    simulation, with 4 rows at −4.7. The score has no such bias, which is why it decides.

    Args:
        values: M of the runs to be compared, as `Evaluation.task_values` gives it.
        independent: M of the independent networks, one row a seed.
    """
    base = independent.reshape(-1, len(specs)).mean(0)
    return np.asarray(nan_mean(100.0 * signs(specs) * divide(values - base, base)))


def signs(specs: Sequence[TaskSpec]) -> Float[np.ndarray, "tasks"]:
    """+1 where a higher M is better, −1 for RMSE."""
    return np.array([-1.0 if s.metric == "rmse" else 1.0 for s in specs])


# --- helpers --------------------------------------------------------------------------------------


def check_shapes(
    pred: np.ndarray, y: np.ndarray, specs: Sequence[TaskSpec], task: np.ndarray | None
) -> None:
    """Raise DataError unless predictions, truth and tasks fit together."""
    want = (len(y), len(specs)) if task is None else (len(y),)
    outputs = max([s.n_classes for s in specs if s.kind == "multiclass"], default=1)
    cells = (len(specs), len(y)) if task is None else (len(y),)
    if y.shape != want or (task is not None and len(task) != len(y)):
        raise DataError(f"The truth should have shape {want}. Found {y.shape}.")
    if pred.shape[-len(cells) - 1 : -1] != cells or pred.shape[-1] < outputs:
        raise DataError(
            f"Predictions should have shape (…, {', '.join(map(str, cells))}, {outputs} or more). "
            f"Found {pred.shape}."
        )


def labels(
    y: np.ndarray, t: int, mask: np.ndarray | None, task: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and truth of task t's labelled rows."""
    if task is None:
        known = np.ones(len(y), dtype=bool) if mask is None else mask[:, t]
        return np.flatnonzero(known), y[known, t].astype(np.float64)
    known = task == t if mask is None else (task == t) & mask
    return np.flatnonzero(known), y[known].astype(np.float64)


def task_predictions(
    pred: np.ndarray, t: int, rows: np.ndarray, task: np.ndarray | None
) -> np.ndarray:
    """Predictions `[…, n, O]` of task t on the given rows."""
    return (pred[..., t, :, :] if task is None else pred)[..., rows, :]


def not_judged(
    y: Truth, specs: Sequence[TaskSpec], *, mask: Mask = None, task: TaskOfRow = None
) -> list[str | None]:
    """For each task why it cannot be judged on these rows; None if it can."""
    reasons = []
    for t, spec in enumerate(specs):
        truth = labels(y, t, mask, task)[1]
        size = judged_size(spec, truth)
        error = size if spec.metric == "auc" else float(constant_errors(spec, truth).sum())
        reasons.append(_why_not(spec, size, error))
    return reasons


def judged_size(spec: TaskSpec, truth: np.ndarray) -> float:
    """What limits a task's test: its rows, for AUC those of the rarer class."""
    if spec.metric == "auc":
        return float(min((truth == 1).sum(), (truth != 1).sum()))
    return float(len(truth))


def _why_not(spec: TaskSpec, size: float, constant_error: float) -> str | None:
    """Why a task cannot be called helped or hurt; None if it can."""
    if spec.metric == "auc" and size == 0:
        return "only one class among its evaluation rows"
    if constant_error <= 0:
        return "the training constant makes no error on its evaluation rows"
    if spec.metric == "auc" and size < MIN_RARER:
        return f"{size:.0f} evaluation rows of the rarer class, {MIN_RARER} are needed"
    if spec.metric != "auc" and size < MIN_ROWS:
        return f"{size:.0f} evaluation rows, {MIN_ROWS} are needed"
    return None


def constant_errors(spec: TaskSpec, truth: np.ndarray) -> np.ndarray:
    """Error of the training constant on each row (`rmse`, `accuracy`)."""
    if spec.metric == "rmse":
        return np.square(truth)
    return (truth != spec.constant).astype(np.float64)


def _sum(x: np.ndarray) -> np.ndarray:
    """Sum over the last axis, to the last bit the same whatever runs are beside a run."""
    return np.asarray(np.ascontiguousarray(x).sum(-1))


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a/b, NaN where b is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, np.divide(a, b), np.nan)


def nan_mean(x: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN if nothing is."""
    n = np.asarray((~np.isnan(x)).sum(-1))
    return divide(np.asarray(np.nansum(x, -1)), n)
