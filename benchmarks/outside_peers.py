"""What people try before a network: six methods of three libraries, tuned on validation rows.

Written against the libraries alone, not against the package's own baselines, so that the benchmark
does not judge the package by itself. Every method tries its settings on the training rows, keeps
the best on the validation rows, and is fitted again on both.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from autometa.metrics import TaskSpec, evaluate
from autometa.tasks import Rows, TaskSuite

#: log odds beyond this say no more
_SURE = 30.0
#: seconds after which a method tries no further setting
SECONDS = 240.0

Fit = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True)
class Found:
    """What a method reaches: its setting, its score on validation, outputs on the test rows."""

    setting: dict[str, Any]
    value: float
    outputs: np.ndarray
    seconds: float
    tried: int


def _ridge(kind: str, setting: dict[str, Any]) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    if kind == "regression":
        return Ridge(alpha=setting["alpha"])
    return LogisticRegression(C=1.0 / setting["alpha"], max_iter=500)


def _forest(extra: bool) -> Fit:
    def make(kind: str, setting: dict[str, Any]) -> Any:
        from sklearn import ensemble

        name = ("ExtraTrees" if extra else "RandomForest") + (
            "Regressor" if kind == "regression" else "Classifier"
        )
        return getattr(ensemble, name)(300, random_state=0, **setting)

    return make


def _hist(kind: str, setting: dict[str, Any]) -> Any:
    from sklearn import ensemble

    name = "Regressor" if kind == "regression" else "Classifier"
    return getattr(ensemble, f"HistGradientBoosting{name}")(
        early_stopping=False, random_state=0, **setting
    )


def _lightgbm(kind: str, setting: dict[str, Any]) -> Any:
    import lightgbm

    model = lightgbm.LGBMRegressor if kind == "regression" else lightgbm.LGBMClassifier
    return model(n_jobs=1, verbose=-1, random_state=0, subsample=0.8, subsample_freq=1, **setting)


def _catboost(kind: str, setting: dict[str, Any]) -> Any:
    import catboost

    model = catboost.CatBoostRegressor if kind == "regression" else catboost.CatBoostClassifier
    return model(thread_count=1, verbose=False, random_seed=0, allow_writing_files=False, **setting)


#: method → how a model is made, and its settings
METHODS: dict[str, tuple[Fit, list[dict[str, Any]]]] = {
    "ridge": (_ridge, [{"alpha": a} for a in (1.0, 0.1, 10.0, 100.0, 1000.0)]),
    "extra_trees": (
        _forest(True),
        [{"min_samples_leaf": leaf, "max_features": f} for f in (1.0, 0.33) for leaf in (1, 3, 10)],
    ),
    "random_forest": (
        _forest(False),
        [{"min_samples_leaf": leaf, "max_features": f} for f in (0.33, 1.0) for leaf in (1, 3, 10)],
    ),
    "hist_boosting": (
        _hist,
        [
            {"learning_rate": rate, "max_iter": trees, "max_leaf_nodes": leaves}
            for rate, trees in ((0.05, 100), (0.05, 300), (0.1, 300))
            for leaves in (8, 31)
        ],
    ),
    "lightgbm": (
        _lightgbm,
        [
            {"learning_rate": rate, "n_estimators": trees, "num_leaves": leaves}
            for rate, trees in ((0.05, 100), (0.05, 300), (0.1, 300))
            for leaves in (8, 31)
        ],
    ),
    "catboost": (
        _catboost,
        [{"iterations": 300, "depth": depth} for depth in (4, 6)]
        + [{"iterations": 1000, "depth": 6}],
    ),
}


def find(name: str, suite: TaskSuite, specs: tuple[TaskSpec, ...], test: Rows) -> Found:
    """Tune a method on a suite and predict its test rows.

    On grouped suites every setting is tried with one model of all rows, the task among the
    features, and, up to 40 tasks, with one model a task; on aligned ones with one a target.
    """
    make, settings = METHODS[name]
    began = time.monotonic()
    train, val = suite.rows("train"), suite.rows("val")
    shapes = ("each",) if train.task is None else ("pooled", "each")
    if train.task is not None and suite.n_tasks > 40 and name != "ridge":
        shapes = ("pooled",)
    best: tuple[float, dict[str, Any], str] = (-np.inf, {}, "")
    tried = 0
    for setting in settings:
        for shape in shapes:
            if tried and time.monotonic() - began > SECONDS:
                break
            found = _outputs(make, setting, shape, suite, train, val)
            value = float(
                evaluate(
                    found, val.y.numpy(), specs, mask=val.mask.numpy(), task=_numpy(val.task)
                ).value()
            )
            tried += 1
            if value > best[0]:
                best = (value, setting, shape)
    merged = suite.merged().rows("train")
    outputs = _outputs(make, best[1], best[2], suite, merged, test)
    chosen = {**best[1], "models": best[2]}
    return Found(chosen, best[0], outputs, time.monotonic() - began, tried)


def _outputs(
    make: Fit, setting: dict[str, Any], shape: str, suite: TaskSuite, train: Rows, new: Rows
) -> np.ndarray:
    """Outputs as networks give them: standardised values, log odds, log probabilities."""
    width = max(task.n_outputs for task in suite.tasks)
    x, fresh = (rows.x.numpy().reshape(len(rows.x), -1) for rows in (train, new))
    y, mask = train.y.numpy(), train.mask.numpy()
    if train.task is None:
        out = np.full((suite.n_tasks, len(fresh), width), -np.inf, np.float32)
        for t, task in enumerate(suite.tasks):
            known = mask[:, t]
            _put(out[t], task.kind, make, setting, x[known], y[known, t], fresh)
        return out
    of, at = train.task.numpy(), new.task.numpy()  # type: ignore[union-attr]  # grouped
    out = np.full((len(fresh), width), -np.inf, np.float32)
    kind = suite.tasks[0].kind
    if shape == "pooled":
        mean = np.array([y[mask & (of == t)].mean() for t in range(suite.n_tasks)])
        eye = np.eye(suite.n_tasks, dtype=np.float32)
        rows, fresh = (np.c_[a, eye[b], mean[b]] for a, b in ((x, of), (fresh, at)))
        _put(out, kind, make, setting, rows[mask], y[mask], fresh)
        return out
    for t in range(suite.n_tasks):
        known, wanted = mask & (of == t), np.flatnonzero(at == t)
        if len(wanted):
            part = out[wanted]
            _put(part, kind, make, setting, x[known], y[known], fresh[wanted])
            out[wanted] = part
    return out


def _put(
    out: np.ndarray,
    kind: str,
    make: Fit,
    setting: dict[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    new: np.ndarray,
) -> None:
    """Fit one model and write its outputs for new rows [row, output]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "regression":
            out[:, 0] = make(kind, setting).fit(x, y).predict(new)
            return
        classes = np.unique(y.astype(int))
        if len(classes) == 1:
            shares = np.ones((len(new), 1))
        else:
            shares = make(kind, setting).fit(x, y.astype(int)).predict_proba(new)
    logs = np.log(np.maximum(shares, np.exp(-_SURE)))
    if kind == "binary":
        full = np.full((len(new), 2), -_SURE)
        full[:, classes] = logs
        out[:, 0] = full[:, 1] - full[:, 0]
        return
    out[:, :] = np.where(np.isneginf(out), -_SURE, out)
    out[:, classes] = logs


def _numpy(values: Any) -> np.ndarray | None:
    return None if values is None else values.numpy()
