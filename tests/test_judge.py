"""The final comparison: test rows are opened once, by the judge, and nothing else sees them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState, create_trial

import autometa
from autometa.api import SearchResult
from autometa.describing import describe_sharing
from autometa.errors import InfrastructureError
from autometa.home import Home
from autometa.judge import ARMS
from autometa.model import Model, PeerModel
from autometa.searching.finalists import FINALISTS, best_of
from autometa.searching.loop import SearchLoop
from autometa.study import read_study, rung_values
from autometa.tasks import TaskSuite
from autometa.trial import TrialConfig
from tests.searching.support import SPACE, small_suite
from tests.small import make_suite

pytestmark = pytest.mark.usefixtures("short_judgement")


def run(home: Path, suite: TaskSuite, **options: Any) -> SearchResult:
    space = home / "space.yaml"
    home.mkdir(parents=True, exist_ok=True)
    space.write_text(SPACE)
    settings: dict[str, Any] = {
        "space": space,
        "n_trials": 10,
        "max_epochs": 4,
        "workers": 0,
        "device": "cpu",
        "diagnose": False,
    } | options
    return autometa.search(suite, home=home, mlflow_tracking_uri="off", **settings)


def poisoned(suite: TaskSuite) -> TaskSuite:
    """The same suite with other test rows: noise for inputs, labels turned around."""
    sealed = suite.open_test()
    other = sealed._replace(
        x=torch.randn(sealed.x.shape, generator=torch.Generator().manual_seed(1)),
        y=torch.where(torch.tensor([True, True, False]), -sealed.y, 1 - sealed.y),
    )
    copy = small_suite()
    object.__setattr__(copy, "_test", other)
    return copy


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, short_judgement: None) -> SearchResult:
    home = tmp_path_factory.mktemp("judge")
    return run(home, small_suite(), deliver="network", diagnose=True)


def test_other_test_rows_change_the_judgement_and_nothing_else(
    found: SearchResult, tmp_path: Path
) -> None:
    other = run(tmp_path, poisoned(small_suite()), deliver="network", diagnose=True)
    columns = ["number", "state", "value", "best_step"]
    pd.testing.assert_frame_equal(found.trials[columns], other.trials[columns])
    assert found.best == other.best
    assert found.test is not None
    assert other.test is not None
    words = [[m["words"] for m in one.test["methods"]] for one in (found, other) if one.test]
    assert words[0] == words[1]
    assert abs(found.test["score"] - other.test["score"]) > 0.1
    for one in (found, other):
        assert one.diagnosis is not None
        for key in ("seconds", "search_seconds"):
            del one.diagnosis[key]
    assert found.diagnosis == other.diagnosis


def test_only_the_judge_opens_the_test_rows() -> None:
    package = Path(autometa.__file__).parent
    callers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\.open_test\(|\._test\b", path.read_text(encoding="utf-8"))
    }
    # `held_out` gives rows of all splits to their tasks, `episodic` seals those of test tasks, and
    # `outline` tells other data by means over all rows, which no trial or method is shown
    others = {"tasks/held_out.py", "tasks/episodic.py", "tasks/outline.py"}
    assert callers == {"contests.py", "tasks/suite.py", *others}


def test_workers_get_a_copy_without_test_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []
    save = TaskSuite.save

    def spy(self: TaskSuite, folder: Any) -> Path:
        saved.append(save(self, folder))
        assert not (saved[-1] / "test.safetensors").exists()
        return saved[-1]

    monkeypatch.setattr(TaskSuite, "save", spy)
    run(tmp_path, small_suite(), n_trials=4)
    assert saved


def test_result_has_what_the_command_line_promises(found: SearchResult) -> None:
    body = found.to_json()
    assert set(body) >= {
        "study", "suite", "n_trials", "states", "best", "test", "model", "seconds", "mlflow",
    }  # fmt: skip
    assert sum(body["states"].values()) == body["n_trials"] == 10
    names = {row["name"] for row in body["methods"]}
    assert names == {"sharing", "independent", "ridge"}
    assert "ridge_pooled" in body["test"]["left_out"]
    for row in body["methods"]:
        low, high = row["interval"]
        assert low <= row["score"] <= high
        assert row["tuned"] >= 1
        assert row["seconds"] >= 0.0
    assert body["delivered"] == body["test"]["delivered"]
    test = body["test"]
    assert set(test) >= {
        "score", "independent_score", "methods", "delta_m", "delta_m_ci", "verdict", "tasks",
    }  # fmt: skip
    low, high = test["delta_m_ci"]
    assert low < test["delta_m"] < high
    assert [task["name"] for task in test["tasks"]] == ["up", "down", "sign"]
    assert {task["effect"] for task in test["tasks"]} <= {
        "helped",
        "hurt",
        "undecided",
        "not learned",
    }
    assert found.verdict == test["verdict"]
    assert test["verdict"].count("\n") == 0


def test_the_delivered_network_is_refit_and_loads(found: SearchResult) -> None:
    assert found.model is not None
    assert found.test is not None
    model = Model.load(found.model)
    kind = model.config.flat()["sharing.kind"]
    name = found.test["delivered"]["method"]
    assert (kind == "independent") == (name == "independent")
    row = next(row for row in found.test["methods"] if row["name"] == name)
    assert model.facts["test_score"] == found.test["delivered"]["score"] == row["score"]
    assert model.facts["steps"] == found.test["budget"]["lengths"][name]["steps"]
    assert model.members == len(set(model.facts["seeds"])) == 5
    assert model.facts["verdict"] == found.verdict
    rows = np.random.default_rng(0).normal(size=(5, 4))
    predicted = model.predict(rows)
    assert list(predicted.columns) == ["up", "down", "sign"]
    assert set(predicted["sign"]) <= {0, 1}


def test_refit_uses_training_and_validation_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = Model.of

    def spy(suite: TaskSuite, *rest: Any) -> Model:
        seen.append(suite.counts["train"])
        return original(suite, *rest)

    monkeypatch.setattr(Model, "of", spy)
    run(tmp_path, small_suite(), n_trials=4, deliver="network")
    counts = small_suite().counts
    assert seen == [counts["train"] + counts["val"]]


def test_finalists_of_each_arm_by_value(found: SearchResult) -> None:
    study = read_study(Home.find(_home(found)), found.study)
    for arm in ("sharing", "independent"):
        best = best_of(study.trials, arm)
        assert len(best) <= FINALISTS
        values = [t.value for t in best]
        assert values == sorted(values, reverse=True)
        assert {t.user_attrs["arm"] for t in best} <= {arm}
        row = next(row for row in found.test["methods"] if row["name"] == arm)
        assert {c["number"] for c in row["finalists"]} == {t.number for t in best}
        assert row["trial"] == row["finalists"][0]["number"] == found.test["winners"][arm]
        on_validation = [c["validation"] for c in row["finalists"]]
        assert on_validation == sorted(on_validation, reverse=True)
        assert row["validation"] == on_validation[0]


def test_checkpoints_and_suite_copy_are_removed(found: SearchResult) -> None:
    assert not Home.find(_home(found)).checkpoints(found.study).exists()


def test_one_arm_gives_a_model_and_no_comparison(tmp_path: Path) -> None:
    result = run(tmp_path, small_suite(), n_trials=3, independent_share=0.0)
    assert result.test is not None
    assert result.test["independent_score"] is None
    assert result.test["delta_m"] is None
    assert "nothing can be said about independent networks" in result.test["verdict"]
    assert result.model is not None


def test_nothing_completed_is_an_error_and_the_study_stays(
    tmp_path: Path,
) -> None:
    with pytest.raises(InfrastructureError, match="No trial was started"):
        run(tmp_path, small_suite(), n_trials=3, timeout=0.0)
    assert run(tmp_path, small_suite(), n_trials=3, study_name="small-1", resume=True).n_trials == 3


def test_all_diverged_is_an_error_that_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = (
        "low: 1.0e+29, high: 1.0e+30, log: true}\n  optimizer.clip: 1.0e+30\n  backbone.norm: none"
    )
    space = SPACE.replace("low: 1.0e-3, high: 3.0e-2, log: true}", wild)
    monkeypatch.setitem(globals(), "SPACE", space)
    with pytest.raises(InfrastructureError, match="No trial completed.*gives the reason of each"):
        run(tmp_path, small_suite(), n_trials=3)


def test_verdict_does_not_claim_equal_tuning_where_there_was_none(
    found: SearchResult, tmp_path: Path
) -> None:
    assert "equally tuned independent networks" in (found.verdict or "")
    uneven = run(tmp_path, small_suite(), n_trials=8, independent_share=0.25, max_epochs=2)
    assert "independent networks tuned with 2 of 8 trials" in (uneven.verdict or "")


# --- which model is delivered -----------------------------------------------------------------


def linear() -> TaskSuite:
    """Targets that a ridge regression knows exactly, and networks of a few steps do not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 4))
    y = x @ rng.normal(size=(4, 2)) + 0.05 * rng.normal(size=(150, 2))
    return TaskSuite.from_arrays(x, y, names=["a", "b"], kinds="regression", name="linear")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, short_judgement: None) -> dict[str, Any]:
    """One study, judged again and again: each time something else is to be delivered."""
    home = tmp_path_factory.mktemp("linear")
    options: dict[str, Any] = {"n_trials": 4, "study_name": "linear", "resume": True}
    found: dict[str, Any] = {}
    for name, more in {
        "auto": {},
        "network": {"deliver": "network"},
        "single": {"deliver": "network", "ensemble": 1},
        "pair": {"deliver": "network", "ensemble": 2},
    }.items():
        result = run(home, linear(), **options, **more)
        assert result.model is not None
        found[name] = result, autometa.load_model(result.model)
    return {**found, "home": home}


