"""The front in Python: `search`, `train`, `load_model`. The command line calls them too."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from autometa.config import flatten, read_yaml
from autometa.errors import ConfigError, StudyError, UserError
from autometa.home import Home, check_study_name
from autometa.judge import Judge
from autometa.model import Model
from autometa.searching.executors import Chain, Executor, InlineExecutor, ScriptSource
from autometa.searching.loop import SearchLoop, SearchSettings
from autometa.searching.progress import Progress
from autometa.searching.promotion import check_pruner
from autometa.space import Space, default_space
from autometa.study import (
    StudyHandle,
    list_studies,
    make_sampler,
    open_study,
    read_study,
    trial_rows,
)
from autometa.tasks import TaskSuite, load_suite
from autometa.tracking import Tracker
from autometa.training.devices import find_device
from autometa.training.population import Trainer
from autometa.training.state import Run
from autometa.trial import TrialConfig

Notify = Callable[[Progress], None]

#: settings that a resumed study must keep: its rungs, seeds and arms depend on them
_FIXED = ("max_epochs", "seed", "pruner", "independent_share")
#: rows of the data set that MLflow gets a digest and a profile of
_LOGGED_ROWS = 10_000


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        study, suite: names.
        n_trials: trials in the study.
        states: how many ended COMPLETE, PRUNED and FAIL.
        best: number, value (on validation) and params of the best completed trial; None if none.
        test: the final comparison on the test rows (`score`, `independent_score`, `gbdt_score`,
            `delta_m`, `delta_m_ci`, `verdict`, `tasks`, …); None if the search was interrupted.
        model: folder of the model that the verdict recommends; None if interrupted.
        seconds: wall time of this call.
        mlflow: `tracking_uri` and `run_id`; None where tracking is off.
        trials: one row a trial.
        interrupted: whether the user stopped it; `resume=True` goes on.
    """

    study: str
    suite: str
    n_trials: int
    states: dict[str, int]
    best: dict[str, Any] | None
    test: dict[str, Any] | None
    model: Path | None
    seconds: float
    mlflow: dict[str, str | None] | None
    trials: pd.DataFrame = field(repr=False)
    interrupted: bool = False

    @property
    def verdict(self) -> str | None:
        """The finding in one sentence."""
        return None if self.test is None else self.test["verdict"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, without the table of trials."""
        return {
            "study": self.study,
            "suite": self.suite,
            "n_trials": self.n_trials,
            "states": self.states,
            "best": self.best,
            "test": self.test,
            "model": None if self.model is None else str(self.model),
            "seconds": round(self.seconds, 2),
            "mlflow": self.mlflow,
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True)
class TrainResult:
    """One trained configuration: its model and its score on the validation rows."""

    model: Path
    value: float
    tasks: dict[str, float | None]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "model": str(self.model)}


def search(
    suite: TaskSuite | str | Path,
    *,
    space: str | Path | None = None,
    study_name: str | None = None,
    storage: str | None = None,
    n_trials: int = 64,
    timeout: float | None = None,
    max_epochs: int = 27,
    workers: int | None = None,
    ray_address: str | None = None,
    gpus_per_worker: float = 0.0,
    independent_share: float = 0.5,
    mlflow_tracking_uri: str | None = None,
    seed: int = 0,
    resume: bool = False,
    sampler: str = "tpe",
    pruner: str = "asha",
    device: str = "auto",
    home: str | Path | None = None,
    progress: Notify | None = None,
    **suite_options: Any,
) -> SearchResult:
    """Search how the tasks of a suite should share, and judge it against independent networks.

    Args:
        suite: a suite, or what `load_suite` takes, with its options as `suite_options`.
        space: YAML file or shipped name; by the suite if not given.
        study_name: made from the suite's name if not given.
        storage: any Optuna storage URL; a journal in the home folder if not given.
        n_trials: trials in all, those of an earlier run of this study included.
        timeout: seconds after which no unit of work is started.
        max_epochs: epochs of a trial that is never stopped early.
        workers: worker processes on Ray; 0 runs everything in this process; one a core if None.
        ray_address: a running Ray cluster; its own local one if None.
        gpus_per_worker: share of a GPU that each worker takes.
        independent_share: share of the trials that tune independent networks.
        mlflow_tracking_uri: SQLite in the home folder if None; `off` for none.
        resume: go on with the study if there is one.
        sampler: `tpe`, `gp`, `random` or `cmaes`; pruner: `asha`, `hyperband`, `median`, `none`.
        device: `auto`, `cpu` or `cuda`.
        home: the home folder; `$AUTOMETA_HOME` or `./autometa-home` if None.
        progress: called with a `Progress` after every change.

    Raises:
        UserError: bad input, before any work.
        InfrastructureError: storage, tracking server or disk failed.
    """
    started = time.monotonic()
    notify: Notify = progress or (lambda step: None)
    settings = SearchSettings(
        n_trials, max_epochs, seed, sampler, pruner, independent_share, timeout, device
    )
    _check(settings, workers, gpus_per_worker)
    place = Home.find(home)
    loaded = suite if isinstance(suite, TaskSuite) else load_suite(suite, **suite_options)
    if isinstance(suite, TaskSuite) and suite_options:
        raise UserError(f"Options {', '.join(suite_options)} go to `load_suite`, not to a suite.")
    name = (
        _name(place, storage, loaded, resume)
        if study_name is None
        else check_study_name(study_name)
    )
    bound = _space(space, loaded, place, name, storage, resume)
    with ExitStack() as stack:
        tracker = stack.enter_context(Tracker.open(mlflow_tracking_uri, place, name))
        handle = stack.enter_context(_open(place, name, storage, resume, loaded, bound, settings))
        if resume and (kept := _finished(handle, settings)) is not None:
            return _result(handle, loaded, kept["test"], Path(kept["model"]), started, tracker)
        for message in bound.dropped:
            notify(Progress("search", 0, n_trials, message=f"Left out of the space: {message}"))
        folder = place.checkpoints(name)
        stripped = loaded.without_test()
        stripped.save(folder / "suite")
        executor = _executor(workers, ray_address, gpus_per_worker)
        stack.callback(executor.close)
        _log_start(tracker, loaded, bound, settings)
        loop = SearchLoop(
            handle,
            bound,
            settings,
            suite=folder / "suite",
            fingerprint=loaded.fingerprint,
            checkpoints=folder,
            tracker=tracker,
            notify=notify,
        )
        judge = Judge(
            loaded, settings, study=name, folder=folder, models=place.models, notify=notify
        )
        judging = ScriptSource(lambda: judge.script(handle.trials()))
        executor.run(Chain(loop, judging))
        judgement = judging.returned
        if judgement is None:  # Ctrl-C
            return _stopped(handle, loaded, started, tracker)
        kept = {"test": judgement.test, "model": str(judgement.model), "trials": _told(handle)}
        handle.set_attr("judgement", kept)
        handle.commit()
        _log_end(tracker, judgement.test, judgement.model)
        shutil.rmtree(folder, ignore_errors=True)
        return _result(handle, loaded, judgement.test, judgement.model, started, tracker)


def train(
    suite: TaskSuite | str | Path,
    config: Mapping[str, Any] | str | Path,
    *,
    max_epochs: int = 27,
    seed: int = 0,
    device: str = "auto",
    home: str | Path | None = None,
    out: str | Path | None = None,
    **suite_options: Any,
) -> TrainResult:
    """Train one configuration on the training rows and score it on the validation rows.

    Args:
        config: dotted names to values, or a YAML file of them; what is missing takes its default.
        out: folder of the model; a new one in the home folder if None.

    Raises:
        UserError: bad input, or the run diverged (then no model is written).
    """
    started = time.monotonic()
    values = read_config(config) if isinstance(config, str | Path) else config
    parsed = TrialConfig.from_flat(values)
    if max_epochs < 1:
        raise UserError(
            f"Parameter `max_epochs` should be at least 1. Found `max_epochs = {max_epochs}`."
        )
    found = find_device(device)
    loaded = suite if isinstance(suite, TaskSuite) else load_suite(suite, **suite_options)
    stripped = loaded.without_test()
    trainer = Trainer(stripped, max_epochs, found)
    runs = [Run(parsed, seed)]
    (result,), state = trainer.train(runs, trainer.start(runs), max_epochs)
    if result.value is None:
        raise UserError(f"{result.reason} Lower `optimizer.lr` (now {parsed.optimizer.lr:g}).")
    facts = {
        "suite": loaded.name,
        "fingerprint": loaded.fingerprint,
        "epochs": max_epochs,
        "seed": seed,
        "validation_score": result.value,
    }
    folder = Path(out) if out is not None else _new_folder(Home.find(home).models, loaded.name)
    Model.of(stripped, parsed, state, facts).save(folder)
    return TrainResult(folder, result.value, result.tasks, time.monotonic() - started)


def load_model(path: str | Path) -> Model:
    """Load a model that a search or `train` left.

    Raises:
        UserError: the folder holds no model.
    """
    return Model.load(path)


def read_config(path: str | Path) -> dict[str, Any]:
    """Dotted names to values from a YAML file (nested sections are fine too).

    Raises:
        ConfigError: the file cannot be read or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"Configuration `{path}` cannot be read: {exc}.") from None
    return flatten(read_yaml(text, f"Configuration `{path}`"))


