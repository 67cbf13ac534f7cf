"""Peers as units: tuned in a worker, written, read again, and never an exception."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autometa.baselines import PEERS, tune
from autometa.baselines.storing import read_peer
from autometa.searching import peers
from autometa.searching.executors import InlineExecutor, ScriptSource
from autometa.searching.peer_script import peer_script, peer_unit, seconds_each
from autometa.searching.units import UnitResult, WorkUnit, run_unit
from autometa.tasks import TaskSuite
from tests.baselines.suites import grouped
from tests.searching.support import small_suite


def saved(suite: TaskSuite, folder: Path) -> TaskSuite:
    suite.without_test().save(folder / "suite")
    return suite


def run(suite: TaskSuite, folder: Path, seconds: float | None = 60.0) -> list[dict[str, Any]]:
    source = ScriptSource(lambda: peer_script(suite, folder=folder, seed=3, search_seconds=seconds))
    assert InlineExecutor().run(source)
    assert source.returned is not None
    return source.returned


def test_all_peers_that_apply_are_tuned_and_can_predict(tmp_path: Path) -> None:
    suite = saved(grouped("regression", rows=80), tmp_path)
    found = run(suite, tmp_path)
    assert [one["name"] for one in found] == list(PEERS)
    test = suite.open_test()
    for one in found:
        assert json.loads(json.dumps(one)) == one
        assert one["reason"] is None
        assert one["seconds"] > 0
        assert one["tried"] >= 1
        fitted = read_peer(Path(one["path"]))
        assert (fitted.setting, fitted.words) == (one["setting"], one["words"])
        assert fitted.predict(test.x.numpy(), test.task.numpy()).shape == (len(test.x), 1)
    again = tune("ridge", suite, seed=3, seconds=None)
    assert found[0]["value"] == again.value
    np.testing.assert_array_equal(
        read_peer(Path(found[0]["path"])).predict(test.x.numpy(), test.task.numpy()),
        again.fitted.predict(test.x.numpy(), test.task.numpy()),
    )


def test_peers_that_do_not_apply_are_named_with_the_reason(tmp_path: Path) -> None:
    suite = saved(small_suite(rows=40), tmp_path)
    found = {one["name"]: one for one in run(suite, tmp_path, seconds=0.0)}
    assert found["ridge"]["value"] is not None
    assert found["ridge_pooled"]["value"] is None
    assert "nothing to pool" in found["ridge_pooled"]["reason"]
    assert set(found["ridge_pooled"]) == set(found["ridge"])


def test_a_peer_that_fails_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = saved(small_suite(rows=40), tmp_path)

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "trees":
            raise MemoryError("no room")
        return tune(name, *args, **kwargs)

    monkeypatch.setattr(peers, "tune", fail)
    found = {one["name"]: one for one in run(suite, tmp_path, seconds=0.0)}
    assert found["trees"]["reason"] == "MemoryError: no room"
    assert found["trees"]["path"] is None
    assert found["boosting"]["reason"] is None
    missing = peer_unit("ridge", suite, folder=tmp_path / "none", seed=0, seconds=None)
    (run_result,) = run_unit(missing).results
    assert "holds no readable suite" in str(run_result.reason)


def test_a_unit_that_was_lost_says_so(tmp_path: Path) -> None:
    suite = small_suite()
    script = peer_script(suite, folder=tmp_path, seed=0, search_seconds=None)
    units = next(script)
    assert [unit.seconds_at_most for unit in units] == [None] * 3
    with pytest.raises(StopIteration) as end:
        script.send([UnitResult.lost(unit, "It died.") for unit in units])
    assert [one["reason"] for one in end.value.value if one["name"] == "trees"] == ["It died."]


def test_units_and_results_travel_as_json(tmp_path: Path) -> None:
    suite = saved(small_suite(rows=40), tmp_path)
    unit = peer_unit("ridge", suite, folder=tmp_path, seed=1, seconds=7.0)
    assert WorkUnit.from_json(json.loads(json.dumps(unit.to_json()))) == unit
    result = run_unit(replace(unit, threads=1))
    assert result.results[0].value == result.peers[0]["value"]
    assert UnitResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_share_of_the_search_is_divided() -> None:
    assert seconds_each(200.0, 4, 0.2) == 10.0
    assert seconds_each(20.0, 4, 0.2) == 5.0
    assert seconds_each(None, 4, 0.2) is None
