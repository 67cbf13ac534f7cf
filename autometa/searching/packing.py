"""Which waiting runs become a unit, and how many runs wait to be chosen from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from autometa.searching.units import UnitResult
from autometa.study import StudyHandle

#: runs of one unit at most, by the type of the device; a GPU is not busy with fewer
MAX_BUNDLE = {"cpu": 64, "cuda": 1024}
#: trials that wait at least
_WAITING = 8

Key = TypeVar("Key")


def ask_ahead(n_trials: int, most: int) -> int:
    """Trials that wait while there are new ones to suggest: a quarter of all, at least 8.

    The more there are to choose from, the fuller units are, and the less the sampler knows. Trials
    that were promoted wait among them for others of their shape.

    Args:
        most: runs of one unit at most; no more wait.
    """
    return min(most, max(_WAITING, n_trials // 4))


class Shapes:
    """What units found out about each shape key: how its runs are best stepped, what they take.

    Chunk and memory are kept with the study; how many runs fit is asked of the workers anew.

    Args:
        limit: runs of one unit at most.
    """

    def __init__(self, handle: StudyHandle, limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._known: dict[str, dict[str, Any]] = dict(handle.study.user_attrs.get("shapes", {}))
        self._most: dict[str, int] = {}

    def learn(self, shape: str, result: UnitResult) -> None:
        """Take over what a unit of this shape measured."""
        if result.most is not None:
            self._most[shape] = result.most
        found = {"chunk": result.chunk, "memory": result.memory}
        known = self._known.get(shape, {})
        more = {name: value for name, value in found.items() if value is not None}
        if more:
            self._known[shape] = known | more
            self._handle.set_attr("shapes", self._known)

    def known(self, shape: str) -> dict[str, Any]:
        """Fields of a unit that need not be measured again."""
        found = self._known.get(shape, {})
        return {**found, "memory": tuple(found["memory"])} if "memory" in found else found

    def most(self, shape: str) -> int:
        """Runs of one unit at most."""
        return min(self._limit, self._most.get(shape, self._limit))


def fullest(
    groups: Mapping[Key, list[int]],
    progress: Mapping[Key, int],
    workers: int,
    running: int,
    most: Mapping[Key, int],
) -> list[int]:
    """The trials of the next unit: of the largest group, then of the one furthest on, then oldest.

    Args:
        groups: trials that can run as one, in order.
        progress: how far a group is.
        workers: units that run at a time. A unit has at most its share of all live trials, so that
            the last ones are not left to one worker while the others wait, but never one trial of
            several, since a stack of one may round differently.
        running: trials that run now.
        most: how many runs of a group fit into a worker's memory.
    """
    best = max(groups, key=lambda key: (len(groups[key]), progress[key], -groups[key][0]))
    share = math.ceil((running + sum(map(len, groups.values()))) / workers)
    size = min(len(groups[best]), most[best], max(2, share))
    if len(groups[best]) - size == 1:
        size += 1 if size < most[best] else -(size > 2)
    return groups[best][:size]
