"""What a search found, as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autometa.cli.diagnosis import print_diagnosis
from autometa.cli.output import duration, say, settings, shown, table
from autometa.home import Home

#: tasks in the table; a suite can have hundreds
_TASKS = 20


def print_finding(found: dict[str, Any], home: Home) -> None:
    """Print the trials, the verdict, the tasks and where the model is.

    Args:
        found: what `SearchResult.to_json` gives.
        home: for the commands that are shown.
    """
    states = found["states"]
    words = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    counts = [f"{states.get(state, 0)} {word}" for state, word in words.items()]
    if unfinished := found["n_trials"] - sum(states.values()):
        counts.append(f"{unfinished} unfinished")
    say(
        f"Study {found['study']}: {found['n_trials']} trials ({', '.join(counts)}) on "
        f"{found['suite']}, {duration(found['seconds'])}."
    )
    if found["best"] is not None:
        best = found["best"]
        say(f"Best on validation: trial {best['number']}, score {best['value']:.4f}.")
        say(f"  {settings(best['params'])}")
    test = found["test"]
    if test is None:
        return
    say()
    say(test["verdict"])
    for remark in test.get("notes", ()):
        say(f"Note: {remark}.")
    if test.get("gbdt_score") is not None:
        say(f"For comparison, gradient-boosted trees score {test['gbdt_score']:.3f}.")
    if test["tasks"]:
        say()
        _tasks(test["tasks"])
    if found["diagnosis"] is not None:
        say()
        print_diagnosis(found["diagnosis"])
    say()
    _next(found, home)


def _tasks(tasks: list[dict[str, Any]]) -> None:
    """The tasks that changed most; test rows, means over the seeds."""

    def change(task: dict[str, Any]) -> float:
        pair = (task["shared"], task["independent"])
        return -1.0 if None in pair else abs(pair[0] - pair[1])

    ordered = sorted(tasks, key=change, reverse=True) if len(tasks) > _TASKS else tasks
    table(
        ["task", "metric", "sharing", "independent", "sharing has", "test rows"],
        [
            [
                task["name"],
                task["metric"],
                task["shared_value"],
                task["independent_value"],
                task["effect"] if task["judged"] else f"not judged: {task['reason']}",
                task["rows"],
            ]
            for task in ordered[:_TASKS]
        ],
        right=["test rows"],
    )
    if len(tasks) > _TASKS:
        say(f"{len(tasks) - _TASKS} more tasks, with smaller differences; --json has them all.")


def _next(found: dict[str, Any], home: Home) -> None:
    where = "" if home == Home.find() else f" --home {shown(home.root)}"
    kind = "independent networks" if found["test"]["recommended"] == "independent" else "sharing"
    model = shown(Path(found["model"]))
    say(f"Model ({kind}, trained again on training and validation rows): {model}")
    say(f"  autometa predict {model} NEW_ROWS --out predictions.csv")
    say(f"  autometa trials {found['study']}{where}")
    if found["diagnosis"] is not None and found["diagnosis"]["reason"] is None:
        say(f"  autometa diagnose {found['study']}{where}")
    if found["mlflow"] is not None:
        say(f"  autometa ui{where}")
