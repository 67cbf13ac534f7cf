"""What the Ray executor does with units whose processes die; `test_ray_cluster` kills real ones."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from autometa.searching.executors import FINISHED
from autometa.searching.ray_executor import _RETRIES, _UnitSearcher
from autometa.searching.units import UnitResult, WorkUnit

UNIT = WorkUnit(
    names=("a", "b"),
    configs=({}, {}),
    seeds=(0, 1),
    from_epoch=0,
    to_epoch=1,
    max_epochs=1,
    suite="",
    fingerprint="",
    checkpoints="",
)


class _Source:
    """One unit, then nothing to do."""

    def __init__(self) -> None:
        self.units = [UNIT]
        self.completed: list[tuple[WorkUnit, UnitResult]] = []

    def next_unit(self, workers: int = 1) -> WorkUnit | Literal["FINISHED"] | None:
        if self.units:
            return self.units.pop()
        return FINISHED if self.completed else None

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        self.completed.append((unit, result))


def _unit_of(suggestion: dict[str, Any]) -> WorkUnit:
    return WorkUnit.from_json(json.loads(suggestion["unit"]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unit_whose_process_died_is_handed_out_again(workers: int) -> None:
    source = _Source()
    searcher = _UnitSearcher(source, workers)
    for attempt in range(_RETRIES + 1):
        assert _unit_of(searcher.suggest(f"trial-{attempt}")) == UNIT
        assert searcher.suggest("another") is None
        assert not source.completed
        searcher.on_trial_complete(f"trial-{attempt}", error=True)
    [(unit, result)] = source.completed
    assert unit == UNIT
    assert len(result.results) == 2
    assert all("died" in (run.reason or "") for run in result.results)
    assert searcher.suggest("last") == searcher.FINISHED
    assert searcher.finished


def test_a_unit_that_was_interrupted_is_not_handed_out_again() -> None:
    source = _Source()
    searcher = _UnitSearcher(source, 1)
    searcher.suggest("trial")
    searcher.on_trial_complete("trial")
    assert searcher.suggest("next") is None
    assert not source.completed
