"""`autometa train`, `adapt` and `predict`: one model, without a search."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from autometa.cli import options, table_options
from autometa.cli.output import (
    counted,
    duration,
    emit_json,
    note,
    plain,
    print_notes,
    quiet_stdout,
    say,
    shown,
    told_as_notes,
)
from autometa.cli.rows import WRITERS, read_labelled, read_rows, write_rows
from autometa.errors import UserError, reason_of
from autometa.home import Home, check_writable

#: tasks whose scores `train` prints
_TASKS = 20


def train(
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
    episodic: Annotated[
        bool,
        typer.Option(
            "--episodic",
            help="Hold out whole tasks, and train to learn a new one from a few rows.",
            rich_help_panel=options.EPISODES,
        ),
    ] = False,
    ways: options.Ways = None,
    shots: options.Shots = None,
    queries: options.Queries = None,
    one_task: options.OneTask = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with the configuration, as `autometa best STUDY --out FILE` writes it.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="One parameter, e.g. sharing.kind=hard; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the model is written.")
    ] = None,
    max_steps: options.MaxSteps = None,
    max_epochs: options.MaxEpochs = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="An earlier model (folder or name) whose shared blocks it starts from.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            callback=options.seed_range,
            help="Seed of the training; the split of the rows stays.",
        ),
    ] = 0,
    ensemble: Annotated[
        int,
        typer.Option(
            metavar="M",
            callback=options.at_least(1),
            help="Train M networks, with seeds from --seed on, that predict together.",
        ),
    ] = 1,
    device: options.Device = "auto",
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Train one configuration and keep its model."""
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
    chosen = _configuration(config, set_)
    from autometa import api

    with quiet_stdout():
        result = api.train(
            suite,
            chosen,
            max_steps=max_steps,
            max_epochs=max_epochs,
            seed=seed,
            ensemble=ensemble,
            device=device,
            init_from=init_from,
            episodic=episodic,
            ways=ways,
            shots=shots,
            queries=queries,
            one_task=one_task,
            home=home,
            out=out,
            **data,
        )
    if json:
        emit_json(result.to_json())
        return
    print_notes(result.notes)
    say(f"Validation score {result.value:.4f} after {duration(result.seconds)}.")
    for name, value in islice(result.tasks.items(), _TASKS):
        say(f"  {name}: " + ("not judged" if value is None else f"{value:.4f}"))
    if len(result.tasks) > _TASKS:
        say(f"  {len(result.tasks) - _TASKS} more tasks; --json has them all.")
    say(f"Model: {shown(result.model)}")


_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model's folder, or its name in the home.")
]


