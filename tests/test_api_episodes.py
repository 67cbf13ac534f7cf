"""Searches in episodes through the Python front: checks, a whole search, resuming it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autometa
from autometa.api import SearchResult
from autometa.api.episodic import EpisodeRequest
from autometa.cli.finding import print_finding
from autometa.errors import StudyError, UserError
from autometa.home import Home
from autometa.tasks import TaskSuite
from tests.searching.support import small_suite
from tests.small import timeless

SPACE = """
parameters:
  backbone.width: {type: categorical, choices: [8, 16]}
  backbone.depth: 2
  sharing.kind: hard
  sharing.split_at: {type: int, low: 0, high: 2, when: {sharing.kind: hard}}
  adaptation.kind: {type: categorical, choices: [gradient, finetune]}
  adaptation.inner_lr: {type: float, low: 1.0e-2, high: 0.3, log: true}
  optimizer.lr: {type: float, low: 1.0e-3, high: 1.0e-2, log: true}
independent:
  adaptation.kind: finetune
  adaptation.inner_lr: {type: float, low: 1.0e-2, high: 1.0, log: true}
  optimizer.lr: 1.0e-3
"""


def waves(tasks: int = 18, rows: int = 30, seed: int = 0) -> TaskSuite:
    """One regression a task: sines of different phase and height."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(tasks * rows, 1))
    task = np.repeat(np.arange(tasks), rows)
    height, phase = rng.uniform(0.5, 2.0, tasks)[task], rng.uniform(0, np.pi, tasks)[task]
    y = height * np.sin(2.0 * x[:, 0] + phase)
    return TaskSuite.from_arrays(x, y, task=[f"wave {t}" for t in task], name="waves")


def run(home: Path, suite: Any = None, **options: Any) -> SearchResult:
    home.mkdir(parents=True, exist_ok=True)
    space = home / "space.yaml"
    space.write_text(SPACE)
    settings: dict[str, Any] = {
        "n_trials": 4,
        "max_epochs": 3,
        "workers": 0,
        "device": "cpu",
        "space": space,
        "episodic": True,
        "shots": 5,
        "mlflow_tracking_uri": "off",
    } | options
    return autometa.search(waves() if suite is None else suite, home=home, **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": None}, "`shots` should be given with `episodic = True`"),
        ({"shots": 0}, "`shots` should be at least 1. Found `shots = 0`"),
        ({"queries": 0}, "`queries` should be at least 1. Found `queries = 0`"),
        ({"ways": 1}, "`ways` should be at least 2"),
        ({"ways": 3}, "`ways` should be left out where tasks are regression"),
        ({"test_ways": 3}, "`test_ways` should be left out where tasks are regression"),
        ({"one_task": True}, "`one_task` is for multiclass tasks"),
        ({"shots": 40}, "Episodes need at least 3 tasks with enough rows"),
        ({"cost": "parameters"}, "`cost` should be left out in episodes"),
        ({"no_task_worse_than": 0.1}, "`no_task_worse_than` should be left out in episodes"),
        ({"diagnose": True}, "`diagnose` (`--diagnosis`) should be left out in episodes"),
        (
            {"queries": 26},
            "`queries` should be at most 25: no task has more rows beside its 5 support rows",
        ),
        ({"episodic": False, "shots": None, "queries": 15}, "`queries` is about episodes"),
        ({"episodic": False}, "`shots` is about episodes: add `episodic = True`"),
        ({"episodic": False, "shots": None, "one_task": True}, "`one_task` is about episodes"),
    ],
)
def test_settings_are_checked_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, **options)
    assert message in str(caught.value)
    assert not (tmp_path / "studies").exists()


def test_query_rows_are_those_there_are_unless_a_number_is_asked_for() -> None:
    assert EpisodeRequest(5).of_suite(waves()).shape.queries == 15
    few = EpisodeRequest(5, test_shots=3).of_suite(waves(rows=12))
    assert few.shape.queries == few.test_shape.queries == 7
    assert EpisodeRequest(5, queries=25).of_suite(waves()).shape.queries == 25


