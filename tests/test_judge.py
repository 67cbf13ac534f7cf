"""The final comparison: test rows are opened once, by the judge, and nothing else sees them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import autometa
from autometa.api import SearchResult
from autometa.describing import describe_sharing
from autometa.errors import InfrastructureError
from autometa.home import Home
from autometa.model import Model
from autometa.searching.finalists import FINALISTS, best_of
from autometa.study import read_study
from autometa.tasks import TaskSuite
from autometa.trial import TrialConfig
from tests.searching.support import SPACE, small_suite


def run(home: Path, suite: TaskSuite, **options: Any) -> SearchResult:
    space = home / "space.yaml"
    home.mkdir(parents=True, exist_ok=True)
    space.write_text(SPACE)
    settings: dict[str, Any] = {
        "n_trials": 10,
        "max_epochs": 4,
        "workers": 0,
        "device": "cpu",
    } | options
    return autometa.search(suite, space=space, home=home, mlflow_tracking_uri="off", **settings)


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
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run(tmp_path_factory.mktemp("judge"), small_suite())


def test_other_test_rows_change_the_judgement_and_nothing_else(
    found: SearchResult, tmp_path: Path
) -> None:
    other = run(tmp_path, poisoned(small_suite()))
    columns = ["number", "state", "value", "epoch"]
    pd.testing.assert_frame_equal(found.trials[columns], other.trials[columns])
    assert found.best == other.best
    assert found.test is not None
    assert other.test is not None
    words = [[m["words"] for m in one.test["methods"]] for one in (found, other) if one.test]
    assert words[0] == words[1]
    assert abs(found.test["score"] - other.test["score"]) > 0.1
    for one in (found, other):
        assert one.diagnosis is not None
        for key in ("seconds", "reused_seconds", "search_seconds"):
            del one.diagnosis[key]
    assert found.diagnosis == other.diagnosis


def test_only_the_judge_opens_the_test_rows() -> None:
    package = Path(autometa.__file__).parent
    callers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\.open_test\(|\._test\b", path.read_text(encoding="utf-8"))
    }
    # `held_out` gives rows of all splits to their tasks, `episodic` seals those of test tasks
    regroups = {"tasks/held_out.py", "tasks/episodic.py"}
    assert callers == {"contests.py", "tasks/suite.py", *regroups}


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


def test_recommended_model_is_refit_and_loads(found: SearchResult) -> None:
    assert found.model is not None
    assert found.test is not None
    model = autometa.load_model(found.model)
    kind = model.config.flat()["sharing.kind"]
    assert (kind == "independent") == (found.test["recommended"] == "independent")
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
    run(tmp_path, small_suite(), n_trials=4)
    counts = small_suite().counts
    assert seen == [counts["train"] + counts["val"]]


def test_three_finalists_of_each_arm_by_value(found: SearchResult) -> None:
    study = read_study(Home.find(_home(found)), found.study)
    for arm in ("sharing", "independent"):
        best = best_of(study.trials, arm)
        assert len(best) <= FINALISTS
        values = [t.value for t in best]
        assert values == sorted(values, reverse=True)
        assert {t.user_attrs["arm"] for t in best} <= {arm}


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
    uneven = run(tmp_path, small_suite(), n_trials=8, independent_share=0.25)
    assert "independent networks tuned with 2 of 8 trials" in (uneven.verdict or "")


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
