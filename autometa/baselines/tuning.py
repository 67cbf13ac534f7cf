"""Light tuning of a peer on the validation rows, within a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from autometa.baselines.fitted import FittedPeer
from autometa.baselines.registry import find_peer
from autometa.errors import DataError
from autometa.metrics import evaluate
from autometa.tasks import TaskSuite


@dataclass(frozen=True, eq=False)
class TunedPeer:
    """A peer with the best of the settings that were tried.

    Attributes:
        name, words: of the peer, and how a verdict calls it.
        setting: the best on validation; of equals the one tried first.
        value: its score on the validation rows.
        tried: number of settings.
        seconds: of all of them.
        fitted: on the training rows.
    """

    name: str
    words: str
    setting: dict[str, Any]
    value: float
    tried: int
    seconds: float
    fitted: FittedPeer


def tune(
    name: str, suite: TaskSuite, *, seed: int, seconds: float | None, threads: int = 1
) -> TunedPeer:
    """Fit a peer's settings in turn and keep the one with the highest score on validation.

    Args:
        name: one of `PEERS`.
        suite: its test rows are not read; it may have none.
        seconds: a setting is not begun when it would end later than this if it took as long as
            the slowest so far; the first is always tried. None: all are tried.

    Raises:
        DataError: no such peer, it does not apply to the suite, a task has no labelled training
            row, or no task can be judged on the validation rows.
    """
    peer = find_peer(name)
    if reason := peer.applies(suite):
        raise DataError(f"Peer `{name}` cannot be fitted to suite `{suite.name}`. {reason}")
    started = time.perf_counter()
    best: tuple[float, FittedPeer] | None = None
    tried, slowest = 0, 0.0
    for setting in peer.settings(suite):
        began = time.perf_counter()
        if seconds is not None and tried and began - started + slowest > seconds:
            break
        fitted = peer.fit(suite, setting, seed=seed, threads=threads)
        value = _validation(fitted, suite, threads)
        if not np.isnan(value) and (best is None or value > best[0]):
            best = value, fitted
        tried += 1
        slowest = max(slowest, time.perf_counter() - began)
    if best is None:
        raise DataError(f"No task of suite `{suite.name}` can be judged on its validation rows.")
    value, fitted = best
    return TunedPeer(
        name=name,
        words=fitted.words,
        setting=fitted.setting,
        value=value,
        tried=tried,
        seconds=time.perf_counter() - started,
        fitted=fitted,
    )


def _validation(fitted: FittedPeer, suite: TaskSuite, threads: int) -> float:
    rows = suite.rows("val")
    task = None if rows.task is None else rows.task.numpy()
    found = evaluate(
        fitted.predict(rows.x.numpy(), task, threads=threads),
        rows.y.numpy(),
        fitted.specs,
        mask=rows.mask.numpy(),
        task=task,
    )
    return float(found.value())
