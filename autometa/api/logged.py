"""What a search tells the tracker when it starts and when it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from autometa.api.episodic import EPISODES, episode_facts
from autometa.config import flatten
from autometa.searching.settings import SearchSettings
from autometa.space import Space
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tracking import Tracker, task_key

#: rows of the data set that MLflow gets a digest and a profile of
_LOGGED_ROWS = 10_000
_NUMBERS = ("score", "independent_score", "difference", "delta_m")


def log_start(
    tracker: Tracker,
    suite: TaskSuite | EpisodicSuite,
    space: Space,
    settings: SearchSettings,
    more: Mapping[str, Any],
    prior: dict[str, Any] | None,
) -> None:
    """Settings, suite, space, sources and a sample of the training rows.

    Args:
        more: what else the study remembers, and is shown as parameters.
    """
    rows = suite.rows("train")
    frame = None
    if not suite.is_image:
        frame = pd.DataFrame(rows.x[:_LOGGED_ROWS].numpy()).add_prefix("x")
        targets = rows.y[:_LOGGED_ROWS].numpy().reshape(len(frame), -1)
        frame = frame.join(pd.DataFrame(targets).add_prefix("y"))
    params, tags = asdict(settings) | flatten(more), {"suite": suite.name}
    if isinstance(suite, EpisodicSuite):
        params |= {f"{EPISODES}.{name}": value for name, value in episode_facts(suite).items()}
        tags["episodic"] = "true"
    if prior is not None:
        sources = [source["name"] for source in prior["sources"]]
        params |= {"prior": prior["asked"], "prior.sources": ", ".join(sources) or prior["reason"]}
    keys = {name: task_key(name) for name in suite.task_names}
    tags |= {f"task/{key}": name for name, key in keys.items() if key != name}
    texts = {"tasks.csv": _task_table(suite, keys)}
    tracker.search_started(params, tags, suite.describe(), space.text, frame, suite.name, texts)


def _task_table(suite: TaskSuite | EpisodicSuite, keys: Mapping[str, str]) -> str:
    """A line a task: how metrics name it, its own name, and what it is."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["metric", "task", "kind", "measured by"])
    if isinstance(suite, EpisodicSuite):
        facts = [(suite.kind, suite.metric)] * len(suite.tasks)
    else:
        facts = [(task.kind, task.metric) for task in suite.tasks]
    for (name, key), (kind, metric) in zip(keys.items(), facts, strict=True):
        lines.writerow([f"task/{key}", name, kind, metric])
    return out.getvalue()


def log_end(
    tracker: Tracker,
    test: dict[str, Any],
    model: Path,
    diagnosis: dict[str, Any] | None,
    prior: dict[str, Any] | None,
) -> None:
    """The verdict, its numbers of every method and task, what the prior did
    and the model."""
    numbers = {f"test/{key}": test[key] for key in _NUMBERS if test.get(key) is not None}
    for method in test.get("methods", ()):
        for key in ("score", "value"):
            numbers[f"test/{method['name']}/{key}"] = method[key]
    for task in test["tasks"]:
        for name, score in task["scores"].items():
            numbers[f"test/{name}/task/{task_key(task['name'])}"] = score
    tags = {"verdict": test["verdict"], "outcome": test["outcome"]}
    texts = {}
    if prior is not None and prior["sources"]:
        tags["prior"] = prior["verdict"]
        numbers |= {f"prior/{by}": n for by, n in prior["proposed"].items()}
        numbers |= {f"prior/best_{by}": value for by, value in prior["best"].items()}
        texts["prior.json"] = json.dumps(prior, indent=1)
    numbers = {key: value for key, value in numbers.items() if value is not None}
    if diagnosis is not None and diagnosis["reason"] is None:
        tags["diagnosis"] = diagnosis["cause"]
        texts["diagnosis.json"] = json.dumps(diagnosis, indent=1)
    texts["comparison.json"] = json.dumps(test, indent=1)
    tracker.search_finished(numbers, tags, [model], "FINISHED", texts)
