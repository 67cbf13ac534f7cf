"""A small suite, a small space that trains in milliseconds, and finished trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, create_trial

import autometa
from autometa.api import SearchResult
from autometa.tasks import TaskSuite

SPACE = """
parameters:
  backbone.width: {type: categorical, choices: [4, 8]}
  backbone.depth: 2
  backbone.dropout: {type: float, low: 0.0, high: 0.3}
  sharing.kind: {type: categorical, choices: [hard]}
  sharing.split_at: {type: int, low: 1, high: 2, when: {sharing.kind: hard}}
  optimizer.lr: {type: float, low: 1.0e-3, high: 3.0e-2, log: true}
  optimizer.batch_size: 64
"""


def small_suite(seed: int = 0, rows: int = 90) -> TaskSuite:
    """Two related regression targets and a binary one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    common = np.tanh(x @ rng.normal(size=4))
    y = np.stack(
        [common + 0.1 * rng.normal(size=rows), -common + 0.1 * rng.normal(size=rows), common > 0],
        axis=1,
    )
    return TaskSuite.from_arrays(
        x,
        y.astype(float),
        names=["up", "down", "sign"],
        kinds={"up": "regression", "down": "regression", "sign": "binary"},
        name="small",
    )


def run(home: Path, suite: TaskSuite, **options: Any) -> SearchResult:
    """A search of `SPACE` that takes seconds, in this process and without tracking."""
    space = home / "space.yaml"
    home.mkdir(parents=True, exist_ok=True)
    space.write_text(SPACE)
    settings: dict[str, Any] = {
        "n_trials": 10,
        "max_epochs": 4,
        "workers": 0,
        "device": "cpu",
    } | options
    return autometa.search(suite, space=space, home=home, mlflow_tracking_uri="off", **settings)


def finished(number: int, value: float, excess: float | None = None, *cost: float) -> FrozenTrial:
    """A sharing trial with this score, excess over a bound, and cost."""
    trial = create_trial(
        values=[value, *cost],
        user_attrs={"arm": "sharing"},
        system_attrs={} if excess is None else {"constraints:worst_task": excess},
    )
    trial.number = number
    return trial