def adapt(
    model: _Model,
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="NEW_TASK",
            help="Labelled rows of the new task: a table, or .npz (`x` and `y`).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the model of the new task is written.")
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column of the labels. Default: that of training, or the only column that is "
            "no feature.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            callback=options.at_least(0),
            help="Gradient steps on the rows, for models that take them; may exceed training's.",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Size of these steps.")] = None,
    sep: table_options.Sep = None,
    decimal: table_options.Decimal = None,
    encoding: table_options.Encoding = None,
    missing: table_options.Missing = None,
    date_order: table_options.DateOrder = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Make the model of a new task from a few labelled rows.

    MODEL has to come from `search` or `train` with --episodic: it has learned how to learn such a
    task.
    """
    found = find_model(model, Home.find(home))
    _check_folder(out, found)
    from autometa import api

    with quiet_stdout():
        loaded = api.load_model(found)
        reading = table_options.read_options(sep, decimal, encoding, missing, date_order)
        table, labels = read_labelled(rows, target, loaded.target, reading)
        adapted = loaded.adapt(
            table, target=target, labels=labels, steps=steps, rate=rate, **reading
        )
        adapted.save(out)
    facts = adapted.facts["adapted"]
    for text in facts["notes"]:
        note(f"Note: {text}")
    if json:
        emit_json({"model": str(out), "from": str(found), **facts})
        return
    say(_learned(facts))
    say(f"Model: {shown(out)}")
    say(f"  autometa predict {shown(out)} NEW_ROWS --out predictions.csv")


def predict(
    model: _Model,
    rows: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="Rows to predict: a table, .npy or .npz."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write: .csv, .tsv or .parquet. Default: stdout."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Predict these tasks only.")
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Probabilities of the classes, not the likeliest one.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Add to numbers the ends of the interval that holds this share of new values, "
            "e.g. 0.9. Of adapted models, for those that say how sure they are.",
        ),
    ] = None,
    sep: table_options.Sep = None,
    decimal: table_options.Decimal = None,
    encoding: table_options.Encoding = None,
    missing: table_options.Missing = None,
    date_order: table_options.DateOrder = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Predict new rows, in the units and with the labels of the training table."""
    if out is not None and out.suffix not in WRITERS:
        raise UserError(f"Option `--out` should end in {', '.join(WRITERS)}. Found `{out}`.")
    found = find_model(model, Home.find(home))
    from autometa import api

    reading = table_options.read_options(sep, decimal, encoding, missing, date_order)
    with quiet_stdout(), told_as_notes():
        predictions = api.load_model(found).predict(
            read_rows(rows, reading), tasks=tasks, proba=proba, interval=interval, **reading
        )
    if out is not None:
        write_rows(predictions, out)
        if not json:
            note(f"{len(predictions)} rows written to {shown(out)}.")
    if json:
        body: dict[str, Any] = {"model": str(found), "rows": len(predictions)}
        if out is not None:
            body["out"] = str(out)
        else:
            body["predictions"] = plain(predictions.to_dict(orient="records"))
        emit_json(body)
    elif out is None:
        predictions.to_csv(sys.stdout, index=False)


def find_model(name: str, home: Home) -> Path:
    """The folder of a model given by path or by its name in the home folder.

    Raises:
        UserError: neither exists; the nearest name is told.
    """
    return home.find_model(name, "Argument `MODEL`")


def _configuration(file: Path | None, items: list[str] | None) -> dict[str, Any]:
    """The file's parameters with those of `--set` over them, as dotted names."""
    import yaml

    from autometa.config import flatten, read_yaml

    chosen: dict[str, Any] = {}
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise UserError(f"Option `--config`: `{file}` cannot be read ({exc}).") from None
        chosen.update(flatten(read_yaml(text, str(file))))
    for name, value in options.pairs(items, "--set").items():
        try:
            chosen[name] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise UserError(
                f"Option `--set {name}={value}` should have a YAML value ({reason_of(exc)})."
            ) from exc
    return chosen


def _check_folder(out: Path, model: Path) -> None:
    """Refuse a folder that cannot be written, or that holds a model of many tasks."""
    check_writable(out, "Option `--out`")
    if out.resolve() == model.resolve():
        raise UserError(
            "Option `--out` should be another folder than `MODEL`, which can be adapted to more "
            f"tasks. Found `{out}`."
        )
    if (out / "model.json").exists():
        from autometa import api

        if "adapted" not in api.load_model(out).facts:
            raise UserError(
                "Option `--out` should not be the folder of a model of many tasks, which would be "
                f"lost. Found `{out}`."
            )


def _learned(facts: dict[str, Any]) -> str:
    """One line about what an adapted model learned from."""
    name = f"`{facts['target']}`" + (f" of {facts['task']}" if facts["task"] else "")
    rows = counted(facts["rows"], "row")
    if facts["unlabelled"]:
        rows += f" ({facts['unlabelled']} without a label left out)"
    (measure, value) = next(iter(facts["fit"].items()))
    if measure == "rmse":
        return f"Learned {name} from {rows}; RMSE on them {value:.4g}."
    classes = ", ".join(f"{label} {count}" for label, count in facts["classes"].items())
    return f"Learned {name} from {rows} ({classes}); {value:.0%} of them are told right."
