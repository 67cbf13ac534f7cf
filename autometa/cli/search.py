"""`autometa search`: the search, its live progress, and what it found."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from autometa.cli import options, table_options
from autometa.cli.finding import print_finding
from autometa.cli.group import command_line
from autometa.cli.output import emit_json, note, quiet_stdout
from autometa.cli.progress import ProgressView
from autometa.home import Home

_SEARCH = "Search"
_MACHINE = "Where it runs"


def search(
    ctx: typer.Context,
    suite: options.Suite,
    targets: options.Targets = None,
    target: options.Target = None,
    task_column: options.TaskColumn = None,
    kind: options.Kind = None,
    metric: options.Metric = None,
    split_column: options.SplitColumn = None,
    group_column: options.GroupColumn = None,
    time_column: options.TimeColumn = None,
    test: options.Test = None,
    drop: options.Drop = None,
    sep: table_options.Sep = None,
    decimal: table_options.Decimal = None,
    encoding: table_options.Encoding = None,
    missing: table_options.Missing = None,
    date_order: table_options.DateOrder = None,
    keep: options.Keep = None,
    unusable: options.Unusable = None,
    target_scale: options.TargetScale = None,
    task_scale: options.TaskScale = None,
    episodic: options.Episodic = False,
    ways: options.Ways = None,
    shots: options.Shots = None,
    queries: options.Queries = None,
    one_task: options.OneTask = False,
    test_ways: options.TestWays = None,
    test_shots: options.TestShots = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Search space: a YAML file or the name of a shipped one. Default: by the suite.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    n_trials: Annotated[
        int,
        typer.Option(
            callback=options.at_least(1),
            help="Trials in all, those of an earlier run of this study included.",
            rich_help_panel=_SEARCH,
        ),
    ] = 64,
    timeout: Annotated[
        float | None,
        typer.Option(
            callback=options.at_least(0),
            metavar="SECONDS",
            help="For everything: half of it for trials and diagnosis, the rest for judging what "
            "ran, with fewer finalists and no longer training where it is short.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    max_steps: options.MaxSteps = None,
    max_epochs: options.MaxEpochs = None,
    independent_share: Annotated[
        float,
        typer.Option(
            callback=options.share,
            help="Share of the trials for independent networks, the yardstick.",
            rich_help_panel=_SEARCH,
        ),
    ] = 0.5,
    no_task_worse_than: Annotated[
        float | None,
        typer.Option(
            callback=options.at_least(0),
            metavar="DELTA",
            help="Let sharing lower no task's score by more than this; independent networks are "
            "tuned first and set the reference.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Also minimise this cost: parameters or inference-time. Shows the Pareto front.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="Networks that are judged and delivered as one model, 1 to 5. Default: 5; with "
            "--episodic 1.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    deliver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto: the model of the recommended method, which may be ridge regression or "
            "trees; network: of the networks only.",
            rich_help_panel=_SEARCH,
        ),
    ] = "auto",
    sampler: Annotated[
        str,
        typer.Option(metavar="NAME", help="tpe, gp, random or cmaes.", rich_help_panel=_SEARCH),
    ] = "tpe",
    pruner: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="asha, hyperband, median or none.", rich_help_panel=_SEARCH
        ),
    ] = "asha",
    prior: options.Prior = "auto",
    diagnosis: Annotated[
        bool | None,
        typer.Option(
            "--diagnosis/--no-diagnosis",
            help="Find out why sharing hurts or helps, and try what that advises. Default: yes; "
            "there is none with --episodic.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="An earlier model (folder or name) whose shared blocks networks of both arms may "
            "start from; whether they do is searched. It must not have seen rows of this suite. "
            "auto: of the searches in the home folder, the one whose suite is nearest.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    seed: options.Seed = 0,
    study_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the study. Default: the suite's name and a number."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the study of this name; starts it if there is none."
        ),
    ] = False,
    storage: options.Storage = None,
    mlflow_tracking_uri: options.TrackingUri = None,
    workers: Annotated[
        int | None,
        typer.Option(
            callback=options.at_least(0),
            help="Worker processes; 0 runs all in this process. Default: as many as cores allow.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A running Ray cluster to join. Default: an own local Ray.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int,
        typer.Option(
            callback=options.at_least(1),
            help="CPU cores a worker gets, with a thread on each. One is best where several runs "
            "are trained as one; more help models so large that each is trained alone.",
            rich_help_panel=_MACHINE,
        ),
    ] = 1,
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            callback=options.at_least(0),
            help="GPUs a worker gets; 0.25 puts four workers on one. Each plans its memory with "
            "its share.",
            rich_help_panel=_MACHINE,
        ),
    ] = 0.0,
    device: options.Device = "auto",
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Search what the tasks of SUITE should share, and compare with independent networks.

    Half of the trials tune networks that share, half tune independent ones. Controls then show why
    sharing hurts or helps, and what they advise is tried in up to two more trials. The best of
    each are trained again with several seeds, longer where that pays, and compared once on the
    test rows with each other and with ridge regression and trees, tuned on the same validation
    rows. The recommended method is kept as a model, whichever it is.

    With --episodic --shots 10 (or --ways 5 --shots 1) whole tasks are held out, and what is
    searched is how a new task is learned from so few rows: by gradient, prototypes, a neural
    process, a Bayesian head or fine-tuning. The yardstick is learning it from scratch.
    """
    data = options.suite_options(
        targets=targets,
        target=target,
        task_column=task_column,
        kind=kind,
        metric=metric,
        split_column=split_column,
        group_column=group_column,
        time_column=time_column,
        test=test,
        drop=drop,
        sep=sep,
        decimal=decimal,
        encoding=encoding,
        missing=missing,
        date_order=date_order,
        keep=keep,
        unusable=unusable,
        target_scale=target_scale,
        task_scale=task_scale,
    )
    from autometa import api

    try:
        with quiet_stdout(), ProgressView() as progress:
            result = api.search(
                suite,
                space=space,
                study_name=study_name,
                storage=storage,
                n_trials=n_trials,
                timeout=timeout,
                max_steps=max_steps,
                max_epochs=max_epochs,
                workers=workers,
                ray_address=ray_address,
                cpus_per_worker=cpus_per_worker,
                gpus_per_worker=gpus_per_worker,
                independent_share=independent_share,
                no_task_worse_than=no_task_worse_than,
                cost=cost,
                ensemble=ensemble,
                deliver=deliver,
                mlflow_tracking_uri=mlflow_tracking_uri,
                seed=seed,
                resume=resume,
                sampler=sampler,
                pruner=pruner,
                prior=prior,
                device=device,
                diagnose=diagnosis,
                init_from=init_from,
                episodic=episodic,
                ways=ways,
                shots=shots,
                queries=queries,
                one_task=one_task,
                test_ways=test_ways,
                test_shots=test_shots,
                home=home,
                progress=progress,
                **data,
            )
    except KeyboardInterrupt:
        _stopped(ctx, study_name)
        raise typer.Exit(130) from None
    if json:
        emit_json(result.to_json())
    else:
        print_finding(result.to_json(), Home.find(home), storage, mlflow_tracking_uri)
    if result.interrupted:
        _stopped(ctx, result.study)
        raise typer.Exit(130)


def resume_command(words: list[str], study: str | None) -> str:
    """The command that goes on where the one given by `words` stopped."""
    words = list(words)
    if study and not any(word.split("=")[0] == "--study-name" for word in words):
        words += ["--study-name", study]
    if "--resume" not in words:
        words.append("--resume")
    return shlex.join(["autometa", *words])


def _stopped(ctx: typer.Context, study: str | None) -> None:
    if study is None:
        note("Stopped. Finished trials are kept; `autometa trials` names the study, then add")
        note("--study-name NAME --resume to the same command to go on.")
        return
    note("Stopped. Finished trials are kept. Go on with:")
    note(f"  {resume_command(command_line(ctx), study)}")
