"""What scikit-learn reaches on episodes: on the support rows alone, or without adapting at all.

References beside the networks. Features are those the networks get: standardised on the
meta-training rows, categories encoded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from threadpoolctl import threadpool_limits

#: penalties of ridge regressions, chosen by leaving out one row in turn
_ALPHAS = np.logspace(-3, 4, 22)
_ABSENT = -30.0  # log probability of a class without a row

Rows = Float[np.ndarray, "rows features"]
Fit = Callable[[Rows, np.ndarray, Rows], np.ndarray]
"""(x, y, new x) → outputs [new row, output]."""


def support_baselines(
    kind: str,
    is_image: bool,
    ways: int,
    x: Float[np.ndarray, "episodes support *feature"],
    y: Float[np.ndarray, "episodes support"],
    mask: Bool[np.ndarray, "episodes support"],
    new: Float[np.ndarray, "episodes query *feature"],
) -> dict[str, tuple[str, Float[np.ndarray, "episodes query outputs"]]]:
    """Models of each episode's support rows alone: name → words, outputs for its query rows.

    Regression: ridge. Binary: logistic regression. Classes: the nearest support row (Euclidean),
    and logistic regression on tables.
    """
    fits: dict[str, tuple[str, Fit]] = {}
    if kind == "regression":
        fits["ridge"] = ("ridge regression on the support rows", ridge)
    else:
        count = 2 if kind == "binary" else ways
        if kind == "multiclass":
            of = "pixels" if is_image else "features"
            words = f"the nearest support row ({of})"
            fits["nearest"] = (words, lambda a, b, c: nearest(a, b, c, count))
        if not is_image:
            words = "logistic regression on the support rows"
            fits["logistic"] = (words, lambda a, b, c: logistic(a, b, c, count))
    flat, queries = x.reshape(*x.shape[:2], -1), new.reshape(*new.shape[:2], -1)
    out = {}
    with threadpool_limits(limits=1):
        for name, (words, fit) in fits.items():
            parts = [
                fit(flat[e, mask[e]], y[e, mask[e]].astype(np.float64), queries[e])
                for e in range(len(x))
            ]
            out[name] = (words, np.stack(parts).astype(np.float32))
    return out


def pooled_baselines(
    kind: str,
    x: Float[np.ndarray, "rows *feature"],
    y: Float[np.ndarray, "rows"],
    new: Float[np.ndarray, "episodes query *feature"],
    seed: int = 0,
) -> dict[str, tuple[str, Float[np.ndarray, "episodes query outputs"]]]:
    """One model of all meta-training rows, whatever their task, that adapts to none."""
    rows, queries = x.reshape(len(x), -1), new.reshape(-1, int(np.prod(new.shape[2:])))
    truth = y.astype(np.float64)
    if kind == "regression":
        trees = HistGradientBoostingRegressor(random_state=seed % 2**32)
        linear, name = ridge, "ridge"
    else:
        trees = HistGradientBoostingClassifier(random_state=seed % 2**32)
        linear, name = _logistic_of_two, "logistic"
    with threadpool_limits(limits=1):
        found = {f"pooled_{name}": linear(rows, truth, queries)}
        trees.fit(rows, truth)
        boosted = trees.predict(queries) if kind == "regression" else _log_odds(trees, queries)
    found["pooled_trees"] = boosted.reshape(-1, 1)
    words = {
        "pooled_ridge": "one ridge regression of all training tasks, not adapted",
        "pooled_logistic": "one logistic regression of all training tasks, not adapted",
        "pooled_trees": "gradient-boosted trees of all training tasks, not adapted",
    }
    return {
        key: (words[key], out.reshape(*new.shape[:2], 1).astype(np.float32))
        for key, out in found.items()
    }


def ridge(x: Rows, y: np.ndarray, new: Rows) -> np.ndarray:
    """Ridge regression; the mean of fewer than three rows."""
    if len(y) < 3 or np.ptp(y) == 0.0:
        mean = y.mean() if len(y) else 0.0
        return np.full((len(new), 1), mean)
    return RidgeCV(alphas=_ALPHAS).fit(x, y).predict(new).reshape(-1, 1)


def logistic(x: Rows, y: np.ndarray, new: Rows, count: int) -> np.ndarray:
    """Logistic regression: a logit of two classes, log probabilities of more."""
    counts = np.bincount(y.astype(int), minlength=count)
    present = np.flatnonzero(counts)
    if len(present) < 2:
        smooth = np.log((counts + 0.5) / (counts + 0.5).sum())
        log_p = np.tile(smooth, (len(new), 1))
    else:
        model = LogisticRegression(max_iter=1000).fit(x, y.astype(int))
        log_p = np.full((len(new), count), _ABSENT)
        log_p[:, present] = np.maximum(model.predict_log_proba(new), _ABSENT)
    return log_p[:, 1:] - log_p[:, :1] if count == 2 else log_p


def nearest(x: Rows, y: np.ndarray, new: Rows, count: int) -> np.ndarray:
    """Minus the squared distance to the nearest row of each class; −∞ for a class without one."""
    apart = np.square(new).sum(1)[:, None] - 2.0 * new @ x.T + np.square(x).sum(1)[None]
    out = np.full((len(new), count), -np.inf)
    for label in np.unique(y.astype(int)):
        out[:, label] = -apart[:, y == label].min(1)
    return out


def _logistic_of_two(x: Rows, y: np.ndarray, new: Rows) -> np.ndarray:
    return logistic(x, y, new, 2)


def _log_odds(model: HistGradientBoostingClassifier, new: Rows) -> np.ndarray:
    p = np.clip(model.predict_proba(new), np.exp(_ABSENT), 1.0)
    return np.log(p[:, 1]) - np.log(p[:, 0])
