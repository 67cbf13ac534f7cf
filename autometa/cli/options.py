"""Options that several commands take, defined once, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autometa.cli import table_options
from autometa.errors import UserError

Number = TypeVar("Number", int, float)


def at_least(low: float) -> Callable[[typer.CallbackParam, Any], Any]:
    """A callback that refuses a number below `low`."""

    def check(param: typer.CallbackParam, value: Number | None) -> Number | None:
        if value is not None and not value >= low:  # `not >=` also refuses NaN
            raise UserError(f"Option `{_flag(param)}` should be at least {low:g}. Found `{value}`.")
        return value

    return check


def between(low: int, high: int) -> Callable[[typer.CallbackParam, Any], Any]:
    """A callback that refuses a number outside two ends."""

    def check(param: typer.CallbackParam, value: Number | None) -> Number | None:
        if value is not None and not low <= value <= high:
            raise UserError(
                f"Option `{_flag(param)}` should be between {low} and {high}. Found `{value}`."
            )
        return value

    return check


share = between(0, 1)
seed_range = between(0, 2**32 - 1)


def _flag(param: typer.CallbackParam) -> str:
    return next((flag for flag in param.opts if flag.startswith("--")), str(param.name))


def pairs(items: list[str] | None, option: str, *, plain: bool = False) -> dict[str, str]:
    """`["a=1", "b=x"]` to `{"a": "1", "b": "x"}`.

    Args:
        plain: values have no `=`, so that names may.

    Raises:
        UserError: an item has no `=`, or a name comes twice.
    """
    out: dict[str, str] = {}
    for item in items or []:
        name, sign, value = item.rpartition("=") if plain else item.partition("=")
        name = name.strip()
        if not sign or not name or not value.strip():
            raise UserError(f"Option `{option}` should be NAME=VALUE. Found `{item}`.")
        if name in out:
            raise UserError(f"Option `{option}` names `{name}` twice. Give each name once.")
        out[name] = value.strip()
    return out


def suite_options(
    *,
    targets: str | None,
    target: list[str] | None,
    task_column: str | None,
    kind: list[str] | None,
    metric: list[str] | None,
    split_column: str | None,
    group_column: str | None,
    time_column: str | None,
    test: Path | None,
    drop: list[str] | None,
    sep: str | None,
    decimal: str | None,
    encoding: str | None,
    missing: list[str] | None,
    date_order: str | None,
    keep: list[str] | None,
    unusable: str | None,
    target_scale: str | None,
    task_scale: str | None,
) -> dict[str, Any]:
    """The options of a suite that were given, as keywords of `load_suite`."""
    one = target[0] if target and len(target) == 1 else None
    if target and one is None and targets is not None:
        raise UserError("Give either `--targets` or `--target` several times, not both.")
    chosen: dict[str, Any] = {
        "targets": target if target and one is None else targets,
        "target": one,
        "task_column": task_column,
        "kinds": _one_or_each(kind, "--kind"),
        "metrics": _one_or_each(metric, "--metric"),
        "split_column": split_column,
        "group_column": group_column,
        "time_column": time_column,
        "test": test,
        "drop": drop or None,
        "keep": tuple(keep or ()) or None,
        "unusable": unusable,
        "target_scale": target_scale,
        "task_scale": task_scale,
        **table_options.read_options(sep, decimal, encoding, missing, date_order),
    }
    return {key: value for key, value in chosen.items() if value is not None}


def _one_or_each(items: list[str] | None, option: str) -> str | dict[str, str] | None:
    """One value for all tasks, or one for each that is named."""
    if not items:
        return None
    if len(items) == 1 and "=" not in items[0]:
        return items[0]
    return pairs(items, option, plain=True)


# --- the suite ---------------------------------------------------------------------------------

_SUITE = "Tasks and data"

Suite = Annotated[
    str,
    typer.Argument(
        metavar="SUITE",
        help="A built-in suite (see [bold]autometa suites[/bold]), a *.suite.yaml file, or a "
        "table: .csv, .tsv, .txt, .data, .parquet, .xlsx, also packed (.gz), .npz.",
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C",
        help="Columns to predict, one task each; the other columns are features. Names may have "
        "commas.",
        rich_help_panel=_SUITE,
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="The one column to predict when --task-column says which task a row belongs to; "
        "several times: as --targets.",
        rich_help_panel=_SUITE,
    ),
]
TaskColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="The column that names a row's task.", rich_help_panel=_SUITE
    ),
]
Kind = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TASK=]KIND",
        help="regression, binary or multiclass, where the guess from the column is not wanted.",
        rich_help_panel=_SUITE,
    ),
]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TASK=]METRIC",
        help="rmse, accuracy or auc, for one task or for all.",
        rich_help_panel=_SUITE,
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="A column that says train, val or test.",
        rich_help_panel=_SUITE,
    ),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Rows with the same value (a patient, a machine) stay in one split.",
        rich_help_panel=_SUITE,
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A separate table with the test rows.", rich_help_panel=_SUITE
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="A,B", help="Columns to leave out; repeatable.", rich_help_panel=_SUITE),
]

TimeColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Dates or numbers; the latest rows are the test rows, those before them validation.",
        rich_help_panel=_SUITE,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="A feature that stays though it looks like a row number or an identifier; more than "
        "once for several.",
        rich_help_panel=_SUITE,
    ),
]
Unusable = Annotated[
    str | None,
    typer.Option(
        metavar="drop|error",
        help="What becomes of tasks with one class, or too few rows. Default: they are left out "
        "where two others remain.",
        rich_help_panel=_SUITE,
    ),
]
TargetScale = Annotated[
    str | None,
    typer.Option(
        metavar="standard|robust",
        help="robust standardises numbers by median and interquartile range, and lets values far "
        "out count as 10 deviations.",
        rich_help_panel=_SUITE,
    ),
]

TaskScale = Annotated[
    str | None,
    typer.Option(
        metavar="auto|shared|own",
        help="Whether the tasks of --task-column are standardised together or each by itself. "
        "Default: by themselves where they have no unit in common.",
        rich_help_panel=_SUITE,
    ),
]

# --- episodes ----------------------------------------------------------------------------------

EPISODES = "Episodes: learning new tasks from a few rows"

Episodic = Annotated[
    bool,
    typer.Option(
        "--episodic",
        help="Hold out whole tasks, and search how a new one is learned from a few rows.",
        rich_help_panel=EPISODES,
    ),
]
Ways = Annotated[
    int | None,
    typer.Option(
        callback=at_least(2),
        help="Classes of an episode, where tasks have several classes.",
        rich_help_panel=EPISODES,
    ),
]
Shots = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="Rows that a new task is learned from; with --ways of each class.",
        rich_help_panel=EPISODES,
    ),
]
Queries = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="Rows that are predicted after it, in training; with --ways of each class, and of "
        "held-out tasks too, which without are asked all other rows, up to 256. Default: 15, or as "
        "many as there are.",
        rich_help_panel=EPISODES,
    ),
]
OneTask = Annotated[
    bool,
    typer.Option(
        "--one-task",
        help="Classes of an episode are all of one task (one alphabet), not of any.",
        rich_help_panel=EPISODES,
    ),
]
TestWays = Annotated[
    int | None,
    typer.Option(
        callback=at_least(2),
        help="Ways in validation and the final test, if they are to differ from training.",
        rich_help_panel=EPISODES,
    ),
]
TestShots = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="Shots in validation and the final test, if they are to differ from training.",
        rich_help_panel=EPISODES,
    ),
]

# --- everywhere --------------------------------------------------------------------------------

Study = Annotated[str, typer.Argument(metavar="STUDY", help="The name of a study.")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Optuna storage, e.g. postgresql+psycopg://user@host/db. Default: one journal file "
        "a study in the home folder.",
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where studies and models live. Default: $AUTOMETA_HOME, else ./autometa-home.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="MLflow server or store. Default: $MLFLOW_TRACKING_URI, else SQLite in the home "
        "folder; [bold]off[/bold] tracks nothing.",
    ),
]
Prior = Annotated[
    str,
    typer.Option(
        metavar="PRIOR",
        help="Earlier searches to learn from: auto, the nearest of the suites that come with "
        "autometa and of those in the home folder; off, none; a prior or record of "
        "[bold]autometa prior list[/bold]; a prior file; or the studies of an Optuna storage, one "
        "with URL#STUDY. A resumed study keeps what it has.",
        rich_help_panel="Search",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")]
Seed = Annotated[
    int,
    typer.Option(
        callback=seed_range,
        help="Seed of suggestions and training; the split of the rows stays.",
    ),
]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="Optimizer steps of a full training. Default: by the suite, 2000 for small tables.",
    ),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="The same in passes over the training rows, in place of --max-steps.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one line of JSON on stdout, all else on stderr."
    ),
]