def test_a_peer_that_is_ahead_is_recommended_and_delivered(judged: dict[str, Any]) -> None:
    result, model = judged["auto"]
    test = result.test
    assert test["recommended"] in ("ridge", "ridge_pooled")
    assert test["recommended_why"] in ("ahead", "validation")
    assert test["delivered"]["method"] == test["recommended"]
    assert test["verdict"].startswith(("Best on linear", "No method is measurably ahead on linear"))
    assert "Recommended: ridge" in test["verdict"]
    assert isinstance(model, PeerModel)
    assert model.facts["method"] == test["recommended"]
    assert model.facts["verdict"] == result.verdict
    suite = linear()
    rows = suite.open_test()
    predicted = model.predict(rows.x.numpy()).to_numpy(dtype=float)
    assert predicted.shape == (len(rows.x), 2)
    for t, task in enumerate(suite.tasks):
        truth = rows.y[:, t].numpy() * task.std + task.mean
        assert np.corrcoef(predicted[:, t], truth)[0, 1] > 0.99
    interval = model.predict(rows.x.numpy(), interval=0.8)
    assert len(interval.columns) > 2


def test_networks_are_delivered_where_they_are_asked_for(judged: dict[str, Any]) -> None:
    result, model = judged["network"]
    test = result.test
    assert test["recommended"] == judged["auto"][0].test["recommended"]
    assert test["delivered"]["method"] in ("sharing", "independent")
    assert "The network that is delivered all the same" in test["verdict"]
    assert isinstance(model, Model)
    assert model.members == test["ensemble"] == 5
    assert result.n_trials == judged["auto"][0].n_trials == 4, "no trial was added"


