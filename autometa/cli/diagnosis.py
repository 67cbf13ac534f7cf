"""`autometa diagnose`: why sharing hurts or helps in a study, in lines and in tables."""

from __future__ import annotations

from typing import Any

from autometa.cli import options
from autometa.cli.output import duration, emit_json, quiet_stdout, say, settings, table
from autometa.errors import StudyError
from autometa.home import Home

#: tasks in a table of tasks; in a table of pairs
_TASKS, _PAIRED = 40, 16
_ROLES = {
    "sharing": "best sharing trial",
    "independent": "best independent trial",
    "trunk": "every block shared",
    "wide": "the same, widened to the parameters of the independent",
    "narrow": "independent, narrowed to the parameters of the shared",
}


def diagnose(
    study: options.Study,
    storage: options.Storage = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Show why sharing hurts or helps in STUDY, and what became of the advice.

    The diagnosis is made at the end of a search, from training and validation rows; this command
    shows its tables: controls, effects on each task, how fast each is learned, what the tasks do
    to each other.
    """
    from autometa.diagnosis.storing import searched
    from autometa.study import read_study

    with quiet_stdout():
        opened = read_study(Home.find(home), study, storage)
    found = opened.user_attrs.get("diagnosis")
    if "episodes" in opened.user_attrs:
        raise StudyError(
            f"Study `{study}` is one of episodes, which have no diagnosis: nothing is shared by "
            "force there, as every task adapts. `autometa trials` shows what was tried."
        )
    if found is None:
        raise StudyError(
            f"Study `{study}` has no diagnosis. Give its search again with --resume and without "
            "--no-diagnosis: its trials stay, and the arms are judged again."
        )
    if json:
        emit_json({"study": study, **found})
        return
    if found["searched"] != (now := searched(opened.get_trials(deepcopy=False))):
        say(f"Of the first {found['searched']} trials; {now} have ended by now.")
    print_diagnosis(found)
    if found["reason"] is None:
        _tables(found)


def print_diagnosis(found: dict[str, Any]) -> None:
    """The findings and the advice in a few lines."""
    if found["reason"] is not None:
        say(f"No diagnosis: {found['reason']}")
        return
    if "note" in found:
        say(f"Note: {found['note']}")
    texts = {finding["kind"]: finding["text"] for finding in found["findings"]}
    say(f"Why: {texts.pop('cause')}")
    for text in texts.values():
        say(f"  {text}")
    tried = {one["advice"]: one for one in found.get("tried", ())}
    base = found["measurements"]["networks"]["sharing"]
    for number, advice in enumerate(found["advice"]):
        say(f"Advice: {advice['text']}")
        if number in tried:
            say(f"  {_outcome(tried[number], base)}")


def _outcome(tried: dict[str, Any], base: dict[str, Any]) -> str:
    text = f"Tried as trial {tried['trial']}: "
    if tried["value"] is None:
        return f"{text}it failed."
    text += (
        f"validation score {tried['value']:.3f} against {base['val']:.3f} of trial {base['trial']}"
    )
    return f"{text}; it is the best that shares." if tried["won"] else f"{text}."


def _tables(found: dict[str, Any]) -> None:
    numbers = found["measurements"]
    say()
    _networks(numbers)
    say()
    _tasks(numbers, found)
    if numbers["influences"]:
        say()
        _influences(numbers)
    if numbers["pairs"] is not None and len(numbers["tasks"]) <= _PAIRED:
        say()
        _pairs(numbers)
    say()
    say("Rules:")
    for finding in found["findings"]:
        say(f"  {finding['kind']}: {finding['rule']}.")
    for advice in found["advice"]:
        if advice["changes"]:
            say(f"Advised: {settings(advice['changes'])}")
    spent = f"The diagnosis trained for {duration(found['seconds'])}"
    if found["search_seconds"]:
        spent += f", the trials of the search for {duration(found['search_seconds'])}"
    say(f"{spent}.")


def _unit(numbers: dict[str, Any]) -> str:
    """What training is counted in: studies of earlier versions have epochs."""
    return "epoch" if "epochs" in numbers else "step"


def _networks(numbers: dict[str, Any]) -> None:
    say(f"Networks, {numbers['seeds']} seeds each:")
    rows = []
    for role, words in _ROLES.items():
        one = numbers["networks"].get(role)
        if one is None or (role == "trunk" and one == numbers["networks"]["sharing"]):
            continue
        row = [words, one["trial"], one["width"], one["parameters"], one["train"], one["val"]]
        rows.append([*row, one["peak"]])
    columns = [
        "network",
        "trial",
        "width",
        "parameters",
        "train",
        "validation",
        f"best {_unit(numbers)}",
    ]
    table(columns, rows, right=columns[1:])


def _tasks(numbers: dict[str, Any], found: dict[str, Any]) -> None:
    say("Tasks, validation scores and what sharing every block does to each:")
    networks = numbers["networks"]
    effects = numbers["effects"].get("trunk-independent") or [None] * len(numbers["tasks"])
    done = next(
        f["numbers"][f"{_unit(numbers)}s"] for f in found["findings"] if f["kind"] == "speed"
    )
    rows = []
    for number, name in enumerate(numbers["tasks"][:_TASKS]):
        effect = effects[number]
        called = None
        if effect is not None:
            called = f"not judged: {effect['reason']}" if effect["reason"] else effect["effect"]
        rows.append(
            [
                name,
                networks["sharing"]["tasks_val"][number],
                networks.get("independent", {}).get("tasks_val", {number: None})[number],
                None if effect is None else _interval(effect["difference"]),
                called,
                done[name],
            ]
        )
    table(
        ["task", "sharing", "independent", "effect", "called", f"learned by {_unit(numbers)}"], rows
    )
    if len(numbers["tasks"]) > _TASKS:
        say(f"{len(numbers['tasks']) - _TASKS} more tasks; --json has them all.")


def _influences(numbers: dict[str, Any]) -> None:
    say("Change in validation score when one task gets a tower of its own (+: it did harm):")
    names = numbers["tasks"]
    shown = names if len(names) <= _PAIRED else []
    rows = []
    for one in numbers["influences"]:
        changes = [None if c is None else f"{c['value']:+.3f}" for c in one["changes"]]
        rows.append(
            [names[one["task"]], _interval(one["others"]), one["since"], *changes[: len(shown)]]
        )
    table(["task", "all others", f"from {_unit(numbers)}", *shown], rows)


def _pairs(numbers: dict[str, Any]) -> None:
    pairs, names = numbers["pairs"], numbers["tasks"]
    unit = _unit(numbers)
    first, last = pairs[f"{unit}s"][0], pairs[f"{unit}s"][-1]
    say(f"Cosine of the tasks' gradients of the shared blocks, by {unit} {first} / {last}:")
    early, late = pairs["cosine"][0], pairs["cosine"][-1]
    rows = [
        [name, *(f"{_sign(a)} / {_sign(b)}" for a, b in zip(early[i], late[i], strict=True))]
        for i, name in enumerate(names)
    ]
    table(["", *names], rows)
    say("  Tasks that share a trunk come to oppose each other as it converges (their gradients")
    say(
        "  add up to 0 there), so that a negative cosine late in training is no conflict by itself."
    )
    say()
    say("Affinity: % by which a step of the row's task alone lowers the loss of the column's:")
    scaled = [[None if v is None else 100.0 * v for v in row] for row in pairs["affinity"]]
    table(["", *names], [[name, *row] for name, row in zip(names, scaled, strict=True)])


def _interval(value: dict[str, float] | None) -> str | None:
    if value is None:
        return None
    return f"{value['value']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"


def _sign(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