def _check(settings: SearchSettings, workers: int | None, gpus: float) -> None:
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


def _name(home: Home, storage: str | None, suite: TaskSuite, resume: bool) -> str:
    """`<suite>-1`, `-2`, …: the first free name, or to resume the last one taken."""
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in suite.name).strip("-._")
    stem = (stem or "study")[:80]
    taken = set(list_studies(home, storage))
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{max(1, number - 1)}" if resume else f"{stem}-{number}"


def _space(
    space: str | Path | None,
    suite: TaskSuite,
    home: Home,
    name: str,
    storage: str | None,
    resume: bool,
) -> Space:
    if space is not None:
        return Space.load(space).bind(suite)
    if resume and name in list_studies(home, storage):
        text = read_study(home, name, storage).user_attrs.get("space")
        if text:
            return Space.from_yaml(text, f"the space of study `{name}`").bind(suite)
    return default_space(suite).bind(suite)


def _open(
    home: Home,
    name: str,
    storage: str | None,
    resume: bool,
    suite: TaskSuite,
    space: Space,
    settings: SearchSettings,
) -> StudyHandle:
    if resume and name in list_studies(home, storage):
        before = read_study(home, name, storage).user_attrs.get("settings", {})
        for key in _FIXED:
            value = asdict(settings)[key]
            if key in before and before[key] != value:
                raise StudyError(
                    f"Study `{name}` was started with `{key} = {before[key]}`; a resumed study "
                    f"must keep it. Found `{key} = {value}`."
                )
    attrs = {"suite": suite.describe(), "space": space.text, "settings": asdict(settings)}
    return open_study(
        home, name, storage=storage, resume=resume, fingerprint=suite.fingerprint, attrs=attrs
    )