@pytest.mark.parametrize(("name", "members", "seeds"), [("single", 1, 5), ("pair", 2, 2)])
def test_what_is_judged_is_as_large_as_what_is_delivered(
    judged: dict[str, Any], name: str, members: int, seeds: int
) -> None:
    result, model = judged[name]
    assert model.members == result.test["ensemble"] == members
    for row in result.test["methods"]:
        assert row["seeds"] == (seeds if row["kind"] == "network" else 1)
    together, alone = (
        {row["name"]: row for row in judged[which][0].test["methods"]}
        for which in ("network", "single")
    )
    for arm in ("sharing", "independent"):
        own = alone[arm]
        assert own["score"] == pytest.approx(np.mean(own["seed_scores"]))
        assert together[arm]["score"] > np.mean(together[arm]["seed_scores"])
        pair = next(row for row in judged["pair"][0].test["methods"] if row["name"] == arm)
        if pair["trial"] == together[arm]["trial"]:
            assert pair["seed_scores"] == pytest.approx(together[arm]["seed_scores"][:2])


def test_openings_of_the_test_rows_are_counted(judged: dict[str, Any]) -> None:
    tests = [judged[name][0].test for name in ("auto", "network", "single", "pair")]
    assert [test["opened_before"] for test in tests] == [0, 1, 2, 3]
    notes = [[note for note in test["notes"] if "have been opened" in note] for test in tests]
    assert notes[0] == []
    assert "opened once before" in notes[1][0]
    assert "opened 3 times before" in notes[3][0]
    options = {"n_trials": 4, "study_name": "linear", "resume": True, "ensemble": 2}
    again = run(judged["home"], linear(), deliver="network", **options)
    assert again.test == tests[3], "a finished study opens nothing"


def test_one_task_is_judged_like_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    suite = TaskSuite.from_arrays(x, np.sin(x[:, :1]), names=["y"], kinds="regression", name="one")
    test = run(tmp_path, suite, n_trials=4, max_epochs=1).test
    assert test is not None
    assert [task["name"] for task in test["tasks"]] == ["y"]
    assert {row["name"] for row in test["methods"]} >= {"sharing", "independent", "ridge"}