def test_classes_need_ways(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    suite = TaskSuite.from_arrays(
        rng.normal(size=(240, 3)),
        np.tile(np.arange(4), 60),
        kinds="multiclass",
        task=np.repeat([f"t{i}" for i in range(12)], 20),
        name="kinds",
    )
    with pytest.raises(UserError, match="`ways` should be the number of classes of an episode"):
        run(tmp_path, suite)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run(tmp_path_factory.mktemp("episodes"))


def test_a_search_compares_every_method_on_held_out_tasks(found: SearchResult) -> None:
    test = found.test
    assert test is not None
    names = {method["name"] for method in test["methods"]}
    assert names >= {"sharing", "independent", "ridge", "pooled_ridge", "pooled_trees"}
    joint = "joint" in names
    assert joint == (test["methods"][0]["words"].split(" (")[0] != "joint training and fine-tuning")
    assert test["held_out_tasks"] == len(test["tasks"]) == 3
    assert test["conditions"]["match"]
    assert "do not match" not in test["verdict"]
    assert test["verdict"].count("\n") == 0
    assert "(5 support rows; 150 episodes of 3 held-out tasks)" in test["verdict"]
    by_name = {method["name"]: method for method in test["methods"]}
    assert test["score"] == by_name["sharing"]["score"]
    assert by_name["sharing"]["trial"] == test["winners"]["sharing"]
    assert by_name["sharing"]["seeds"] == 5
    assert test["delivered"]["method"] in {"sharing", "independent", "joint"}
    assert (test["opened_before"], test["budget"]["gains"]) == (0, [])
    assert found.diagnosis is None


def test_trials_are_scored_on_the_validation_tasks(found: SearchResult) -> None:
    assert found.states["FAIL"] == 0
    tasks = {name for row in found.trials["tasks"] for name in row}
    held_out = {task["name"] for task in found.test["tasks"]}
    assert len(tasks) == 3
    assert not tasks & held_out


def test_the_recommended_model_learns_a_new_task(found: SearchResult) -> None:
    assert found.model is not None
    model = autometa.load_model(found.model)
    assert model.facts["verdict"] == found.verdict
    assert model.facts["method"] == found.test["delivered"]["method"]
    x = np.linspace(-2, 2, 5)[:, None]
    adapted = model.adapt(x, labels=np.sin(2.0 * x[:, 0]))
    assert np.isfinite(adapted.predict(x).to_numpy(dtype=float)).all()


def test_resuming_repeats_the_finding_and_refuses_other_episodes(
    found: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = found.model.parent.parent
    again = {"study_name": found.study, "resume": True, "space": None}
    with pytest.raises(StudyError, match=r"started with `--episodic --shots 5 --queries 15`.*"):
        run(home, shots=3, **again)
    with pytest.raises(
        StudyError, match=r"Found `--episodic --shots 5 --queries 15 --test-shots 9`"
    ):
        run(home, test_shots=9, **again)
    with pytest.raises(StudyError, match=r"Found no `--episodic`"):
        run(home, episodic=False, shots=None, **again)
    monkeypatch.setattr("autometa.api.front.SearchLoop", None)
    assert run(home, **again).test == found.test


def test_a_study_of_rows_is_not_resumed_in_episodes(tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text("parameters:\n  backbone.width: 4\n  backbone.depth: 1\n")
    settings = {"episodic": False, "shots": None, "space": plain, "diagnose": False}
    first = run(tmp_path, n_trials=2, **settings)
    with pytest.raises(StudyError, match=r"started with no `--episodic`"):
        run(tmp_path, study_name=first.study, resume=True)


def test_ctrl_c_leaves_a_study_that_resumes(
    found: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autometa.searching import executors

    original, calls = executors.run_unit, []

    def interrupted(unit: Any) -> Any:
        calls.append(unit)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(unit)

    monkeypatch.setattr(executors, "run_unit", interrupted)
    stopped = run(tmp_path)
    assert stopped.interrupted
    assert stopped.test is None
    done = run(tmp_path, study_name=stopped.study, resume=True)
    assert done.trials["value"].tolist() == found.trials["value"].tolist()
    assert timeless(done.test) == timeless(found.test)


def test_other_episodes_in_the_test_are_said(tmp_path: Path) -> None:
    result = run(tmp_path, n_trials=2, max_epochs=1, test_shots=8)
    assert result.test is not None
    assert not result.test["conditions"]["match"]
    assert result.verdict.endswith(
        "Conditions do not match: trained on 5 support rows, tested on 8 support rows."
    )


IMAGES = """
parameters:
  backbone.kind: conv
  backbone.width: 4
  backbone.depth: 1
  sharing.kind: hard
  adaptation.kind: {type: categorical, choices: [metric, gradient]}
independent:
  adaptation.kind: finetune
  adaptation.test_steps: 2
unbuildable: drop
"""


def glyphs(tasks: int = 9, classes: int = 4, each: int = 7) -> TaskSuite:
    """Images of 6x6 pixels: every class of every task is a pattern of its own."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(tasks * classes, 1, 6, 6))
    number = np.repeat(np.arange(tasks * classes), each)
    x = patterns[number] + 0.3 * rng.normal(size=(len(number), 1, 6, 6))
    return TaskSuite.from_arrays(
        x.astype(np.float32),
        number % classes,
        kinds="multiclass",
        task=[f"script {n // classes}" for n in number],
        splits=np.tile(["train", "train", "train", "val", "val", "test", "test"], len(number) // 7),
        name="glyphs",
    )


def test_classes_of_images_with_other_numbers_of_them_in_the_test(tmp_path: Path) -> None:
    space = tmp_path / "images.yaml"
    space.write_text(IMAGES)
    options = {"ways": 3, "shots": 1, "queries": 3, "test_ways": 5, "n_trials": 2}
    result = run(tmp_path, glyphs(), space=space, max_epochs=2, **options)
    test = result.test
    assert test is not None
    by_name = {method["name"]: method for method in test["methods"]}
    # gradient steps are for as many classes as in training
    assert by_name["sharing"]["words"] == "prototypes"
    assert set(by_name) == {"sharing", "independent", "joint", "nearest"}
    assert by_name["joint"]["words"].endswith("not tuned")
    assert test["mixed"]
    assert test["tasks"] == []
    assert "glyphs (5-way 1-shot; 600 episodes)" in test["verdict"]
    assert test["verdict"].endswith(
        "Conditions do not match: trained on 3-way 1-shot, tested on 5-way 1-shot."
    )
    assert by_name["nearest"]["value"] > 0.8
    assert by_name["sharing"]["score"] == pytest.approx(
        1.0 - (1.0 - by_name["sharing"]["value"]) / 0.8
    )
    body = result.to_json()
    print_finding(body, Home.find(tmp_path))


def test_train_in_episodes(tmp_path: Path) -> None:
    config = {"adaptation.kind": "gradient", "backbone.width": 8, "backbone.depth": 1}
    result = autometa.train(
        waves(), config, episodic=True, shots=5, max_epochs=2, home=tmp_path, device="cpu"
    )
    assert np.isfinite(result.value)
    assert len(result.tasks) == 3
    assert autometa.load_model(result.model).problem.episode.shots == 5
    joint = {"adaptation.kind": "joint"}
    with pytest.raises(UserError, match=r"`adaptation.kind` should be .*`gradient`"):
        autometa.train(waves(), joint, episodic=True, shots=5, home=tmp_path, device="cpu")


def test_a_suite_of_rows_is_still_a_search_of_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`queries` is about episodes"):
        autometa.search(small_suite(), queries=3, home=tmp_path)
