"""A planted suite, and a study that is diagnosed without having been searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState, create_trial

from autometa.diagnosis import Diagnosis
from autometa.home import Home
from autometa.searching.executors import InlineExecutor, ScriptSource
from autometa.searching.loop import SearchSettings
from autometa.study import StudyHandle, open_study
from autometa.tasks import TaskSuite
from autometa.tracking import Tracker
from autometa.trial import TrialConfig

NETWORK = {
    "backbone.width": 24,
    "backbone.depth": 2,
    "optimizer.lr": 0.03,
    "optimizer.batch_size": 8,
}
#: one rung only, so that networks count as they are at the end, where the harm is done
STEPS = 297


def planted(order: Sequence[int] = (0, 1, 2), rows: int = 600) -> TaskSuite:
    """Two related targets, a and b, and c: the labels of a permuted. The columns in any order."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8))
    hidden = np.tanh(x @ rng.normal(size=(8, 3)))
    a = hidden @ [1.0, 1.0, -1.0] + 0.1 * rng.normal(size=rows)
    b = hidden @ [1.0, -0.5, -1.0] + 0.1 * rng.normal(size=rows)
    y = np.stack([a, b, rng.permutation(a)], axis=1)[:, list(order)]
    return TaskSuite.from_arrays(
        x,
        y,
        names=["abc"[k] for k in order],
        kinds="regression",
        name="planted",
        splits=np.array(["train", "val", "test"])[np.arange(rows) % 3],
    )


def open_trials(home: Path, suite: TaskSuite, trials: Sequence[Mapping[str, Any]]) -> StudyHandle:
    """A study with finished trials of these configurations, their value falling."""
    handle = open_study(
        Home.find(home), "planted", fingerprint=suite.fingerprint, resume=True, attrs={}
    )
    for place, values in enumerate(trials[len(handle.trials()) :]):
        config = TrialConfig.from_flat({**NETWORK, **values}).flat()
        arm = "independent" if config["sharing.kind"] == "independent" else "sharing"
        attrs = {"arm": arm, "config": config, "seconds": 1.0}
        handle.add(create_trial(state=TrialState.COMPLETE, value=-place / 9, user_attrs=attrs))
    handle.commit()
    return handle


def make(
    handle: StudyHandle, suite: TaskSuite, home: Path, steps: int = STEPS, **options: Any
) -> Diagnosis:
    folder = home / "checkpoints"
    suite.without_test().save(folder / "suite")
    return Diagnosis(
        suite,
        SearchSettings(len(handle.trials()), steps, device="cpu"),
        handle,
        folder=folder,
        tracker=Tracker.open("off", Home.find(home), "planted"),
        notify=lambda step: None,
        **options,
    )


def diagnose(
    home: Path,
    suite: TaskSuite,
    trials: Sequence[Mapping[str, Any]] = ({}, {"sharing.kind": "independent"}),
    steps: int = STEPS,
) -> dict[str, Any]:
    """The diagnosis of a study with these trials; by default full sharing and independent ones."""
    with open_trials(home, suite, trials) as handle:
        source = ScriptSource(make(handle, suite, home, steps).script)
        assert InlineExecutor().run(source)
        assert source.returned is not None
        return source.returned