@pytest.mark.parametrize("kind", ["grouped", "image"])
def test_other_kinds_of_suites(tmp_path: Path, kind: str) -> None:
    text = SPACE
    if kind == "image":
        text = text.replace("parameters:", "parameters:\n  backbone.kind: conv")
    (tmp_path / "other.yaml").write_text(text)
    suite = make_suite(kind, rows=100)
    result = run(
        tmp_path, suite, space=tmp_path / "other.yaml", n_trials=2, max_epochs=1, deliver="network"
    )
    assert result.test is not None
    assert result.test["layout"] == "rows"
    names = {row["name"] for row in result.test["methods"]}
    assert names | set(result.test["left_out"]) == {*ARMS, "ridge", "ridge_pooled"}
    assert names >= {*ARMS, "ridge"}
    assert isinstance(autometa.load_model(result.model), Model)


def test_sharing_is_described_in_words() -> None:
    config = TrialConfig.from_flat(
        {"sharing.split_at": 2, "conditioning.kind": "multiplicative", "conditioning.at": "last"}
    )
    assert describe_sharing(config) == (
        "hard sharing (2 of 3 blocks shared, multiplicative conditioning at last)"
    )
    for values, words in (
        ({"sharing.kind": "soft", "sharing.tie": 0.0123}, "soft sharing (tie 0.012)"),
        ({"sharing.kind": "cross_stitch"}, "cross-stitch sharing (one unit a layer)"),
        ({"sharing.kind": "sluice"}, "sluice sharing (2 subspaces)"),
        (
            {"sharing.kind": "tree", "sharing.partitions": "000/001/012"},
            "tree sharing (groups 000, 001, 012)",
        ),
        (
            {"sharing.kind": "tree", "sharing.partitions": f"{'0' * 14}/{'01' * 7}/{'01' * 7}"},
            "tree sharing (groups 1, 2, 2)",
        ),
    ):
        assert describe_sharing(TrialConfig.from_flat(values)) == words


def _home(result: SearchResult) -> Path:
    assert result.model is not None
    return result.model.parent.parent


def test_only_the_judge_of_episodes_opens_the_test_tasks() -> None:
    package = Path(autometa.__file__).parent
    callers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\.open_test_episodes\(", path.read_text(encoding="utf-8"))
    }
    assert callers == {"contest_episodes.py"}


@pytest.mark.usefixtures("early_rungs")
@pytest.mark.parametrize("arms", [("sharing", "independent"), ("independent",)])
def test_a_time_out_before_any_trial_ended_is_judged_from_those_that_came_farthest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arms: tuple[str, ...]
) -> None:
    """Trials that were stopped early, and those that waited to go on, are trained to the end."""
    late = SearchLoop.is_late

    def up(self: SearchLoop) -> bool:
        reached = dict.fromkeys(arms, 0)
        for t in self._handle.trials():
            arm = t.user_attrs["arm"]
            reached[arm] = max(reached.get(arm, 0), *rung_values(t), 0)
        return late(self) or min(reached[arm] for arm in arms) > 1

    monkeypatch.setattr(SearchLoop, "is_late", up)
    found = run(tmp_path, small_suite(), n_trials=12, timeout=600.0, diagnose=False)
    trials = {t.number: t for t in read_study(Home.find(tmp_path), found.study).trials}
    assert found.test is not None
    for arm, number in found.test["winners"].items():
        own = [t for t in trials.values() if t.user_attrs["arm"] == arm]
        if not any(t.state == TrialState.COMPLETE for t in own):
            assert number in [t.number for t in best_of(own, arm)]
            notes = " ".join(found.test["notes"])
            assert f"no trial of the {arm} arm was trained to the end" in notes
    assert set(found.test["winners"]) == {"sharing", "independent"}
    assert not any(t.state == TrialState.COMPLETE for t in trials.values())
    assert found.model is not None
    assert json.dumps(found.to_json())


def test_of_unfinished_trials_those_that_came_farthest_are_the_best() -> None:
    made = [
        create_trial(state=state, intermediate_values=rungs, user_attrs={"arm": "sharing"})
        for state, rungs in [
            (TrialState.PRUNED, {1: 0.9}),
            (TrialState.PRUNED, {1: 0.2, 3: 0.4}),
            (TrialState.RUNNING, {1: 0.3, 3: 0.5}),
            (TrialState.RUNNING, {}),
            (TrialState.FAIL, {1: 0.9, 3: 0.9}),
        ]
    ]
    for number, trial in enumerate(made):
        trial.number = number
    assert [t.number for t in best_of(made, "sharing")] == [2, 1, 0]
    assert best_of(made, "independent") == []
    done = create_trial(value=0.1, user_attrs={"arm": "sharing"})
    assert best_of([*made, done], "sharing") == [done], "as long as one was trained to the end"
