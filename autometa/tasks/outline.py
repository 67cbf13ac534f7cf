"""The data of a suite in a few numbers, which say in words how other data differ from them.

A fingerprint tells that something is different; people ask what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from autometa.tasks.encoder import TableEncoder
from autometa.tasks.episodic import EpisodicSuite
from autometa.tasks.suite import TaskSuite

#: columns and tasks whose values are looked at, so that an outline stays small
_LOOKED_AT = 200
#: part of a column's spread by which its mean and deviation may differ: they come back from
#: standardised numbers of single precision
_CLOSE = 1e-3
#: names that are told in full
_NAMED = 3


def outline(suite: TaskSuite | EpisodicSuite) -> dict[str, Any]:
    """Rows, features, tasks and what their values are like, as plain JSON; whatever the order of
    the rows and the split."""
    table = suite.encoder if isinstance(suite.encoder, TableEncoder) else None
    found: dict[str, Any] = {
        "rows": sum(len(rows) for rows in _parts(suite, "x")),
        "target": suite.target,
        "task_column": suite.task_column,
        "features": None if table is None else list(table.features),
    }
    if table is not None:
        places = zip(range(_LOOKED_AT), table.mean, table.scale, strict=False)
        found["inputs"] = [
            _shape_of(_column(suite, "x", place).astype(float) * scale + mean)
            for place, mean, scale in places
        ]
    if isinstance(suite, EpisodicSuite):
        counts = np.bincount(_column(suite, "task"), minlength=len(suite.tasks)).tolist()
        found["tasks"] = dict.fromkeys(suite.tasks, suite.kind)
        found["labels"] = {n: [k] for n, k in zip(suite.tasks[:_LOOKED_AT], counts, strict=False)}
        return found
    found["tasks"] = {task.name: task.kind for task in suite.tasks}
    found["labels"] = {}
    for number, one in enumerate(suite.tasks[:_LOOKED_AT]):
        place = None if suite.is_grouped else number
        y, has = _column(suite, "y", place), _column(suite, "mask", place)
        if suite.is_grouped:
            has = has & (_column(suite, "task") == number)
        own = y[has].astype(float) * one.std + one.mean
        found["labels"][one.name] = [len(own), *_shape_of(own)]
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is different in `new`, each as a few words; at least one, as the data are others."""
    found = []
    for key, what in (("target", "target"), ("task_column", "task column")):
        if old[key] != new[key]:
            found.append(f"another {what} (`{new[key]}`, it was `{old[key]}`)")
    found += _names("task", list(old["tasks"]), list(new["tasks"]))
    for name in old["tasks"].keys() & new["tasks"].keys():
        if old["tasks"][name] != new["tasks"][name]:
            was, kind = old["tasks"][name], new["tasks"][name]
            found.append(f"task `{name}` is {kind} and was {was}")
    if old["features"] is not None and new["features"] is not None:
        found += _names("feature", old["features"], new["features"])
    if more := new["rows"] - old["rows"]:
        one = abs(more) == 1
        found.append(f"{abs(more):,} row{'' if one else 's'} {'more' if more > 0 else 'fewer'}")
    if found:
        return found
    for what in ("task", "feature"):
        if list(old[f"{what}s"] or ()) != list(new[f"{what}s"] or ()):
            return [f"the {what}s are in another order"]
    values = [
        f"{what} `{name}`"
        for what, name, was, has in _values(old, new)
        if len(was) != len(has) or not _alike(was, has)
    ]
    if values:
        named = ", ".join(values[:_NAMED]) + (", …" if len(values) > _NAMED else "")
        return [f"other values of {named}"]
    return ["the same rows in another order, or split in another way"]


def _parts(suite: TaskSuite | EpisodicSuite, key: str) -> list[Tensor]:
    """A tensor of the rows, and that of the sealed ones."""
    if isinstance(suite, EpisodicSuite):
        sealed = suite._test
    else:
        sealed = None if suite._test is None else suite._test._asdict()
    return [getattr(suite, key)] + ([] if sealed is None else [sealed[key]])


def _column(suite: TaskSuite | EpisodicSuite, key: str, place: int | None = None) -> np.ndarray:
    """One column of all rows; the only one where `place` is None."""
    parts = (rows.numpy() for rows in _parts(suite, key))
    return np.concatenate([rows if place is None else rows[:, place] for rows in parts])


def _shape_of(values: np.ndarray) -> list[float]:
    """Mean and deviation; none where there are no values."""
    if not len(values):
        return []
    return [float(f"{number:.7g}") for number in (values.mean(), values.std())]


def _values(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[tuple[str, str, Sequence[float], Sequence[float]]]:
    inputs = zip(new["features"] or (), old.get("inputs", ()), new.get("inputs", ()), strict=False)
    labels = ((name, old["labels"][name], new["labels"][name]) for name in old["labels"])
    return [("feature", *one) for one in inputs] + [("task", *one) for one in labels]


def _alike(was: Sequence[float], has: Sequence[float]) -> bool:
    spread = max(abs(was[-1]), abs(has[-1]), 1e-300) if was else 1.0
    return all(abs(a - b) <= _CLOSE * spread for a, b in zip(was, has, strict=True))


def _names(what: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
    found = []
    for some, other, word in ((new, old, "new"), (old, new, "gone")):
        names = [name for name in some if name not in set(other)]
        if len(names) > _NAMED:
            found.append(f"{len(names)} {what}s are {word}")
        elif names:
            listed = ", ".join(f"`{name}`" for name in names)
            plural = "s" if len(names) > 1 else ""
            found.append(f"{what}{plural} {listed} {'are' if plural else 'is'} {word}")
    return found
