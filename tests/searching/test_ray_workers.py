"""Who does the work where units are much shorter than the start of a worker."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from ray import cloudpickle

from autometa.searching.executors import FINISHED
from autometa.searching.ray_executor import _GATHERING, RayExecutor, UnitTrainable
from autometa.searching.units import UnitResult, WorkUnit
from autometa.training.population import RunResult
from tests.searching.test_ray_executor import UNIT


class _Signing(UnitTrainable):
    """Says which process it is: in a file where it starts, and as the result of its units."""

    def setup(self, config: dict[str, Any], gate: Any = None) -> None:
        unit = WorkUnit.from_json(json.loads(config["unit"]))
        folder = Path(unit.checkpoints)
        (folder / "started" / str(os.getpid())).touch()
        super().setup(config, gate)
        try:
            (folder / "first").mkdir()
        except FileExistsError:
            time.sleep(1.0)  # Tune hears late of the second one

    @staticmethod
    def work(unit: WorkUnit) -> UnitResult:
        time.sleep(0.05)
        return UnitResult(tuple(RunResult(1, None, reason=str(os.getpid())) for _ in unit.names))


class _Source:
    def __init__(self, folder: Path, units: int) -> None:
        (folder / "started").mkdir()
        self._unit = replace(UNIT, checkpoints=str(folder))
        self._left = self._open = units
        self.done: Counter[str] = Counter()

    def next_unit(self, workers: int = 1) -> WorkUnit | Literal["FINISHED"] | None:
        if not self._left:
            return None if self._open else FINISHED
        self._left -= 1
        return self._unit

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        self._open -= 1
        self.done[str(result.results[0].reason)] += 1


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    """Of two workers; one Ray for all tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    made = RayExecutor(2, trainable=_Signing)
    yield made
    made.close()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_single_unit_waits_for_no_other_worker(executor: RayExecutor, tmp_path: Path) -> None:
    source = _Source(tmp_path, 1)
    began = time.monotonic()
    assert executor.run(source)
    assert sum(source.done.values()) == 1
    assert time.monotonic() - began < _GATHERING


def test_all_workers_work_and_each_starts_once(executor: RayExecutor, tmp_path: Path) -> None:
    source = _Source(tmp_path, 60)
    assert executor.run(source)
    assert sum(source.done.values()) == 60
    assert {path.name for path in (tmp_path / "started").iterdir()} == set(source.done)
    assert len(source.done) == 2
    assert min(source.done.values()) > 15
