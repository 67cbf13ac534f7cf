"""What a search tells the tracker, and where it says that it does."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autometa import api
from autometa.api.logged import log_start
from autometa.home import Home
from autometa.searching.settings import SearchSettings
from autometa.space import Space
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tasks.episodes import EpisodeShape
from autometa.tracking import NullTracker, default_uri, task_key
from tests.episodic import grouped
from tests.searching.support import SPACE, small_suite

NAMES = [".", "pH (water)", "plain", 'a "quoted", one']


class Spy(NullTracker):
    def search_started(self, *args: Any) -> None:
        self.params, self.tags, _, _, _, _, self.texts = args


def named_suite() -> TaskSuite:
    rng = np.random.default_rng(0)
    return TaskSuite.from_arrays(rng.normal(size=(60, 3)), rng.normal(size=(60, 4)), names=NAMES)


def started(suite: TaskSuite | EpisodicSuite) -> Spy:
    spy = Spy()
    space = Space.from_yaml(SPACE)
    log_start(spy, suite, space, SearchSettings(n_trials=2, max_steps=4), {}, None)
    return spy


def test_a_table_and_tags_say_which_task_a_metric_is_of() -> None:
    spy = started(named_suite())
    head, *rows = csv.reader(io.StringIO(spy.texts["tasks.csv"]))
    assert head == ["metric", "task", "kind", "measured by"]
    assert [row[1] for row in rows] == NAMES
    assert [row[0] for row in rows] == [f"task/{task_key(name)}" for name in NAMES]
    assert {tuple(row[2:]) for row in rows} == {("regression", "rmse")}
    tags = {key: value for key, value in spy.tags.items() if key.startswith("task/")}
    assert tags == {f"task/{task_key(n)}": n for n in NAMES if n != "plain"}


def test_in_episodes_too() -> None:
    suite = EpisodicSuite.from_suite(grouped(), EpisodeShape(shots=4, queries=3))
    _, *rows = csv.reader(io.StringIO(started(suite).texts["tasks.csv"]))
    assert [row[1] for row in rows] == list(suite.task_names)


@pytest.mark.usefixtures("short_judgement")
def test_where_runs_go_is_said_once_if_the_environment_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = default_uri(Home(tmp_path / "tracking"))
    told: list[str] = []
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    options: dict[str, Any] = {
        "space": space, "n_trials": 2, "max_epochs": 2, "workers": 0, "diagnose": False,
        "home": tmp_path / "home", "progress": lambda step: told.append(step.message or ""),
    }  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = api.search(small_suite(), **options)
    assert result.mlflow is not None
    assert result.mlflow["tracking_uri"] == uri
    assert [text for text in told if "$MLFLOW_TRACKING_URI" in text] == [
        f"Runs are written to {uri}, as $MLFLOW_TRACKING_URI says."
    ]
    told.clear()
    api.search(small_suite(), mlflow_tracking_uri="off", **options)
    assert not any("MLFLOW_TRACKING_URI" in text for text in told)
