"""SharingBench."""

from __future__ import annotations

from collections.abc import Sequence

from autometa.networks import Problem
from autometa.space import Space
from autometa.space.parameters import Fixed

WIDTH = 32
"""Of every network: the only width of the default space that is at most 64."""


def bench_space(text: str, problem: Problem, groups: Sequence[str] | None = None) -> Space:
    """The space that the configurations of a suite are points of: the default one of its time,
    with one width.

    Args:
        text: the default space, as YAML.
        groups: what trees of many tasks are made of (`Space.bind`).
    """
    space = Space.from_yaml(text, "SharingBench")
    width = space.key("backbone.width", "sharing")
    if WIDTH not in getattr(space.entries()[width], "choices", ()):
        raise ValueError(f"Parameter `backbone.width` of the space should offer {WIDTH}.")
    return space.without({width: Fixed(value=WIDTH)}).bind(problem, groups)
