"""Tasks that cannot be learned or judged: all of them named at once, and left out if asked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from autometa.errors import DataError, not_one_of
from autometa.tasks.labels import Target
from autometa.tasks.splits import SPLIT_NAMES, TRAIN

Unusable: TypeAlias = Literal["drop", "error"]

#: tasks that a message names
_NAMED = 100


def check_unusable(unusable: str) -> None:
    """Raise DataError unless it says what becomes of tasks that cannot be used."""
    if unusable not in get_args(Unusable):
        raise DataError(not_one_of("unusable", unusable, get_args(Unusable)))


def unusable_tasks(
    split: np.ndarray, targets: Sequence[Target], task: np.ndarray | None, names: Sequence[str]
) -> dict[str, str]:
    """Name → why a task cannot be used: no labelled row in a split, or nothing to learn."""
    found = {}
    for number, name in enumerate(names):
        target = targets[0] if task is not None else targets[number]
        mine = target.labelled if task is None else target.labelled & (task == number)
        empty = [n for code, n in enumerate(SPLIT_NAMES) if not (mine & (split == code)).any()]
        seen = np.unique(target.values[mine & (split == TRAIN)])
        if not mine.any():
            found[name] = "has no labelled row"
        elif empty:
            found[name] = (
                f"has no labelled row in the {' and the '.join(empty)} split ({int(mine.sum())} "
                "in all)"
            )
        elif len(seen) < 2 and target.kind == "regression":
            if task is None:  # where tasks share a target, one row of a task still says something
                found[name] = "is constant on its training rows"
        elif len(seen) < 2:
            only = target.classes[int(seen[0])]
            found[name] = f"has one class only (`{only}`) among its training rows"
    return found


def told(reasons: Mapping[str, str], of: int) -> str:
    """One sentence on all of them."""
    shown = [f"`{name}` {why}" for name, why in list(reasons.items())[:_NAMED]]
    more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    if len(reasons) == 1:
        return f"Task {shown[0]}"
    return f"{len(reasons)} of {of} tasks cannot be used: {'; '.join(shown)}{more}"


def leave_out(reasons: Mapping[str, str], of: int, unusable: Unusable, hint: str = "") -> str:
    """The note on tasks that are left out.

    Raises:
        DataError: fewer than two would be left, or they are not to be left out.
    """
    if unusable == "error" or of - len(reasons) < 2:
        them = "the task" if len(reasons) == 1 else "the tasks"
        raise DataError(
            f"{told(reasons, of)}{hint}; leave {them} out, add rows, or choose the splits "
            "yourself (split_column=)."
        )
    return f"Left out: {told(reasons, of)}{hint}."