def _finished(handle: StudyHandle, settings: SearchSettings) -> dict[str, Any] | None:
    """The stored judgement, if it is of all trials that are asked for and its model is there."""
    kept = handle.study.user_attrs.get("judgement")
    trials = handle.trials()
    done = all(t.state.is_finished() for t in trials) and len(trials) >= settings.n_trials
    if kept and done and kept["trials"] == _told(handle) and Path(kept["model"]).is_dir():
        return dict(kept)
    return None


def _executor(workers: int | None, ray_address: str | None, gpus: float) -> Executor:
    if workers == 0:
        return InlineExecutor()
    from autometa.searching.ray_executor import RayExecutor  # Ray takes seconds to import

    count = workers or (None if ray_address else os.cpu_count() or 1)
    return RayExecutor(count, ray_address, gpus)


def _result(
    handle: StudyHandle,
    suite: TaskSuite,
    test: dict[str, Any] | None,
    model: Path | None,
    started: float,
    tracker: Tracker,
    interrupted: bool = False,
) -> SearchResult:
    trials = handle.trials()
    states = {s: sum(t.state.name == s for t in trials) for s in ("COMPLETE", "PRUNED", "FAIL")}
    rows = trial_rows(handle.study)
    best = _best(trials)
    return SearchResult(
        study=handle.name,
        suite=suite.name,
        n_trials=len(trials),
        states=states,
        best=None
        if best is None
        else {key: rows[best.number][key] for key in ("number", "value", "params")},
        test=test,
        model=model,
        seconds=time.monotonic() - started,
        mlflow=None
        if tracker.tracking_uri is None
        else {"tracking_uri": tracker.display_uri, "run_id": tracker.run_id},
        trials=pd.DataFrame(rows),
        interrupted=interrupted,
    )


def _stopped(
    handle: StudyHandle, suite: TaskSuite, started: float, tracker: Tracker
) -> SearchResult:
    handle.commit()
    tracker.search_finished({}, {}, [], "KILLED")
    return _result(handle, suite, None, None, started, tracker, interrupted=True)


def _best(trials: list[FrozenTrial]) -> FrozenTrial | None:
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return max(done, key=lambda t: (t.value or 0.0, -t.number), default=None)


def _told(handle: StudyHandle) -> int:
    return sum(t.state.is_finished() for t in handle.trials())


def _log_start(tracker: Tracker, suite: TaskSuite, space: Space, settings: SearchSettings) -> None:
    rows = suite.rows("train")
    frame = None
    if not suite.is_image:
        frame = pd.DataFrame(rows.x[:_LOGGED_ROWS].numpy()).add_prefix("x")
        targets = rows.y[:_LOGGED_ROWS].numpy().reshape(len(frame), -1)
        frame = frame.join(pd.DataFrame(targets).add_prefix("y"))
    tracker.search_started(
        asdict(settings), {"suite": suite.name}, suite.describe(), space.text, frame, suite.name
    )


def _log_end(tracker: Tracker, test: dict[str, Any], model: Path) -> None:
    numbers = {
        f"test/{key}": test[key]
        for key in ("score", "independent_score", "gbdt_score", "difference", "delta_m")
        if test.get(key) is not None
    }
    tags = {"verdict": test["verdict"], "outcome": test["outcome"]}
    tracker.search_finished(numbers, tags, [model], "FINISHED")


def _new_folder(models: Path, stem: str) -> Path:
    number = 1
    while (models / f"{stem}-train-{number}").exists():
        number += 1
    return models / f"{stem}-train-{number}"
