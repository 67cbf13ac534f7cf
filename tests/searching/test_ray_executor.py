"""What the Ray executor does with units whose processes die; `test_ray_cluster` kills real ones."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from autometa.errors import InfrastructureError
from autometa.searching import ray_executor
from autometa.searching.executors import FINISHED
from autometa.searching.ray_executor import _RETRIES, RayExecutor, _UnitSearcher, room
from autometa.searching.units import UnitResult, WorkUnit

UNIT = WorkUnit(
    names=("a", "b"),
    configs=({}, {}),
    seeds=(0, 1),
    from_step=0,
    to_step=1,
    max_steps=1,
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


def test_sigterm_is_ours_while_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Exception):
        pass

    def stop(*_: object) -> None:
        raise Told

    start = ray_executor.ray.init

    def init(**options: Any) -> Any:
        started = start(**options)
        signal.raise_signal(signal.SIGTERM)  # Ray's handler, had it been set, would exit
        return started

    monkeypatch.setattr(ray_executor.ray, "init", init)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Told):
            RayExecutor(1)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
        ray_executor.ray.shutdown()


@pytest.mark.parametrize(
    ("mode", "file", "sent"),
    [(None, True, [None, "token"]), (None, False, [None]), ("disabled", True, ["disabled"])],
)
def test_a_cluster_that_asks_for_it_is_sent_the_token_of_this_machine(
    mode: str | None, file: bool, sent: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        modes.append(os.environ.get("RAY_AUTH_MODE"))
        raise ConnectionError("Failed to connect") from RuntimeError(
            "Last error: Traceback (most recent call last):\n  File x, line 1\nRpcError: no token"
        )

    class Loader:
        @classmethod
        def instance(cls) -> Loader:
            return cls()

        def has_token(self, ignore_auth_mode: bool) -> bool:
            return file

    modes: list[str | None] = []
    monkeypatch.setattr(ray_executor.ray, "init", init)
    monkeypatch.setattr(ray_executor.ray_token, "AuthenticationTokenLoader", Loader)
    told_to_ray = SimpleNamespace(initialize=lambda _: None)
    monkeypatch.setattr(ray_executor.ray_token, "Config", told_to_ray)
    monkeypatch.setenv("RAY_AUTH_MODE", mode or "")
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(InfrastructureError) as told:
        RayExecutor(1, "10.0.0.1:6379")
    assert modes == sent, "where there is one, and only after a try without"
    assert str(told.value) == (
        "Cannot reach the Ray cluster at 10.0.0.1:6379: Failed to connect; "
        "Last error: RpcError: no token"
    )


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


def test_a_worker_is_told_what_it_may_use() -> None:
    searcher = _UnitSearcher(_Source(), 2, {"threads": 4, "share": 0.25})
    unit = _unit_of(searcher.suggest("trial"))
    assert (unit.threads, unit.share) == (4, 0.25)
    searcher.on_trial_complete("trial", error=True)
    unit = _unit_of(searcher.suggest("again"))
    assert (unit.threads, unit.share) == (4, 0.25)


@pytest.mark.parametrize(
    ("has", "cpus", "gpus", "fit"),
    [
        ({"CPU": 16.0}, 1, 0.0, 16),
        ({"CPU": 16.0}, 3, 0.0, 5),
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.1, 16),
        ({"CPU": 16.0, "GPU": 1.0}, 1, 0.1, 10),  # 1 / 0.1 in floating point
        ({"CPU": 16.0, "GPU": 1.0}, 1, 0.4, 2),
        ({"CPU": 16.0}, 1, 0.5, 0),
        ({}, 1, 0.0, 0),
    ],
)
def test_how_many_workers_a_machine_has_room_for(
    has: dict[str, float], cpus: int, gpus: float, fit: int
) -> None:
    assert room(has, {"CPU": float(cpus), "GPU": gpus}) == fit


@pytest.mark.parametrize(
    ("options", "asked_cpus", "workers", "own"),
    [
        ({"workers": 3}, 3, 3, {"threads": 1, "share": 1 / 3}),
        ({"workers": 2, "cpus_per_worker": 4}, 8, 2, {"threads": 4, "share": 1 / 2}),
        ({"workers": None, "cpus_per_worker": 4}, None, 6, {"threads": 4, "share": 1 / 4}),
        ({"workers": None, "gpus_per_worker": 0.5}, None, 2, {"threads": 1, "share": 0.5}),
    ],
)
def test_workers_take_their_share_of_the_machines(
    options: dict[str, Any],
    asked_cpus: int | None,
    workers: int,
    own: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": False, "Resources": {"CPU": 99.0}},
    ]
    monkeypatch.setattr(ray_executor.ray, "init", lambda **found: asked.update(found))
    monkeypatch.setattr(ray_executor.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_executor.ray, "shutdown", lambda: None)
    executor = RayExecutor(**options)
    assert asked["num_cpus"] == asked_cpus
    assert executor._workers == workers
    assert executor._own == pytest.approx(own)
    executor.close()
