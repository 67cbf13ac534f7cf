"""Light tuning of a peer on the validation rows, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from autometa.baselines.fitted import FittedPeer
from autometa.baselines.registry import find_peer
from autometa.errors import DataError
from autometa.metrics import TaskSpec, evaluate
from autometa.tasks import Rows, TaskSuite


@dataclass(frozen=True, eq=False)
class TunedPeer:
    """A peer with the best of the settings that were tried.

    Attributes:
        name, words: of the peer, and how a verdict calls it.
        setting: the best on validation; of equals the one tried first.
        value: its score on the validation rows.
        tried: number of settings.
        seconds: of all of them.
        fitted: on the training rows; with folds, on the validation rows, too.
        outputs: what it predicts for the validation rows; with folds, for training and validation
            rows, each by a fit that has not seen it.
    """

    name: str
    words: str
    setting: dict[str, Any]
    value: float
    tried: int
    seconds: float
    fitted: FittedPeer
    outputs: np.ndarray


def tune(
    name: str,
    suite: TaskSuite,
    *,
    seed: int,
    seconds: float | None,
    threads: int = 1,
    fold: Int64[Tensor, " row"] | None = None,
) -> TunedPeer:
    """Fit a peer's settings in turn and keep the one with the highest score on validation.

    Args:
        name: one of `PEERS`.
        suite: its test rows are not read; it may have none.
        seconds: a setting is not begun when it would end later than this if it took as long as
            the slowest so far; the first is always tried. None: all are tried.
        fold: of each training and validation row, for cross-validation; None: the suite's own
            validation rows are used.

    Raises:
        DataError: no such peer, it does not apply to the suite, a task has no labelled training
            row, or no task can be judged on the validation rows.
    """
    peer = find_peer(name)
    if reason := peer.applies(suite):
        raise DataError(f"Peer `{name}` cannot be fitted to suite `{suite.name}`. {reason}")
    started = time.perf_counter()
    open_rows = suite.merged().rows("train")
    rows = suite.rows("val") if fold is None else open_rows
    best: tuple[float, FittedPeer, np.ndarray] | None = None
    tried, slowest = 0, 0.0
    for setting in peer.settings(suite):
        began = time.perf_counter()
        if seconds is not None and tried and began - started + slowest > seconds:
            break
        if fold is None:
            fitted = peer.fit(suite, setting, seed=seed, threads=threads)
            outputs = _predict(fitted, rows, threads)
        else:
            fitted, outputs = _cross_validated(
                partial(peer.fit, suite, setting, seed=seed, threads=threads),
                open_rows,
                fold,
                threads,
            )
        value = _value(outputs, rows, fitted.specs)
        if not np.isnan(value) and (best is None or value > best[0]):
            best = value, fitted, outputs
        tried += 1
        slowest = max(slowest, time.perf_counter() - began)
    if best is None:
        raise DataError(f"No task of suite `{suite.name}` can be judged on its validation rows.")
    value, fitted, outputs = best
    if fold is not None:
        fitted = peer.fit(suite, fitted.setting, seed=seed, rows=open_rows, threads=threads)
    return TunedPeer(
        name=name,
        words=fitted.words,
        setting=fitted.setting,
        value=value,
        tried=tried,
        seconds=time.perf_counter() - started,
        fitted=fitted,
        outputs=outputs,
    )


def _cross_validated(
    fit: Callable[..., FittedPeer], rows: Rows, fold: Int64[Tensor, " row"], threads: int
) -> tuple[FittedPeer, np.ndarray]:
    """The last fit, and what is predicted for each row by a fit that has not seen it."""
    parts = []
    for one in range(int(fold.max()) + 1):
        fitted = fit(rows=rows.take(fold != one))
        parts.append(_predict(fitted, rows.take(fold == one), threads))
    place = torch.argsort(torch.argsort(fold, stable=True))  # of each row among those of the folds
    return fitted, np.concatenate(parts, -2)[..., place.numpy(), :]


def _predict(fitted: FittedPeer, rows: Rows, threads: int) -> np.ndarray:
    task = None if rows.task is None else rows.task.numpy()
    return fitted.predict(rows.x.numpy(), task, threads=threads)


def _value(outputs: np.ndarray, rows: Rows, specs: tuple[TaskSpec, ...]) -> float:
    task = None if rows.task is None else rows.task.numpy()
    found = evaluate(outputs, rows.y.numpy(), specs, mask=rows.mask.numpy(), task=task)
    return float(found.value())
