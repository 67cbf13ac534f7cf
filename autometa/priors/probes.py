"""What a suite is like, in numbers that cost seconds and need no search.

Sizes and kinds of its tasks; how they correlate; what a linear model and one tree reach on the
validation rows (*landmarks*: Pfahringer et al. 2000); and whether the tasks' gradients agree in the
first steps of a shared network, which is what sharing lives on. Suites with near probes are
expected to be alike in what is good for them. The test rows are never looked at.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from autometa.errors import UserError
from autometa.metrics import labels
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.training.affinity import shared_trunk, task_affinity
from autometa.training.budget import epochs_in_steps
from autometa.trial import TrialConfig

PROBES = (
    "rows", "rows_per_task", "tasks", "features", "image", "grouped", "regression", "binary",
    "multiclass", "classes", "labelled", "imbalance", "correlation", "noise", "ridge", "tree",
    "pooling", "agreement", "disagreement", "shots", "ways",
)  # fmt: skip
"""Names, in the order of `vector`:

`rows`, `rows_per_task`, `tasks`, `features`, `classes`, `shots`, `ways`: log10 of the labelled
training rows, of their mean over tasks, of the tasks, input values, mean classes of a
classification task, support rows and classes of an episode; `image`, `grouped`: 0 or 1;
`regression`, `binary`, `multiclass`: parts of the tasks; `labelled`: part of the labels that is
there; `imbalance`: 1 − entropy of the classes / log C, mean over tasks; `correlation`: mean |r| of
targets of the same rows; `noise`: part of the variance that ridge regression leaves on training
rows left out one at a time; `ridge`, `tree`: 1 − squared error / variance on validation rows;
`pooling`: what one ridge regression of all tasks of a grouped suite reaches beyond one a task;
`agreement`, `disagreement`: mean and deviation of the cosines between tasks' gradients.
Classes are regressed on as "the most frequent one or not"."""

MAX_ROWS = 2000
"""Rows that models are fitted to and scored on."""
MAX_TASKS = 20
MAX_FEATURES = 200
EPOCHS = 2
"""Passes over the training rows while gradients are watched, in batches of 64."""


def measure(suite: TaskSuite | EpisodicSuite, seed: int = 0) -> dict[str, float]:
    """All probes; NaN for what the suite has not, such as the correlation of a single target.

    Of suites in episodes sizes and kinds only.
    """
    found = dict.fromkeys(PROBES, math.nan) | _sizes(suite)
    if isinstance(suite, EpisodicSuite):
        found["shots"] = math.log10(suite.shape.shots)
        found["ways"] = math.log10(suite.shape.ways or 1)
        return found
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ill-conditioned columns are part of the data
        found |= _labels(suite) | _landmarks(suite, np.random.default_rng(seed))
    return found | _gradients(suite, seed)


def vector(probes: dict[str, float | None]) -> list[float]:
    """[probe] in the order of `PROBES`; NaN for those that are missing."""
    values = (probes.get(name) for name in PROBES)
    return [math.nan if value is None else float(value) for value in values]


def _sizes(suite: TaskSuite | EpisodicSuite) -> dict[str, float]:
    kinds = suite.kinds
    rows = suite.counts["train"]
    n = suite.n_tasks
    return {
        "rows": math.log10(max(rows, 1)),
        "rows_per_task": math.log10(max(rows / n if suite.layout == "grouped" else rows, 1)),
        "tasks": math.log10(n),
        "features": math.log10(math.prod(suite.feature_shape)),
        "image": float(suite.is_image),
        "grouped": float(suite.layout == "grouped"),
        **{k: kinds.count(k) / len(kinds) for k in ("regression", "binary", "multiclass")},
    }


def _labels(suite: TaskSuite) -> dict[str, float]:
    rows = suite.rows("train")
    y, mask = rows.y.numpy(), rows.mask.numpy()
    task = None if rows.task is None else rows.task.numpy()
    counts = [max(len(t.classes), 2) for t in suite.tasks if t.kind != "regression"]
    uneven = []
    for k, spec in enumerate(suite.tasks):
        truth = labels(y, k, mask, task)[1]
        if spec.kind != "regression" and len(truth):
            share = np.bincount(truth.astype(int)) / len(truth)
            share = share[share > 0]
            uneven.append(1 + float(share @ np.log(share)) / math.log(max(len(spec.classes), 2)))
    return {
        "classes": math.log10(np.mean(counts)) if counts else math.nan,
        "labelled": float(mask.mean()),
        "imbalance": float(np.mean(uneven)) if uneven else math.nan,
        "correlation": _correlation(y, mask, suite.kinds) if task is None else math.nan,
    }


def _correlation(y: np.ndarray, mask: np.ndarray, kinds: Sequence[str]) -> float:
    """Mean |r| over pairs of targets that are numbers or two classes, with 3 rows in common."""
    columns = [k for k, kind in enumerate(kinds) if kind != "multiclass"][:MAX_TASKS]
    found = []
    for i, a in enumerate(columns):
        for b in columns[:i]:
            both = mask[:, a] & mask[:, b]
            pair = y[both][:, [a, b]].astype(float)
            if len(pair) >= 3 and pair.std(0).min() > 0:
                found.append(abs(np.corrcoef(pair.T)[0, 1]))
    return float(np.mean(found)) if found else math.nan


def _landmarks(suite: TaskSuite, rng: np.random.Generator) -> dict[str, float]:
    train, val = suite.rows("train"), suite.rows("val")
    n_features = math.prod(suite.feature_shape)
    kept = np.sort(rng.permutation(n_features)[:MAX_FEATURES])
    at = [part.x.numpy().reshape(len(part.x), -1)[:, kept] for part in (train, val)]
    tasks = np.sort(rng.permutation(suite.n_tasks)[:MAX_TASKS])
    # error and variance over all tasks: of ridge, a tree, ridge left out, one ridge of all
    error, total, left, within = np.zeros(3), 0.0, 0.0, 0.0
    pooled: list[tuple[np.ndarray, ...]] = []
    for task in tasks:
        parts = []
        for part, x in zip((train, val), at, strict=True):
            numbers = None if part.task is None else part.task.numpy()
            rows, truth = labels(part.y.numpy(), int(task), part.mask.numpy(), numbers)
            chosen = rng.permutation(len(rows))[: max(MAX_ROWS // len(tasks), 50)]
            parts.append((x[rows[chosen]].astype(float), truth[chosen]))
        (x, y), (new, truth) = parts
        if suite.tasks[task].kind != "regression" and len(y):
            common = np.bincount(y.astype(int)).argmax()
            y, truth = (y == common).astype(float), (truth == common).astype(float)
        if len(y) < 5 or not len(truth) or np.ptp(y) == 0:
            continue
        ridge = RidgeCV(np.logspace(-2, 4, 7)).fit(x, y)
        tree = DecisionTreeRegressor(max_depth=8, min_samples_leaf=5, random_state=0).fit(x, y)
        spread = float(y.var())
        left, within = left - ridge.best_score_ / spread, within + 1
        total += float(((truth - y.mean()) ** 2).sum()) / spread
        for k, model in enumerate((ridge, tree)):
            error[k] += float(((truth - model.predict(new)) ** 2).sum()) / spread
        pooled.append((x, y, new, truth, np.full(len(y), spread)))
    if not within or total == 0:
        return {}
    reached = 1 - error / total
    out = {"noise": left / within, "ridge": float(reached[0]), "tree": float(reached[1])}
    if suite.is_grouped and len(pooled) > 1:
        x, y = (np.concatenate([p[k] for p in pooled]) for k in (0, 1))
        one = RidgeCV(np.logspace(-2, 4, 7)).fit(x, y)
        off = sum(float(((p[3] - one.predict(p[2])) ** 2).sum()) / p[4][0] for p in pooled)
        out["pooling"] = 1 - off / total - out["ridge"]
    return {name: float(np.clip(value, -2, 2)) for name, value in out.items()}


def _gradients(suite: TaskSuite, seed: int) -> dict[str, float]:
    if suite.n_tasks < 2:
        return {}
    few = _few_rows(suite, seed)
    config = shared_trunk(few)
    for slower in (1, 10):
        values = {**config.flat(), "optimizer.lr": config.optimizer.lr / slower}
        try:
            found = task_affinity(
                few,
                TrialConfig.from_flat(values),
                max_steps=epochs_in_steps(few, EPOCHS, config.optimizer),
                spans=EPOCHS,
                seed=seed,
                lookahead=False,
                device=torch.device("cpu"),
            )
        except UserError:  # it diverged, and the rate is not the user's
            continue
        pairs = found.cosine[:, ~np.eye(len(found.tasks), dtype=bool)]
        pairs = pairs[~np.isnan(pairs)]
        if len(pairs):
            return {"agreement": float(pairs.mean()), "disagreement": float(pairs.std())}
    return {}


def _few_rows(suite: TaskSuite, seed: int) -> TaskSuite:
    """At most `MAX_ROWS` training rows, some of every task."""
    train = torch.nonzero(suite.split == 0).squeeze(1)
    order = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))]
    if suite.task is None:
        kept = order[:MAX_ROWS]
    else:
        each = max(MAX_ROWS // suite.n_tasks, 8)
        own = suite.task[order]
        kept = torch.cat([order[own == t][:each] for t in range(suite.n_tasks)])
    return dataclasses.replace(
        suite,
        x=suite.x[kept],
        y=suite.y[kept],
        mask=suite.mask[kept],
        task=None if suite.task is None else suite.task[kept],
        split=suite.split[kept],
        _test=None,
    )
