"""`autometa trials`, `best` and `delete`: what a study holds, and how it goes away."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autometa.cli import options
from autometa.cli.disk import folder_size, study_paths
from autometa.cli.output import (
    counted,
    emit_json,
    note,
    quiet_stdout,
    say,
    settings,
    shown,
    size,
    table,
)
from autometa.errors import (
    BrokenStudyError,
    InfrastructureError,
    StudyError,
    UserError,
    reason_of,
)
from autometa.home import Home

Row = dict[str, Any]


def trials(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study; without it, all studies.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(callback=options.at_least(0), help="Rows to show; 0 shows all. JSON has all."),
    ] = 20,
    storage: options.Storage = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """List a study's trials, best first, or the studies in the home folder."""
    folder = Home.find(home)
    if study is None:
        _list_studies(folder, storage, json)
        return
    rows = _rows(folder, study, storage)
    if json:
        emit_json(rows)
        return
    ordered = sorted(rows, key=_best_first)
    kept = ordered[:limit] if limit else ordered
    varied = _varied([row["params"] for row in rows])
    with_cost = any(row["cost"] is not None for row in rows)
    bound = any(row["feasible"] is not None for row in rows)
    learned = any(row["proposed_by"] is not None for row in rows)
    table(
        [
            *("trial", "state", "arm", "value"),
            *(["proposed by"] if learned else []),
            *(["cost"] if with_cost else []),
            *(["feasible", "closest task"] if bound else []),
            "parameters",
        ],
        [
            [
                row["number"],
                row["state"],
                row.get("arm"),
                row["value"],
                *([row["proposed_by"]] if learned else []),
                *([row["cost"] and f"{row['cost']:,.6g}"] if with_cost else []),
                *([_yes_no(row["feasible"]), _closest(row["closest"])] if bound else []),
                settings(row["params"], varied),
            ]
            for row in kept
        ],
        right=["trial", "value", "cost"],
    )
    if len(kept) < len(ordered):
        note(f"{len(ordered) - len(kept)} more; --limit 0 shows all.")


def best(
    study: options.Study,
    arm: Annotated[
        str | None,
        typer.Option(metavar="sharing|independent", help="The best of this arm only."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the configuration as YAML, for `autometa train --config`."
        ),
    ] = None,
    storage: options.Storage = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Show the best finished trial of each arm, by its validation score.

    Where a bound on the tasks is set, of those that keep to it.
    """
    if arm not in (None, "sharing", "independent"):
        raise UserError(f"Option `--arm` should be sharing or independent. Found `{arm}`.")
    found: dict[str, Row] = {}
    for row in sorted(_rows(Home.find(home), study, storage), key=_best_first):
        wanted = row["state"] == "COMPLETE" and row["feasible"] is not False
        if wanted and arm in (None, row.get("arm")):
            found.setdefault(str(row.get("arm")), row)
    if not found:
        of = f" of arm `{arm}`" if arm else ""
        raise StudyError(
            f"Study `{study}` has no finished trial{of} yet. Let it run on with `--resume`."
        )
    first = next(iter(found.values()))
    if out is not None:
        _write_config(out, first["config"])
    if json:
        emit_json({"study": study, "best": first, "arms": found, "out": out})
        return
    for name, row in found.items():
        cost = "" if row["cost"] is None else f", cost {row['cost']:,.6g}"
        say(f"{name}: trial {row['number']}, validation score {row['value']:.4f}{cost}")
        for key, value in row["params"].items():
            say(f"  {key}: {value}")
    if out is not None:
        flags = _episode_flags(Home.find(home), study, storage)
        command = f"autometa train SUITE{flags} --config {shown(out)}"
        say(f"Written to {shown(out)}; train it with `{command}`.")


def delete(
    study: options.Study,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    storage: options.Storage = None,
    mlflow_tracking_uri: options.TrackingUri = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Delete a study with its checkpoints, model, record for later searches and MLflow runs."""
    from autometa.study import delete_study, read_study

    folder = Home.find(home)
    n_trials, study_id, is_broken = 0, None, False
    try:
        record = read_study(folder, study, storage)  # a StudyError names the nearest study
        n_trials = len(record.get_trials(deepcopy=False))
        study_id = record.user_attrs.get("id")
    except (BrokenStudyError, InfrastructureError) as exc:
        if storage is not None:
            raise
        note(f"{exc}")
        is_broken = True
    paths = [path for path in study_paths(folder, study) if path.exists()]
    used = sum(folder_size(path) for path in paths)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"Deleting study `{study}` cannot be undone. Add --yes to confirm.")
        typer.confirm(
            f"Delete study {study} with {n_trials} trials, its models and its MLflow runs "
            f"({size(used)})?",
            abort=True,
            err=True,
        )
    # The study first, because this refuses while a search is running.
    delete_study(folder, study, storage)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    n_runs = 0
    if mlflow_tracking_uri != "off" and not is_broken:  # then whose runs they are is not known
        n_runs = _delete_runs(folder, study, mlflow_tracking_uri, study_id)
    if json:
        emit_json({"study": study, "trials": n_trials, "runs": n_runs, "bytes": used})
    else:
        gone = f"{counted(n_trials, 'trial')}, {counted(n_runs, 'MLflow run')}, {size(used)}"
        say(f"Deleted study {study}: {gone}.")


