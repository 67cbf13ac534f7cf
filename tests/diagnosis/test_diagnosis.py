"""The whole diagnosis: a planted adversary, resuming, and what cannot be diagnosed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

import autometa
from autometa.cli import app
from autometa.diagnosis import stored
from autometa.errors import InfrastructureError
from autometa.searching import executors
from autometa.searching.executors import InlineExecutor, ScriptSource
from autometa.searching.units import UnitResult, WorkUnit, run_unit
from autometa.study import StudyHandle
from autometa.tasks import TaskSuite
from tests.diagnosis.support import diagnose, make, open_trials, planted
from tests.searching.support import SPACE, small_suite

pytestmark = pytest.mark.usefixtures("short_judgement")

ALONE = {"sharing.kind": "independent"}
QUICK: list[dict[str, Any]] = [
    {"backbone.width": 8, "optimizer.batch_size": 64, "sharing.split_at": 1},
    {"backbone.width": 8, "optimizer.batch_size": 64, **ALONE},
]


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if "seconds" not in key}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("order", [(2, 0, 1)])
def test_planted_adversary_is_named_and_isolated_in_any_order_of_the_tasks(
    tmp_path: Path, order: Sequence[int]
) -> None:
    suite = planted(order)
    found = diagnose(tmp_path, suite)
    assert found["cause"] == "conflict"
    cause = next(f["text"] for f in found["findings"] if f["kind"] == "cause")
    assert cause.startswith("Conflict: c harms the other tasks")
    assert "{a, b}" in cause
    assert "{c}" in cause
    tree = "".join("01"[(order[0] == 2) != (k == 2)] for k in order)
    first, second = (advice["config"]["sharing.partitions"] for advice in found["advice"])
    assert first == f"{tree}/{tree}"
    assert second == f"000/{tree}"
    with open_trials(tmp_path, suite, []) as handle:
        tried = [t for t in handle.trials() if t.user_attrs.get("advised")]
        (best,) = (t for t in handle.trials() if t.number == 1)
    assert all(t.state == TrialState.COMPLETE and t.value is not None for t in tried)
    configs = [t.user_attrs["config"] for t in tried]
    assert [t.user_attrs["arm"] for t in tried] == ["sharing"] * 2 + ["independent"] * 2
    assert [config["sharing.partitions"] for config in configs[:2]] == [first, second]
    # independent networks have as many tries, though no group of tasks is theirs to change
    own = best.user_attrs["config"]
    rates = [config["optimizer.lr"] for config in configs[2:]]
    assert rates == [own["optimizer.lr"] * 0.5, own["optimizer.lr"] * 2.0]
    assert configs[2:] == [{**own, "optimizer.lr": rate} for rate in rates]


def test_a_stored_diagnosis_is_not_made_again_and_more_trials_ask_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = small_suite()
    first = diagnose(tmp_path, suite, QUICK, steps=2)
    ran: list[WorkUnit] = []

    def spy(unit: WorkUnit) -> UnitResult:
        ran.append(unit)
        return run_unit(unit)

    monkeypatch.setattr(executors, "run_unit", spy)
    assert diagnose(tmp_path, suite, QUICK, steps=2) == first
    assert ran == []
    with open_trials(tmp_path, suite, []) as handle:
        advised = sum(bool(t.user_attrs.get("advised")) for t in handle.trials())
    more = [*QUICK, *[{}] * advised, {**QUICK[0], "optimizer.lr": 0.02}]
    second = diagnose(tmp_path, suite, more, steps=2)
    assert second["searched"] == first["searched"] + 1
    assert ran != []


@pytest.mark.parametrize("when", [1, 3])
def test_killed_in_the_diagnosis_it_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    suite = small_suite()
    whole = diagnose(tmp_path / "whole", suite, QUICK, steps=2)
    count = 0

    def stop(unit: WorkUnit) -> UnitResult:
        nonlocal count
        count += 1
        if count > when:
            raise KeyboardInterrupt
        return run_unit(unit)

    with monkeypatch.context() as patch, open_trials(tmp_path / "cut", suite, QUICK) as handle:
        patch.setattr(executors, "run_unit", stop)
        source = ScriptSource(make(handle, suite, tmp_path / "cut", 2).script)
        assert not InlineExecutor().run(source)
        assert stored(handle.study.user_attrs, handle.trials()) is None
    again = diagnose(tmp_path / "cut", suite, QUICK, steps=2)
    assert without_times(again) == without_times(whole)


def test_killed_while_the_advice_is_tried_it_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = small_suite()

    def advice(*args: Any) -> tuple[Any, ...]:
        from autometa.diagnosis.advice import Advice

        numbers = args[0]
        base = numbers.networks["sharing"].config
        return (Advice("wider", {**base, "backbone.width": 12}, {"backbone.width": 12}),)

    def stop(unit: WorkUnit) -> UnitResult:
        if unit.names[0].startswith("advised"):
            raise KeyboardInterrupt
        return run_unit(unit)

    monkeypatch.setattr("autometa.diagnosis.script.advise", advice)
    with monkeypatch.context() as patch, open_trials(tmp_path, suite, QUICK) as handle:
        patch.setattr(executors, "run_unit", stop)
        assert not InlineExecutor().run(ScriptSource(make(handle, suite, tmp_path, 2).script))
        kept = stored(handle.study.user_attrs, handle.trials())
        assert kept is not None, "it was stored before it was tried"
        assert len(handle.trials()) == len(QUICK), "and no half of a trial"
    assert diagnose(tmp_path, suite, QUICK, steps=2) == kept
    assert diagnose(tmp_path, suite, QUICK, steps=2) == kept
    with open_trials(tmp_path, suite, []) as handle:
        advised = [t for t in handle.trials() if t.user_attrs.get("advised")]
    assert [t.user_attrs["arm"] for t in advised] == ["sharing", "independent"]
    assert [t.user_attrs["changes"] for t in advised] == [{"backbone.width": 12}] * 2


def test_diagnosis_is_strict_json_of_training_and_validation_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(suite: TaskSuite) -> Any:
        raise AssertionError("the test rows were opened")

    monkeypatch.setattr(TaskSuite, "open_test", never)
    found = diagnose(tmp_path, small_suite(), QUICK, steps=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    numbers = found["measurements"]
    assert set(numbers["networks"]) == {"sharing", "independent", "trunk", "wide", "narrow"}
    assert numbers["steps"] == [1, 2]
    assert numbers["tasks"] == ["up", "down", "sign"]
    assert [one["task"] for one in numbers["influences"]] in ([0, 1, 2], [])
    assert np.array(numbers["pairs"]["affinity"]).shape == (3, 3)


def test_what_cannot_be_diagnosed_is_said(tmp_path: Path) -> None:
    found = diagnose(tmp_path / "arm", small_suite(), [ALONE], steps=1)
    assert "every trial was of independent networks" in found["reason"]
    x = np.random.default_rng(0).normal(size=(60, 3))
    one = TaskSuite.from_arrays(x, x[:, :1], names=["y"], kinds="regression", name="one")
    found = diagnose(tmp_path / "task", one, [{}, ALONE], steps=1)
    assert "one task" in found["reason"]


def test_without_independent_networks_the_rest_is_still_measured(tmp_path: Path) -> None:
    found = diagnose(tmp_path, small_suite(), QUICK[:1], steps=2)
    assert found["reason"] is None
    assert set(found["measurements"]["networks"]) == {"sharing", "trunk"}
    texts = " ".join(f["text"] for f in found["findings"])
    assert "nothing says whether sharing pays" in texts


# --- in a search --------------------------------------------------------------------------------


def search(home: Path, suite: TaskSuite | None = None, **options: Any) -> Any:
    home.mkdir(parents=True, exist_ok=True)
    (home / "space.yaml").write_text(SPACE)
    settings: dict[str, Any] = {"n_trials": 6, "max_epochs": 2, "workers": 0, "device": "cpu"}
    return autometa.search(
        suite or small_suite(), space=home / "space.yaml", home=home, mlflow_tracking_uri="off",
        study_name="s", **settings | options,
    )  # fmt: skip


def wider(numbers: Any, *rest: Any) -> tuple[Any, ...]:
    """Advice that always has something to try."""
    from autometa.diagnosis.advice import Advice

    base = numbers.networks["sharing"].config
    return (Advice("wider", {**base, "backbone.width": 11}, {"backbone.width": 11}),)


def test_advised_trials_are_judged_beyond_the_total_and_the_search_goes_on_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autometa.diagnosis.script.advise", wider)
    found = search(tmp_path)
    assert found.n_trials == sum(found.states.values()) == 6
    assert len(found.trials) == 8
    assert found.trials.arm[6:].tolist() == ["sharing", "independent"]
    assert found.diagnosis is not None
    (tried,) = found.diagnosis["tried"]
    assert tried["trial"] == 6
    assert tried["value"] is not None
    beyond = [note for note in found.test["notes"] if "beyond the searched trials" in note]
    winners = found.test["winners"].values()
    assert len(beyond) == len({6, 7} & set(winners)), "a winner beyond the total is named as one"
    assert tried["won"] == (6 in winners)
    assert [found.trials.params[n] for n in (6, 7)] == [{"backbone.width": 11}] * 2
    again = search(tmp_path, resume=True)
    assert again.diagnosis == found.diagnosis
    assert again.test == found.test, "a finished search is not judged again"
    more = search(tmp_path, resume=True, n_trials=9)
    assert more.n_trials == sum(more.states.values()) == 9
    numbers = [n for n, row in more.trials.iterrows() if row["params"] == {"backbone.width": 11}]
    assert 6 in numbers

    shown = CliRunner().invoke(app, ["diagnose", "s", "--home", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "Why: " in shown.stdout
    assert "Advice: wider" in shown.stdout
    assert "Tried as trial " in shown.stdout
    as_json = CliRunner().invoke(app, ["diagnose", "s", "--home", str(tmp_path), "--json"])
    assert json.loads(as_json.stdout.splitlines()[-1])["cause"] == more.diagnosis["cause"]


def test_without_diagnosis_the_command_says_how_to_get_one(tmp_path: Path) -> None:
    found = search(tmp_path, diagnose=False)
    assert found.diagnosis is None
    assert len(found.trials) == 6
    shown = CliRunner().invoke(app, ["diagnose", "s", "--home", str(tmp_path)])
    assert shown.exit_code == 2
    assert "Study `s` has no diagnosis" in shown.stderr
    assert "--resume" in shown.stderr
    assert search(tmp_path, resume=True).diagnosis is not None


def test_an_outdated_diagnosis_says_so(tmp_path: Path) -> None:
    search(tmp_path)
    search(tmp_path, resume=True, n_trials=8, diagnose=False)
    shown = CliRunner().invoke(app, ["diagnose", "s", "--home", str(tmp_path)])
    assert "Of the first 6 trials; 8 have ended by now." in shown.stdout


def test_after_the_time_out_nothing_is_diagnosed_and_the_judgement_comes(tmp_path: Path) -> None:
    suite = small_suite()
    with open_trials(tmp_path, suite, QUICK) as handle:
        late = make(handle, suite, tmp_path, 2, is_late=lambda: True)
        source = ScriptSource(late.script)
        assert InlineExecutor().run(source)
        assert source.returned is not None
        assert source.returned["reason"] == "The time-out had passed."
        assert stored(handle.study.user_attrs, handle.trials()) is None
    assert diagnose(tmp_path, suite, QUICK, steps=2)["reason"] is None


@pytest.mark.parametrize("option", [{"cost": "parameters"}, {"no_task_worse_than": 0.5}])
def test_with_a_cost_or_a_bound_advice_is_given_and_not_tried(
    tmp_path: Path, option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autometa.diagnosis.script.advise", wider)
    found = search(tmp_path, small_suite(rows=400), **option)
    assert found.diagnosis is not None
    assert found.diagnosis["reason"] is None
    assert "no advice is tried" in found.diagnosis["note"]
    assert found.diagnosis["advice"][0]["config"] is not None
    assert not found.trials["advised"].any()
    assert len(found.trials) == 6


def test_a_failed_advice_is_a_failed_trial_and_the_verdict_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(numbers: Any, *rest: Any) -> tuple[Any, ...]:
        (one,) = wider(numbers)
        config = {**one.config, "optimizer.lr": 1e30, "optimizer.clip": 1e30}
        return (type(one)("bad", config, {"optimizer.lr": 1e30}),)

    monkeypatch.setattr("autometa.diagnosis.script.advise", bad)
    found = search(tmp_path)
    assert found.verdict
    assert found.trials.state[6] == "FAIL"
    assert found.diagnosis["tried"] == [{"advice": 0, "trial": 6, "value": None, "won": False}]


def test_nothing_trained_is_the_judges_error(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="No trial was started before the time was up"):
        search(tmp_path, timeout=0.0)


def test_a_trial_is_added_whole(tmp_path: Path) -> None:
    with open_trials(tmp_path, small_suite(), QUICK) as handle:
        assert isinstance(handle, StudyHandle)
        assert [t.number for t in handle.trials()] == [0, 1]
        assert [t.state for t in handle.trials()] == [TrialState.COMPLETE] * 2
