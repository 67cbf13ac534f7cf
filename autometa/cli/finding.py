"""What a search found, as a person reads it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from autometa.cli.diagnosis import print_diagnosis
from autometa.cli.episodes import print_methods
from autometa.cli.output import counted, duration, print_notes, say, settings, shown, table
from autometa.cli.prior import print_account
from autometa.home import Home

#: tasks in the table; a suite can have hundreds
_TASKS = 20


def print_finding(
    found: dict[str, Any], home: Home, storage: str | None = None, uri: str | None = None
) -> None:
    """Print the trials, the verdict, the tasks and where the model is.

    Args:
        found: what `SearchResult.to_json` gives.
        home, storage, uri: of the study and of MLflow, for the commands that are shown.
    """
    states = found["states"]
    words = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    counts = [f"{states.get(state, 0)} {word}" for state, word in words.items()]
    if unfinished := found["n_trials"] - sum(states.values()):
        counts.append(f"{unfinished} unfinished")
    say(
        f"Study {found['study']}: {counted(found['n_trials'], 'trial')} ({', '.join(counts)}) on "
        f"{found['suite']}, {duration(found['seconds'])}."
    )
    print_notes(found.get("notes", ()))
    if found["best"] is not None:
        best = found["best"]
        say(f"Best on validation: trial {best['number']}, score {best['value']:.4f}.")
        say(f"  {settings(best['params'])}")
    if found.get("front"):
        say()
        _front(found)
    prior = found["prior"]
    if prior is not None and prior["asked"] != "off":
        say()
        print_account(prior)
    if found.get("init"):
        _start(found["init"])
    test = found["test"]
    if test is None:
        return
    say()
    say(test["verdict"])
    for remark in test.get("notes", ()):
        say(f"Note: {remark}.")
    if test.get("constraint"):
        _bound(test["constraint"])
    say()
    print_methods(test)
    if test["layout"] == "rows" and test["tasks"]:
        say()
        _tasks(test["tasks"], test.get("constraint"))
    if found["diagnosis"] is not None:
        say()
        print_diagnosis(found["diagnosis"])
    say()
    _next(found, home, storage, uri)


def _start(init: dict[str, Any]) -> None:
    """Which earlier model runs could start from, and who did."""
    if init["model"] is None:
        say("Start: no earlier model fits; every run started at random.")
        return
    blocks = counted(init["blocks"], "block")
    say(
        f"Start: {init['trials']} trials started from model {init['model']} ({blocks}, "
        f"{init['parameters']:,} parameters)."
    )
    for arm, winner in init["winners"].items():
        taken, start = winner["taken"], "at random"
        if taken is not None:
            start = f"from it ({taken['parameters']:,} of {taken['of']:,} parameters)"
        say(f"  Trial {winner['trial']}, which won the {arm} arm, started {start}.")


def _bound(bound: dict[str, Any]) -> None:
    """Who kept to the bound, which task comes closest to it, and what the test rows say."""
    delta, reference, winner = bound["no_task_worse_than"], bound["reference"], bound["winner"]
    closest = winner["closest"]
    side = "below" if closest["below"] >= 0 else "above"
    say()
    say(
        f"No task worse than {delta:g} (score, validation rows): {bound['feasible']} of "
        f"{bound['trials']} completed sharing trials kept to it."
    )
    say(
        f"  Reference: independent trial {reference['trial']}, mean of {reference['seeds']} seeds, "
        f"score {reference['score']:.4f}."
    )
    say(
        f"  Sharing trial {winner['trial']}, mean of {reference['seeds']} seeds: closest to "
        f"the bound on {closest['task']}, {abs(closest['below']):.4f} {side} the reference."
    )
    counts = {w: sum(t["within"] == w for t in bound["tasks"]) for w in ("yes", "no", "unclear")}
    say(
        f"  On the test rows: {counts['yes']} of {len(bound['tasks'])} tasks within {delta:g}, "
        f"{counts['no']} beyond it, {counts['unclear']} not to be told from noise (95% interval of "
        "each task's difference)."
    )
    if reference["left_out"]:
        say(f"  Not bound, too few validation rows to judge: {', '.join(reference['left_out'])}.")


def _tasks(tasks: list[dict[str, Any]], bound: dict[str, Any] | None) -> None:
    """The tasks that changed most; test rows, means over the seeds. With a bound: those that came
    closest to it, and how far they are from the independent networks."""

    def change(task: dict[str, Any]) -> float:
        pair = (task["shared"], task["independent"])
        if None in pair:
            return -1.0
        return pair[1] - pair[0] if bound else abs(pair[0] - pair[1])

    ordered = sorted(tasks, key=change, reverse=True) if len(tasks) > _TASKS else tasks
    columns = ["task", "metric", "sharing", "independent", "sharing has", "test rows"]
    within: dict[str, str] = {}
    if bound:
        columns += ["score difference", f"within {bound['no_task_worse_than']:g}"]
        within = {task["name"]: task["within"] for task in bound["tasks"]}
    table(
        columns,
        [
            [
                task["name"],
                task["metric"],
                task["shared_value"],
                task["independent_value"],
                task["effect"] if task["judged"] else f"not judged: {task['reason']}",
                task["rows"],
                *([_difference(task), within.get(task["name"], "not bound")] if bound else []),
            ]
            for task in ordered[:_TASKS]
        ],
        right=["test rows"],
    )
    if len(tasks) > _TASKS:
        rest = "further from the bound" if bound else "with smaller differences"
        say(f"{len(tasks) - _TASKS} more tasks, {rest}; --json has them all.")


def _difference(task: dict[str, Any]) -> str | None:
    if task["difference"] is None or task["difference_ci"] is None:
        return None
    low, high = task["difference_ci"]
    return f"{task['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def _front(found: dict[str, Any]) -> None:
    """The Pareto front; the trial that the verdict recommends is marked."""
    from autometa.searching.costs import COSTS

    front, unit = found["front"], COSTS[found["cost"]]
    test = found["test"]
    chosen = None if test is None else test["winners"].get(test["delivered"]["method"])
    say(
        f"Pareto front of {len(front)} trials (score of one run on the validation rows, higher is "
        f"better; {unit}, lower is better):"
    )
    table(
        [unit, "score", "trial", "arm", "network"],
        [
            [
                f"{row['cost']:,.0f}" if found["cost"] == "parameters" else row["cost"],
                f"{row['score']:.4f}",
                f"{row['number']}*" if row["number"] == chosen else row["number"],
                row["arm"],
                row["network"],
            ]
            for row in front
        ],
        right=[unit, "score", "trial"],
    )
    if chosen is None:
        return
    if any(row["number"] == chosen for row in front):
        say("* delivered below, for its score.")
    else:
        say(f"Trial {chosen}, delivered below for its score over several seeds, is not on it.")


def _next(found: dict[str, Any], home: Home, storage: str | None, uri: str | None) -> None:
    from autometa.study import hidden

    where = "" if home == Home.find() else f" --home {shlex.quote(shown(home.root))}"
    study = where + (f" --storage {shlex.quote(hidden(storage))}" if storage else "")
    test, model = found["test"], shown(Path(found["model"]))
    words = test["delivered"]["words"]
    if test["layout"] == "episodes":
        say(f"Model ({words}, trained on training and validation tasks): {model}")
        say(f"  autometa adapt {model} NEW_TASK.csv --out ADAPTED")
    else:
        say(f"Model ({words}, trained on training and validation rows): {model}")
        say(f"  autometa predict {model} NEW_ROWS --out predictions.csv")
    say(f"  autometa trials {found['study']}{study}")
    if found["diagnosis"] is not None and found["diagnosis"]["reason"] is None:
        say(f"  autometa diagnose {found['study']}{study}")
    if found["mlflow"] is not None:
        server = f" --mlflow-tracking-uri {shlex.quote(hidden(uri))}" if uri else ""
        say(f"  autometa ui{where}{server}")
