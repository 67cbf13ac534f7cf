"""A fitted peer: its estimators, and the plain facts that turn their outputs into predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from autometa.errors import DataError
from autometa.metrics import TaskSpec

_ABSENT = -30.0
"""Log probability of a class that the estimator has never seen, and the lowest of any other."""


@dataclass(frozen=True)
class Part:
    """Some tasks of a peer, and what predicts them.

    Attributes:
        tasks: which tasks; column k of the estimator's output is `tasks[k]`, unless it is pooled.
        estimator: key of the estimator; None where a constant predicts.
        constant: where there is no estimator: one channel each, as predictions have them.
        added: columns that tell a pooled estimator the row's task, beside the features:
            `{"one_hot": scale}`, or `{"table": rows}` with one row a task. None if not pooled: one
            column a task then.
        codes: of pooled classes: task → class index → the estimator's label. Tasks of one suite
            may have different classes, and their numbers mean nothing to each other.
    """

    tasks: tuple[int, ...]
    estimator: str | None = None
    constant: tuple[float, ...] = ()
    added: dict[str, Any] | None = None
    codes: tuple[tuple[int, ...], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Part:
        codes = data["codes"]
        return cls(
            tasks=tuple(data["tasks"]),
            estimator=data["estimator"],
            constant=tuple(data["constant"]),
            added=data["added"],
            codes=None if codes is None else tuple(tuple(some) for some in codes),
        )


@final
@dataclass(frozen=True, eq=False)
class FittedPeer:
    """A peer after fitting: everything that is needed to predict, without the suite.

    Attributes:
        name, words: of the peer, and how a verdict calls it.
        setting: plain JSON, one of the peer's settings.
        specs: the tasks.
        layout: `aligned` or `grouped`.
        features: number of features of a (flattened) row.
        parts: which estimator predicts which tasks; every task is in one of them.
        estimators: plain scikit-learn estimators, fitted.
    """

    name: str
    words: str
    setting: dict[str, Any]
    specs: tuple[TaskSpec, ...]
    layout: str
    features: int
    parts: tuple[Part, ...]
    estimators: dict[str, Any]

    def predict(
        self,
        x: Float[np.ndarray, "rows *feature"],
        task: Int[np.ndarray, "rows"] | None = None,
        *,
        threads: int = 1,
    ) -> Float[np.ndarray, "..."]:
        """Predictions for rows that are encoded like the suite's.

        Args:
            x: `[N, D]` or images `[N, C, H, W]`, which are flattened.
            task: the task of each row if grouped, None if aligned.
            threads: to be used at most.

        Returns:
            `[T, N, O]` aligned, `[N, O]` grouped, float32, as networks predict: standardised
            values, logits of binary tasks, log probabilities of classes; −inf in the channels
            beyond a task's classes.

        Raises:
            DataError: a task array that does not fit the layout, or another number of features.
        """
        flat = np.asarray(x, dtype=np.float32).reshape(len(x), -1)
        if (task is None) != (self.layout == "aligned"):
            wanted = "left out" if self.layout == "aligned" else "the task of each row"
            raise DataError(f"Parameter `task` should be {wanted} for {self.layout} tasks.")
        if flat.shape[1] != self.features:
            raise DataError(
                f"Parameter `x` should have {self.features} features. Found {flat.shape[1]}."
            )
        outputs = max([s.n_classes for s in self.specs if s.kind == "multiclass"], default=1)
        shape = (len(x), outputs) if task is not None else (len(self.specs), len(x), outputs)
        out = np.full(shape, -np.inf, dtype=np.float32)
        with threadpool_limits(limits=threads):
            for part in self.parts:
                estimator = None if part.estimator is None else self.estimators[part.estimator]
                if task is None:
                    for t, found in zip(
                        part.tasks, _columns(part, estimator, flat, self.specs), strict=True
                    ):
                        out[t, :, : found.shape[1]] = found
                else:
                    self._predict_grouped(part, estimator, flat, task, out)
        return out

    def _predict_grouped(
        self, part: Part, estimator: Any, x: np.ndarray, task: np.ndarray, out: np.ndarray
    ) -> None:
        rows = np.flatnonzero(np.isin(task, part.tasks))
        if not len(rows):
            return
        if part.added is None:  # one task: where rows belong to one task there is no second column
            (found,) = _columns(part, estimator, x[rows], self.specs)
            out[rows, : found.shape[1]] = found
            return
        table = with_task(x[rows], task[rows], part.added, len(self.specs))
        if part.codes is None:
            out[rows, 0] = estimator.predict(table)
            return
        log_p = _log_proba(estimator.predict_proba(table), estimator.classes_, _most(part) + 1)
        for t in np.unique(task[rows]):
            mine = task[rows] == t
            some = log_p[mine][:, part.codes[t]]
            some = some - _log_sum_exp(some)
            found = _channels(self.specs[t], some)
            out[rows[mine], : found.shape[1]] = found

    def to_json(self) -> dict[str, Any]:
        """Everything beside the estimators, as plain JSON."""
        return {
            "name": self.name,
            "words": self.words,
            "setting": self.setting,
            "specs": [asdict(spec) for spec in self.specs],
            "layout": self.layout,
            "features": self.features,
            "parts": [part.to_json() for part in self.parts],
        }

    @classmethod
    def from_parts(cls, facts: Mapping[str, Any], estimators: Mapping[str, Any]) -> FittedPeer:
        """Inverse of `to_json`, with the estimators beside it.

        Raises:
            DataError: the facts name an estimator that is not there, or are not those of a peer.
        """
        try:
            parts = tuple(Part.from_json(part) for part in facts["parts"])
            found = cls(
                name=facts["name"],
                words=facts["words"],
                setting=dict(facts["setting"]),
                specs=tuple(TaskSpec(**spec) for spec in facts["specs"]),
                layout=facts["layout"],
                features=int(facts["features"]),
                parts=parts,
                estimators=dict(estimators),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"These are not the facts of a fitted peer ({exc}).") from None
        for part in parts:
            if part.estimator is not None and part.estimator not in estimators:
                raise DataError(f"The fitted peer's estimator `{part.estimator}` is missing.")
        return found


def with_task(
    x: Float[np.ndarray, "rows features"],
    task: Int[np.ndarray, "rows"],
    added: Mapping[str, Any],
    n_tasks: int,
) -> Float[np.ndarray, "rows more"]:
    """Features of a pooled estimator: those of the row, then what tells its task."""
    if "one_hot" in added:
        scale = np.float32(added["one_hot"])
        table = scale * np.eye(n_tasks, dtype=np.float32)
    else:
        table = np.asarray(added["table"], dtype=np.float32)
    return np.concatenate([x.astype(np.float32, copy=False), table[task]], axis=1)


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Log of smoothed class frequencies, for a task of a single class."""
    return np.asarray(np.log((counts + 0.5) / (counts + 0.5).sum()))


