"""Measurements written by hand, for the rules that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autometa.diagnosis.measurements import (
    Estimate,
    Influence,
    Measured,
    Measurements,
    TaskEffect,
)
from autometa.trial import TrialConfig

TASKS = ("a", "b", "c", "d")
BLOCKS = 3
EPOCHS = (1, 2, 3, 6, 9)


def about(value: float, half: float = 0.002) -> Estimate:
    return Estimate(value, value - half, value + half)


def network(values: Mapping[str, Any] | None = None, **changes: Any) -> Measured:
    """A network that learns every task by step 3 and does not overfit."""
    start: dict[str, Any] = {"backbone.depth": BLOCKS}
    if values is None or "sharing.kind" not in values:
        start["sharing.split_at"] = BLOCKS
    config = TrialConfig.from_flat({**start, **(values or {})}).flat()
    facts: dict[str, Any] = {
        "trial": 0,
        "parameters": 1000,
        "width": config["backbone.width"],
        "config": config,
        "train": 0.9,
        "val": 0.85,
        "tasks_train": (0.9,) * len(TASKS),
        "tasks_val": (0.85,) * len(TASKS),
        "curve": tuple((score,) * len(TASKS) for score in (0.3, 0.6, 0.8, 0.84, 0.85)),
        "peak": 9,
        "decline": about(0.0),
    }
    return Measured(**{**facts, **changes})


def measurements(
    sharing: Mapping[str, Any] | Measured | None = None,
    *,
    effect: Estimate | None = None,
    trunk: Estimate | None = None,
    fit: Estimate | None = None,
    gap: Estimate | None = None,
    wide: tuple[Estimate, Estimate] | None = None,
    more: Mapping[str, Estimate] | None = None,
    hurt: tuple[str, ...] = (),
    harm: Mapping[str, Mapping[str, float]] | None = None,
    since: int = 1,
    **networks: Measured,
) -> Measurements:
    """Numbers that say nothing but what is given.

    Args:
        sharing: dotted values of the best sharing trial, or the whole of it; by default it
            shares every block.
        effect, trunk: score of it, and of the trunk, against the independent networks.
        fit, gap: of the trunk, on training rows; of the sharing trial, training − validation.
        wide: the widened trunk against the trunk and against the independent networks.
        harm: task → what its leaving changes for the others.
    """
    best = sharing if isinstance(sharing, Measured) else network(sharing)
    nets = {"sharing": best, "independent": network({"sharing.kind": "independent"}, trial=1)}
    nets["trunk"] = best
    contrasts = {"sharing-independent": effect or about(0.0), **(more or {})}
    contrasts["trunk-independent"] = trunk or contrasts["sharing-independent"]
    if wide is not None:
        nets["wide"] = network({"backbone.width": 200}, trial=None, parameters=4000)
        contrasts["wide-trunk"], contrasts["wide-independent"] = wide
    effects = tuple(
        TaskEffect(name, about(0.0), "hurt" if name in hurt else "undecided") for name in TASKS
    )
    both = {"sharing-independent": effects, "trunk-independent": effects}
    return Measurements(
        TASKS,
        EPOCHS,
        3,
        BLOCKS,
        {**nets, **networks},
        contrasts,
        {"trunk-independent": fit or about(0.0)},
        {"sharing-independent": gap or about(0.0)},
        both,
        influences=_influences(harm or {}, since),
    )


def _influences(harm: Mapping[str, Mapping[str, float]], since: int) -> tuple[Influence, ...]:
    found = []
    for task, changes in harm.items():
        others = [changes.get(name, 0.0) for name in TASKS if name != task]
        mean = sum(others) / len(others)
        found.append(
            Influence(
                TASKS.index(task),
                about(mean),
                0.001 if abs(mean) > 0.002 else 0.8,
                tuple(about(changes.get(name, 0.0)) for name in TASKS),
                since,
            )
        )
    return tuple(found)