def _list_studies(home: Home, storage: str | None, json: bool) -> None:
    from autometa.study import broken_studies, hidden, list_studies

    found = list_studies(home, storage)
    broken = set(broken_studies(home, storage)) if found else set()
    if json:
        emit_json(found)
    elif found:
        for name in found:
            say(f"{name} (broken)" if name in broken else name)
    else:
        where = shown(home.root) if storage is None else hidden(storage)
        note(f"No study in {where} yet. Start one with `autometa search SUITE`.")
        if storage is None:
            note("Studies in a database are listed with --storage URL.")
    for name in sorted(broken):
        note(
            f"Study {name} is broken: its search was killed before it began. Remove it with "
            f"`autometa delete {name}`, or begin it with --resume."
        )


def _rows(home: Home, study: str, storage: str | None) -> list[Row]:
    from autometa.study import read_study, trial_rows

    return trial_rows(read_study(home, study, storage))


def _episode_flags(home: Home, study: str, storage: str | None) -> str:
    """The options that `train` needs for episodes like those of the study's trials."""
    from autometa.api.episodic import EPISODES, training_flags
    from autometa.study import read_study

    facts = read_study(home, study, storage).user_attrs.get(EPISODES)
    return "" if facts is None else f" {training_flags(facts)}"


def _delete_runs(home: Home, study: str, uri: str | None, study_id: str | None) -> int:
    from autometa.tracking import delete_runs, tracking_place

    if tracking_place(uri, home).source is None and not home.mlflow_db.exists():
        return 0  # without loading MLflow

    try:
        with quiet_stdout():
            return delete_runs(uri, home, study, study_id)
    except InfrastructureError as exc:
        raise InfrastructureError(
            f"Study `{study}` is deleted, but not its MLflow runs: {exc} Delete them in the UI."
        ) from exc


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    import yaml

    try:
        path.write_text(yaml.safe_dump(dict(config), sort_keys=True), encoding="utf-8")
    except OSError as exc:
        raise UserError(f"Option `--out`: `{path}` cannot be written ({reason_of(exc)}).") from None


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")


def _closest(closest: Mapping[str, Any] | None) -> str | None:
    return None if closest is None else f"{closest['task']} {-closest['below']:+.3f}"


def _best_first(row: Row) -> tuple[int, bool, float, int]:
    order = {"COMPLETE": 0, "PRUNED": 1, "RUNNING": 2, "WAITING": 3, "FAIL": 4}
    value = row["value"]
    broken = row["feasible"] is False  # after those that keep to the bound
    by_value = -value if value is not None else 0.0
    return (order.get(row["state"], 5), broken, by_value, row["number"])


def _varied(params: list[dict[str, Any]]) -> set[str]:
    """Names that do not have one value everywhere: the others would only fill the line."""
    names = {name for one in params for name in one}
    missing = object()
    return {n for n in names if len({repr(one.get(n, missing)) for one in params}) > 1}
