"""The methods of a final comparison in tables, and the held-out tasks of one in episodes."""

from __future__ import annotations

from typing import Any

from autometa.cli.output import say, table

#: held-out tasks in the table, and methods in its columns
_TASKS, _COLUMNS = 12, 5
_VALUES = {"accuracy": "accuracy", "auc": "AUC", "rmse": "RMSE"}


def print_methods(test: dict[str, Any]) -> None:
    """The methods by test score, then the held-out tasks where there are episodes.

    Args:
        test: the final comparison, as `comparison` gives it.
    """
    from autometa.comparison import by_score

    # a suite of several tasks has no value but the score
    in_episodes = test["layout"] == "episodes"
    value = _VALUES[test["metric"]] if in_episodes else "validation"
    methods = sorted(test["methods"], key=lambda m: by_score(m["score"]))
    table(
        ["method", "trial", "score", "95% interval", value, "the recommended has"],
        [
            [
                m["words"],
                m["trial"],
                None if m["score"] is None else f"{m['score']:.3f}",
                _interval(m["score_ci"], "{:.3f}"),
                m["value"] if in_episodes else m["validation"],
                _gap(m),
            ]
            for m in methods
        ],
        right=["trial", "score"],
    )
    if not in_episodes or not test["tasks"]:
        return
    say()
    shown = methods[:_COLUMNS]
    say(f"Held-out tasks ({value}):")
    table(
        ["task", *(m["name"] for m in shown), "rows"],
        [
            [task["name"], *(task["values"][m["name"]] for m in shown), task["rows"]]
            for task in test["tasks"][:_TASKS]
        ],
        right=["rows"],
    )
    if len(test["tasks"]) > _TASKS:
        say(f"{len(test['tasks']) - _TASKS} more tasks; --json has them all.")


def _interval(ends: list[float] | None, form: str) -> str | None:
    if ends is None:
        return None
    low, high = (form.format(round(end, 3) + 0.0) for end in ends)  # no -0.000
    return f"{low} to {high}"


def _gap(method: dict[str, Any]) -> str | None:
    """How much more the recommended method scores."""
    if method["difference"] is None:
        return None
    return f"{method['difference']:+.3f} ({_interval(method['difference_ci'], '{:+.3f}')})"