def constant_channels(spec: TaskSpec, truth: np.ndarray) -> tuple[float, ...]:
    """What is predicted without features: the mean, or the smoothed frequencies."""
    if spec.kind == "regression":
        return (float(truth.mean()),)
    counts = np.bincount(truth.astype(int), minlength=spec.n_classes)
    return tuple(float(c) for c in _channels(spec, frequencies(counts)[None])[0])


def _columns(
    part: Part, estimator: Any, x: np.ndarray, specs: Sequence[TaskSpec]
) -> list[np.ndarray]:
    """Channels `[rows, C]` of every task of a part, where each has a column of its own."""
    if estimator is None:
        return [np.tile(np.array(part.constant), (len(x), 1))] * len(part.tasks)
    if not len(x):
        widths = [s.n_classes if s.kind == "multiclass" else 1 for s in specs]
        return [np.empty((0, widths[t])) for t in part.tasks]
    if specs[part.tasks[0]].kind == "regression":
        found = np.asarray(estimator.predict(x)).reshape(len(x), len(part.tasks))
        return [found[:, k : k + 1] for k in range(len(part.tasks))]
    proba, classes = estimator.predict_proba(x), estimator.classes_
    if not isinstance(proba, list):
        proba, classes = [proba], [classes]
    return [
        _channels(specs[t], _log_proba(p, c, specs[t].n_classes))
        for t, p, c in zip(part.tasks, proba, classes, strict=True)
    ]


def _log_proba(proba: np.ndarray, classes: np.ndarray, n: int) -> np.ndarray:
    """Log probabilities `[rows, n]` of all labels, those that were never seen included."""
    out = np.full((len(proba), n), _ABSENT)
    out[:, np.asarray(classes).astype(int)] = np.log(np.maximum(proba, np.exp(_ABSENT)))
    return out


def _channels(spec: TaskSpec, log_proba: np.ndarray) -> np.ndarray:
    """A logit of two classes, log probabilities of more."""
    return log_proba[:, 1:] - log_proba[:, :1] if spec.kind == "binary" else log_proba


def _most(part: Part) -> int:
    return max(code for some in part.codes or () for code in some)


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    largest = x.max(1, keepdims=True)
    return np.asarray(largest + np.log(np.exp(x - largest).sum(1, keepdims=True)))
