"""What a search needs before any work: checked settings, a name, a space, a study."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autometa.api.grouping import nested_groups
from autometa.errors import BrokenStudyError, StudyError, UserError
from autometa.home import Home, stem_of
from autometa.searching.executors import Executor, InlineExecutor
from autometa.searching.loop import SearchSettings
from autometa.searching.progress import Progress
from autometa.searching.promotion import check_pruner
from autometa.searching.settings import FINAL_SEEDS, MAX_SEED
from autometa.space import Space, default_space
from autometa.study import StudyHandle, is_advised, list_studies, make_sampler, read_study
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tasks.outline import differences, outline
from autometa.training.devices import find_device

#: settings that a resumed study must keep: its rungs, seeds and arms depend on them
_FIXED = ("max_steps", "seed", "pruner", "independent_share", "no_task_worse_than", "cost")

#: what may be delivered: any method, or networks only
DELIVERS = ("auto", "network")
#: attribute of a study: the outline of its data
DATA = "data"
#: attribute of a study: the nested groups that its trees are made of
GROUPS = "task_groups"


def check_settings(
    settings: SearchSettings, workers: int | None, cpus: int, gpus: float, *, local: bool
) -> None:
    """Refuse settings that no search can have.

    Args:
        cpus, gpus: of a worker.
        local: workers run on this machine, so that it has to have as many.

    Raises:
        UserError: one sentence that names the setting.
    """
    limits: list[tuple[str, Any, bool, str]] = [
        ("n_trials", settings.n_trials, settings.n_trials >= 1, "at least 1"),
        (
            "timeout",
            settings.timeout,
            settings.timeout is None or settings.timeout >= 0,
            "positive",
        ),
        ("seed", settings.seed, 0 <= settings.seed <= MAX_SEED, f"between 0 and {MAX_SEED}"),
        (
            "independent_share",
            settings.independent_share,
            0.0 <= settings.independent_share <= 1.0,
            "between 0 and 1",
        ),
        ("workers", workers, workers is None or workers >= 0, "at least 0"),
        ("cpus_per_worker", cpus, cpus >= 1, "at least 1"),
        (
            "ensemble",
            settings.ensemble,
            1 <= settings.ensemble <= FINAL_SEEDS,
            f"between 1 and {FINAL_SEEDS}, the seeds that the finalists are trained with",
        ),
        (
            "deliver",
            settings.deliver,
            settings.deliver in DELIVERS,
            f"one of {', '.join(DELIVERS)}",
        ),
        ("gpus_per_worker", gpus, gpus >= 0, "at least 0"),
    ]
    for name, value, fine, should in limits:
        if not fine:
            raise UserError(f"Parameter `{name}` should be {should}. Found `{name} = {value}`.")
    if local:
        for name, asked, has, what in (
            ("cpus_per_worker", cpus, os.cpu_count() or 1, "cores"),
            ("gpus_per_worker", gpus, torch.cuda.device_count(), "GPUs"),
        ):
            if asked > has:
                raise UserError(
                    f"Parameter `{name}` should be at most {has}, the {what} of this machine. "
                    f"Found `{name} = {asked:g}`."
                )
    make_sampler(settings.sampler, settings.seed, 0)
    check_pruner(settings.pruner)
    find_device(settings.device)


def choose_name(
    home: Home, storage: str | None, suite: TaskSuite | EpisodicSuite, resume: bool
) -> str:
    """`<suite>-1`, `-2`, …: the first free name, or to resume the last one taken."""
    stem = stem_of(suite.name)
    taken = set(list_studies(home, storage, create=True))
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{max(1, number - 1)}" if resume else f"{stem}-{number}"


def earlier_attrs(home: Home, name: str, storage: str | None, resume: bool) -> dict[str, Any]:
    """User attributes of the study to go on with; empty if it starts now."""
    if resume and name in list_studies(home, storage, create=True):
        with suppress(BrokenStudyError):  # then it is begun anew
            return dict(read_study(home, name, storage).user_attrs)
    return {}


def check_same_data(
    name: str, earlier: Mapping[str, Any], suite: TaskSuite | EpisodicSuite
) -> None:
    """Refuse to resume a study on other data than it has trials of.

    Raises:
        StudyError: one sentence that says what is different.
    """
    if earlier.get("fingerprint", suite.fingerprint) == suite.fingerprint:
        return
    what = "what is different was not noted by the version that started it"
    if DATA in earlier:
        what = "; ".join(differences(earlier[DATA], outline(suite)))
    raise StudyError(
        f"Study `{name}` was started on other data ({what}). Give back the same file, tasks and "
        "split, or choose another study name."
    )


def choose_space(
    space: str | Path | None,
    suite: TaskSuite | EpisodicSuite,
    name: str,
    earlier: dict[str, Any],
    settings: SearchSettings,
    notify: Callable[[Progress], None],
) -> Space:
    """The space that was named, that of the study to go on with, or the suite's default.

    If it has trees of many tasks, their groups are those of the study to go on with, or measured
    now, on training rows.
    """
    if space is not None:
        chosen = Space.load(space)
    elif "space" in earlier:
        chosen = Space.from_yaml(earlier["space"], f"the space of study `{name}`")
    else:
        chosen = default_space(suite)
    bound = chosen.bind(suite)
    if not bound.cuts or isinstance(suite, EpisodicSuite):
        return bound
    groups = earlier.get(GROUPS)
    if groups is None or len(groups[0]) != suite.n_tasks:  # other data is refused later
        message = (
            f"Measuring how the gradients of {suite.n_tasks} tasks agree, to group them in trees"
        )
        notify(Progress("search", 0, settings.n_trials, message=message))
        groups = nested_groups(suite, settings.seed, find_device(settings.device))
    return chosen.bind(suite, groups)


def study_attrs(
    name: str,
    suite: TaskSuite | EpisodicSuite,
    space: Space,
    settings: SearchSettings,
    earlier: dict[str, Any],
) -> dict[str, Any]:
    """User attributes that the study is opened with.

    Raises:
        StudyError: a setting that trials already depend on has changed.
    """
    before = earlier.get("settings", {})
    fixed = _FIXED[1:] if "max_epochs" in before else _FIXED
    for key in fixed:
        old, value = before.get(key), asdict(settings)[key]
        if before and old != value:
            raise StudyError(
                f"Study `{name}` was started with `{key} = {old}`; a resumed study must keep it. "
                f"Found `{key} = {value}`."
            )
    return {
        **({GROUPS: list(space.cuts)} if space.cuts else {}),
        "suite": suite.describe(),
        DATA: outline(suite),
        "space": space.text,
        # of a study that was counted in epochs only the result is of use: it stays as it was
        "settings": before if "max_epochs" in before else asdict(settings),
        # two studies of one name (after a deletion, or of two users) have different MLflow runs
        "id": earlier.get("id") or uuid.uuid4().hex,
    }


def check_can_go_on(name: str, earlier: dict[str, Any], judgement: dict[str, Any] | None) -> None:
    """Refuse to go on with a study whose trials were counted in epochs; its result may be shown.

    Args:
        judgement: what it holds for the trials that are asked for, if anything.

    Raises:
        StudyError: it would have to go on.
    """
    if "max_epochs" in earlier.get("settings", {}) and judgement is None:
        raise StudyError(
            f"Study `{name}` is of an earlier version, which counted training in epochs and not in "
            "optimizer steps, so its unfinished search cannot go on. Choose another `study_name` "
            "(`--study-name`) for a new one; `autometa trials` still shows the old one."
        )


def make_executor(workers: int | None, ray_address: str | None, cpus: int, gpus: float) -> Executor:
    """What runs the units: this process for no workers, else Ray, with as many as there are cores
    for if `workers` is None.

    Args:
        cpus, gpus: of a worker.
    """
    if workers == 0:
        return InlineExecutor(cpus)
    from autometa.searching.ray_executor import RayExecutor  # Ray takes seconds to import

    here = max(1, (os.cpu_count() or 1) // cpus)
    count = workers or (None if ray_address else here)
    return RayExecutor(count, ray_address, gpus, cpus_per_worker=cpus)


def stored_judgement(handle: StudyHandle, settings: SearchSettings) -> dict[str, Any] | None:
    """The judgement in the study, if it is of all trials asked for, delivers what is asked for, and
    its model is there."""
    kept = handle.study.user_attrs.get("judgement")
    trials = handle.trials()
    told = sum(t.state.is_finished() for t in trials)
    searched = sum(not is_advised(t) for t in trials)
    fresh = told == len(trials) and searched >= settings.n_trials
    if not (kept and fresh and kept["trials"] == told and Path(kept["model"]).is_dir()):
        return None
    same = all(kept.get(name, value) == value for name, value in chosen_by(settings).items())
    return dict(kept) if same else None


def chosen_by(settings: SearchSettings) -> dict[str, Any]:
    """The settings that a judgement depends on, and a search does not."""
    return {"ensemble": settings.ensemble, "deliver": settings.deliver}
