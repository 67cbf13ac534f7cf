"""The front in Python: `search`. The command line calls it too."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from autometa.api.arguments import plain_arguments
from autometa.api.closing import closing
from autometa.api.episodic import (
    EPISODES,
    asked_episodes,
    check_same_episodes,
    check_settings_of_episodes,
    episode_facts,
    load_any,
)
from autometa.api.logged import log_end, log_start
from autometa.api.objectives import check_bound, check_objectives, front_rows
from autometa.api.prepare import (
    check_can_go_on,
    check_same_data,
    check_settings,
    choose_name,
    choose_space,
    chosen_by,
    earlier_attrs,
    make_executor,
    stored_judgement,
    study_attrs,
)
from autometa.api.priors import (
    check_useful,
    leave_record,
    prior_account,
    settle_prior,
    wanted_prior,
)
from autometa.api.results import (
    SearchResult,
    search_result,
    store_tried,
    stored_diagnosis,
    tracked,
)
from autometa.api.starting import choose_start
from autometa.caller import leaves_no_trace
from autometa.errors import UserError
from autometa.home import HOME, Home, check_study_name, check_writable
from autometa.searching.executors import Chain
from autometa.searching.loop import SearchLoop, SearchSettings
from autometa.searching.progress import Progress
from autometa.searching.settings import FINAL_SEEDS
from autometa.study import open_study
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tracking import Tracker, tracking_place
from autometa.training.budget import check_length, full_length, with_batch_size

Notify = Callable[[Progress], None]


@leaves_no_trace
@plain_arguments
def search(
    suite: TaskSuite | EpisodicSuite | str | Path,
    *,
    space: str | Path | None = None,
    study_name: str | None = None,
    storage: str | None = None,
    n_trials: int = 64,
    timeout: float | None = None,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0.0,
    independent_share: float = 0.5,
    no_task_worse_than: float | None = None,
    cost: str | None = None,
    ensemble: int | None = None,
    deliver: str = "auto",
    mlflow_tracking_uri: str | None = None,
    seed: int = 0,
    resume: bool = False,
    sampler: str = "tpe",
    pruner: str = "asha",
    prior: str | Path = "auto",
    device: str = "auto",
    diagnose: bool | None = None,
    init_from: str | Path | None = None,
    episodic: bool = False,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    one_task: bool = False,
    test_ways: int | None = None,
    test_shots: int | None = None,
    home: str | Path | None = None,
    progress: Notify | None = None,
    **suite_options: Any,
) -> SearchResult:
    """Search how the tasks of a suite should share, and judge it against independent networks.

    With `episodic` whole tasks are held out, and what is searched is how a new task is learned from
    a few rows; it is judged on the held-out tasks, against learning from scratch and others.

    Args:
        suite: a suite, or what `load_suite` takes, with its options as `suite_options`.
        space: YAML file or shipped name; by the suite if not given.
        study_name: made from the suite's name if not given.
        storage: any Optuna storage URL; a journal in the home folder if not given.
        n_trials: trials in all, those of an earlier run of this study included.
        timeout: seconds for everything: after half of them no trial and no diagnosis is started.
            The judgement has what is left and does less where that is short: fewer finalists, no
            longer training. The best trial of each arm is always judged, and the model trained.
        max_steps: optimizer steps of a trial that is never stopped early; by the suite if None, at
            least 2,000 but in episodes.
        max_epochs: the same in passes over the training rows, in place of `max_steps`.
        workers: worker processes on Ray; 0 runs everything in this process; as many as there are
            cores for if None.
        ray_address: a running Ray cluster; its own local one if None.
        cpus_per_worker: cores, and as many threads, that each worker takes: for models so large
            that a unit holds one run.
        gpus_per_worker: share of a GPU that each worker takes.
        independent_share: share of the trials that tune independent networks.
        no_task_worse_than: DELTA in units of the score: independent networks are tuned first, and
            a sharing network may then be below them by more than DELTA on no task (on validation).
        cost: `parameters` or `inference-time`, minimised beside the score.
        ensemble: networks that are delivered as one model, and judged as one: 5 if None, 1 in
            episodes.
        deliver: `auto`: the recommended method, whichever it is; `network`: of the networks only.
        mlflow_tracking_uri: if None that of `$MLFLOW_TRACKING_URI`, else SQLite in the home folder;
            `off` for none.
        resume: go on with the study if there is one.
        sampler: `tpe`, `gp`, `random` or `cmaes`; pruner: `asha`, `hyperband`, `median`, `none`.
        prior: earlier searches that the sampler `tpe` learns from: `auto`, the prior that came with
            the package and what searches left in the home folder, the 20 on the nearest suites;
            `off`; the name of a prior or record, or a prior file (`autometa prior`); a storage of
            Optuna studies that maximise the same score, `URL` or `URL#STUDY`. Not with a bound or a
            cost. A resumed study keeps what it has.
        device: `auto`, `cpu` or `cuda`.
        diagnose: find out why sharing hurts or helps, and try what that advises: at most two
            trials a diagnosis, beyond `n_trials`, which are judged like any other. If None: yes,
            but not in episodes, which have none.
        init_from: a model (folder, or name in the home folder) whose shared blocks runs may start
            from, in both arms; `auto`: that of the search whose suite is nearest.
        episodic: search in episodes of `shots` support rows and `queries` query rows, of each of
            `ways` classes where tasks have several; 15 query rows, or as many as there are, if
            None.
        one_task: classes of an episode are all of one task, not of any of its split.
        test_ways, test_shots: of validation and test episodes, if they are to differ from those of
            training.
        home: the home folder; `$AUTOMETA_HOME` or `./autometa-home` if None.
        progress: called with a `Progress` after every change.

    Raises:
        UserError: bad input, before any work.
        InfrastructureError: storage, tracking server or disk failed.
    """
    started = time.monotonic()
    notify: Notify = progress or (lambda step: None)
    check_length(max_steps, max_epochs)
    settings = SearchSettings(
        n_trials,
        max_steps or 1,  # by the suite, once it is loaded
        seed,
        sampler,
        pruner,
        independent_share,
        timeout,
        device,
        no_task_worse_than,
        cost,
        FINAL_SEEDS if ensemble is None else ensemble,
        deliver,
    )
    check_settings(settings, workers, cpus_per_worker, gpus_per_worker, local=ray_address is None)
    check_objectives(settings)
    episodes = asked_episodes(
        episodic,
        ways=ways,
        shots=shots,
        queries=queries,
        one_task=one_task,
        test_ways=test_ways,
        test_shots=test_shots,
    )
    if workers == 0 and ray_address is not None:
        raise UserError(
            "Parameter `ray_address` should be left out with `workers = 0`, which runs everything "
            f"in this process. Found `ray_address = {ray_address}`."
        )
    place = Home.find(home)
    check_writable(place.root, HOME)
    loaded = load_any(suite, episodes, suite_options)
    settings = replace(settings, max_steps=full_length(loaded, max_steps, max_epochs))
    facts = None
    if isinstance(loaded, EpisodicSuite):
        settings = replace(settings, ensemble=ensemble or 1)
        check_settings_of_episodes(settings, diagnose)
        facts, diagnose = episode_facts(loaded), False
    diagnose = diagnose is not False
    name = (
        choose_name(place, storage, loaded, resume)
        if study_name is None
        else check_study_name(study_name)
    )
    earlier = earlier_attrs(place, name, storage, resume)
    check_same_episodes(name, earlier, facts)
    check_same_data(name, earlier, loaded)

    def tell(message: str) -> None:
        notify(Progress("search", 0, n_trials, message=message))

    for note in loaded.notes:
        tell(note)
    wanted = wanted_prior(prior, settings, place, earlier, episodic=facts is not None, tell=tell)
    bound = choose_space(space, loaded, name, earlier, settings, notify)
    start = choose_start(init_from, loaded, bound, place, name, earlier)
    bound = start.space
    check_bound(settings, bound, loaded)
    check_useful(wanted, bound)
    attrs = study_attrs(name, loaded, bound, settings, earlier) | start.attrs
    attrs |= {} if facts is None else {EPISODES: facts}
    with ExitStack() as stack:
        tracker = stack.enter_context(
            Tracker.open(mlflow_tracking_uri, place, name, study_id=attrs["id"])
        )
        if (runs := tracking_place(mlflow_tracking_uri, place)).is_of_environment:
            tell(
                f"Runs are written to {tracker.display_uri or 'no MLflow'}, as {runs.source} says."
            )
        handle = stack.enter_context(
            open_study(
                place,
                name,
                storage=storage,
                resume=resume,
                fingerprint=loaded.fingerprint,
                attrs=attrs,
                with_cost=cost is not None,
            )
        )
        kept = stored_judgement(handle, settings)
        check_can_go_on(name, earlier, kept)
        counted_in_steps = "max_epochs" not in earlier.get("settings", {})
        unexplained = diagnose and counted_in_steps and stored_diagnosis(handle) is None
        if kept is None or unexplained:
            for message in bound.dropped:
                tell(f"Left out: {message}")
            folder = place.checkpoints(name)
            loaded.without_test().save(folder / "suite")
            start.keep(folder)
            if start.message is not None:
                tell(start.message)
            executor = make_executor(workers, ray_address, cpus_per_worker, gpus_per_worker)
            stack.callback(executor.close)
            samplers = settle_prior(handle, wanted, place, loaded, bound, settings, tell)
            log_start(tracker, loaded, bound, settings, start.attrs, prior_account(handle))
            loop = SearchLoop(
                handle,
                bound,
                settings,
                suite=folder / "suite",
                fingerprint=loaded.fingerprint,
                checkpoints=folder,
                tracker=tracker,
                notify=notify,
                samplers=samplers,
                taken=start.taken,
                settle=partial(with_batch_size, suite=loaded),
            )
            diagnosing, judging = closing(
                loaded,
                settings,
                handle,
                loop,
                folder=folder,
                home=place,
                tracker=tracker,
                notify=notify,
            )
            between = [diagnosing] if diagnose and diagnosing is not None else []
            executor.run(Chain(loop, loop.referencing(), loop, *between, judging))
            handle.commit()
            if judging.returned is None:  # Ctrl-C
                tracker.search_finished({}, {}, [], "KILLED")
                return search_result(
                    handle,
                    loaded,
                    started,
                    mlflow=tracked(tracker),
                    test=None,
                    model=None,
                    cost=cost,
                    front=front_rows(handle, cost),
                )
            test, model = judging.returned.test, judging.returned.model
            advice = None if diagnosing is None else diagnosing.returned
            if stored_diagnosis(handle) is not None and advice is not None:
                store_tried(handle, advice, judging.returned)
            kept = {
                "test": test,
                "model": str(model),
                "trials": len(handle.trials()),
                **chosen_by(settings),
                "mlflow": tracked(tracker),
            }
            handle.set_attr("judgement", kept)
            handle.commit()
            log_end(tracker, test, model, stored_diagnosis(handle), prior_account(handle))
            leave_record(place, handle, loaded, notify)
            shutil.rmtree(folder, ignore_errors=True)
        result = search_result(
            handle,
            loaded,
            started,
            mlflow=kept["mlflow"],
            test=kept["test"],
            model=Path(kept["model"]),
            cost=cost,
            front=front_rows(handle, cost),
        )
        if tracker.problem:
            notify(Progress("judge", 0, 0, message=f"MLflow: {tracker.problem}"))
        return result
