"""What a search needs before any work: checked settings, a name, a space, a study."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autometa.errors import StudyError, UserError
from autometa.home import Home
from autometa.searching.finalists import is_advised
from autometa.searching.loop import SearchSettings
from autometa.searching.promotion import check_pruner
from autometa.space import Space, default_space
from autometa.study import StudyHandle, list_studies, make_sampler, read_study
from autometa.tasks import TaskSuite
from autometa.training.devices import find_device

#: settings that a resumed study must keep: its rungs, seeds and arms depend on them
_FIXED = ("max_epochs", "seed", "pruner", "independent_share")


def check_settings(settings: SearchSettings, workers: int | None, gpus: float) -> None:
    """Refuse settings that no search can have.

    Raises:
        UserError: one sentence that names the setting.
    """
    limits: list[tuple[str, Any, bool, str]] = [
        ("n_trials", settings.n_trials, settings.n_trials >= 1, "at least 1"),
        ("max_epochs", settings.max_epochs, settings.max_epochs >= 1, "at least 1"),
        (
            "timeout",
            settings.timeout,
            settings.timeout is None or settings.timeout >= 0,
            "positive",
        ),
        ("seed", settings.seed, settings.seed >= 0, "at least 0"),
        (
            "independent_share",
            settings.independent_share,
            0.0 <= settings.independent_share <= 1.0,
            "between 0 and 1",
        ),
        ("workers", workers, workers is None or workers >= 0, "at least 0"),
        ("gpus_per_worker", gpus, gpus >= 0, "at least 0"),
    ]
    for name, value, fine, should in limits:
        if not fine:
            raise UserError(f"Parameter `{name}` should be {should}. Found `{name} = {value}`.")
    make_sampler(settings.sampler, settings.seed, 0)
    check_pruner(settings.pruner)
    find_device(settings.device)


def choose_name(home: Home, storage: str | None, suite: TaskSuite, resume: bool) -> str:
    """`<suite>-1`, `-2`, …: the first free name, or to resume the last one taken."""
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in suite.name).strip("-._")
    stem = (stem or "study")[:80]
    taken = set(list_studies(home, storage))
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{max(1, number - 1)}" if resume else f"{stem}-{number}"


def earlier_attrs(home: Home, name: str, storage: str | None, resume: bool) -> dict[str, Any]:
    """User attributes of the study to go on with; empty if it starts now."""
    if resume and name in list_studies(home, storage):
        return dict(read_study(home, name, storage).user_attrs)
    return {}


def choose_space(
    space: str | Path | None, suite: TaskSuite, name: str, earlier: dict[str, Any]
) -> Space:
    """The space that was named, that of the study to go on with, or the suite's default."""
    if space is not None:
        return Space.load(space).bind(suite)
    if "space" in earlier:
        return Space.from_yaml(earlier["space"], f"the space of study `{name}`").bind(suite)
    return default_space(suite).bind(suite)


def study_attrs(
    name: str,
    suite: TaskSuite,
    space: Space,
    settings: SearchSettings,
    earlier: dict[str, Any],
) -> dict[str, Any]:
    """User attributes that the study is opened with.

    Raises:
        StudyError: a setting that trials already depend on has changed.
    """
    before = earlier.get("settings", {})
    for key in _FIXED:
        value = asdict(settings)[key]
        if key in before and before[key] != value:
            raise StudyError(
                f"Study `{name}` was started with `{key} = {before[key]}`; a resumed study must "
                f"keep it. Found `{key} = {value}`."
            )
    return {
        "suite": suite.describe(),
        "space": space.text,
        "settings": asdict(settings),
        # two studies of one name (after a deletion, or of two users) have different MLflow runs
        "id": earlier.get("id") or uuid.uuid4().hex,
    }


def stored_judgement(handle: StudyHandle, n_trials: int) -> dict[str, Any] | None:
    """The judgement in the study, if it is of all trials asked for and its model is there."""
    kept = handle.study.user_attrs.get("judgement")
    trials = handle.trials()
    told = sum(t.state.is_finished() for t in trials)
    searched = sum(not is_advised(t) for t in trials)
    fresh = told == len(trials) and searched >= n_trials
    if kept and fresh and kept["trials"] == told and Path(kept["model"]).is_dir():
        return dict(kept)
    return None
