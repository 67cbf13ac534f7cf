"""The Python front: input checks before any work, names, resuming, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autometa
from autometa.errors import (
    ConfigError,
    DeviceError,
    InfrastructureError,
    SpaceError,
    StudyError,
    UserError,
)
from autometa.home import Home
from autometa.study import list_studies, open_study
from tests.searching.support import SPACE, run, small_suite

pytestmark = pytest.mark.usefixtures("short_judgement")


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"n_trials": -3}, UserError, "n_trials = -3"),
        ({"max_epochs": 0}, UserError, "max_epochs = 0"),
        ({"max_steps": 0}, UserError, "max_steps = 0"),
        ({"max_steps": 9, "max_epochs": 2}, UserError, "both say how long"),
        ({"independent_share": 1.5}, UserError, "independent_share = 1.5"),
        ({"workers": -1}, UserError, "workers = -1"),
        ({"cpus_per_worker": 0}, UserError, "cpus_per_worker = 0"),
        ({"cpus_per_worker": 10_000}, UserError, "cpus_per_worker = 10000"),
        ({"gpus_per_worker": 10_000.0}, UserError, "the GPUs of this machine"),
        ({"seed": -1}, UserError, "seed = -1"),
        ({"seed": 2**32}, UserError, "seed = 4294967296"),
        ({"ray_address": "127.0.0.1:1"}, UserError, "ray_address = 127.0.0.1:1"),
        ({"sampler": "tpee"}, UserError, "tpee"),
        ({"pruner": "ashaa"}, UserError, "asha"),
        ({"device": "tpu"}, DeviceError, "tpu"),
        ({"study_name": "../x"}, UserError, "../x"),
        ({"study_name": ""}, UserError, "study_name"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    options: dict[str, Any], error: type[UserError], names: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        run(tmp_path, small_suite(), **options)
    assert names in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_home_that_cannot_be_is_the_users_mistake(below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=r"home folder .*Found the file") as caught:
        autometa.search(small_suite(), home=file / below, workers=0)
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match=r"home folder .*Found the file"):
        autometa.train(small_suite(), {}, home=file / below)


def test_no_time_for_any_trial_is_said(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="No trial was started before the time was up"):
        run(tmp_path, small_suite(), timeout=0.0)


def test_unknown_space_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace("optimizer.lr", "optimizer.lrr"))
    with pytest.raises(SpaceError, match=r"optimizer\.lr\b"):
        autometa.search(small_suite(), space=path, home=tmp_path, workers=0)


def test_unreachable_tracking_server_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError):
        autometa.search(
            small_suite(), home=tmp_path, workers=0, mlflow_tracking_uri="http://127.0.0.1:9"
        )
    assert list_studies(Home.find(tmp_path)) == []


def test_names_are_numbered_and_existing_ones_are_not_overwritten(tmp_path: Path) -> None:
    suite = small_suite()
    assert run(tmp_path, suite, n_trials=2).study == "small-1"
    assert run(tmp_path, suite, n_trials=2).study == "small-2"
    with pytest.raises(StudyError, match="--resume"):
        run(tmp_path, suite, n_trials=2, study_name="small-1")


def test_resuming_a_finished_search_repeats_its_finding_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, small_suite(), n_trials=4)
    monkeypatch.setattr("autometa.api.front.SearchLoop", None)
    again = run(tmp_path, small_suite(), n_trials=4, study_name=first.study, resume=True)
    assert again.test == first.test
    assert again.model == first.model


def test_resuming_with_more_trials_judges_again(tmp_path: Path) -> None:
    first = run(tmp_path, small_suite(), n_trials=4)
    more = run(tmp_path, small_suite(), n_trials=6, study_name=first.study, resume=True)
    assert more.n_trials == 6
    before = {row.number: (row.value, row.advised) for row in first.trials.itertuples()}
    after = {row.number: (row.value, row.advised) for row in more.trials.itertuples()}
    assert {number: after[number] for number in before} == before
    assert sum(not advised for _, advised in after.values()) == 6


def test_a_resumed_study_keeps_what_its_rungs_depend_on(tmp_path: Path) -> None:
    first = run(tmp_path, small_suite(), n_trials=2)
    with pytest.raises(StudyError, match="max_steps = 8"):
        run(tmp_path, small_suite(), max_epochs=9, study_name=first.study, resume=True)


def test_a_study_that_was_counted_in_epochs_shows_its_result_and_does_not_go_on(
    tmp_path: Path,
) -> None:
    first = run(tmp_path, small_suite(), n_trials=2)
    suite, home = small_suite(), Home.find(tmp_path)
    with open_study(home, first.study, fingerprint=suite.fingerprint, resume=True, attrs={}) as old:
        settings = dict(old.study.user_attrs["settings"])
        settings["max_epochs"] = settings.pop("max_steps")
        old.set_attr("settings", settings)
    options: dict[str, Any] = {"study_name": first.study, "resume": True}
    again = run(tmp_path, small_suite(), n_trials=2, **options)
    assert (again.test, again.model) == (first.test, first.model)
    with pytest.raises(StudyError, match="counted training in epochs"):
        run(tmp_path, small_suite(), n_trials=4, **options)


def test_a_changed_suite_is_refused_on_resume(tmp_path: Path) -> None:
    first = run(tmp_path, small_suite(), n_trials=2)
    for suite, what in (
        (small_suite(seed=1), "other values of feature `x0`"),
        (small_suite(rows=102), "12 rows more"),
    ):
        with pytest.raises(StudyError, match=rf"other data \(.*{what}") as caught:
            run(tmp_path, suite, study_name=first.study, resume=True)
        assert suite.fingerprint not in str(caught.value)


def test_ctrl_c_leaves_a_study_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autometa.searching import executors

    original, calls = executors.run_unit, []

    def interrupted(unit: Any) -> Any:
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(unit)

    monkeypatch.setattr(executors, "run_unit", interrupted)
    stopped = run(tmp_path, small_suite())
    assert stopped.interrupted
    assert stopped.test is None
    assert stopped.model is None
    done = run(tmp_path, small_suite(), study_name=stopped.study, resume=True)
    whole = run(tmp_path / "other", small_suite())
    assert done.trials["value"].tolist() == whole.trials["value"].tolist()
    assert done.test is not None
    assert whole.test is not None
    for found in (done.test, whole.test):  # the clock's are the only numbers that differ
        found["methods"] = [{**row, "seconds": None} for row in found["methods"]]
    assert done.test == whole.test


def test_train_writes_a_model(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("backbone: {width: 8, depth: 2}\nsharing.split_at: 1\n")
    result = autometa.train(small_suite(), config, max_epochs=5, home=tmp_path, device="cpu")
    assert result.model == tmp_path / "models" / "small-train-1"
    assert set(result.tasks) == {"up", "down", "sign"}
    model = autometa.load_model(result.model)
    assert model.facts["validation_score"] == result.value
    assert len(model.predict(np.zeros((3, 4)))) == 3
    same = autometa.train(small_suite(), config, max_epochs=5, home=tmp_path, device="cpu")
    assert same.value == result.value
    assert same.model != result.model


def test_train_writes_over_nothing_else(tmp_path: Path) -> None:
    config = {"backbone.width": 8, "backbone.depth": 2}
    options = {"max_epochs": 1, "home": tmp_path, "device": "cpu"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="holds other files"):
        autometa.train(small_suite(), config, out=tmp_path / "mine", **options)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match=r"`out` .*Found the file"):
        autometa.train(small_suite(), config, out=tmp_path / "mine" / "notes.txt", **options)
    for _ in range(2):  # its own model may be replaced
        autometa.train(small_suite(), config, out=tmp_path / "model", **options)
    found = run(tmp_path, small_suite(), n_trials=2, max_epochs=1, study_name="s")
    with pytest.raises(UserError, match="model of a search"):
        autometa.train(small_suite(), config, out=found.model, **options)
    with pytest.raises(UserError, match=f"seed = {2**32}"):
        autometa.train(small_suite(), config, seed=2**32, **options)


def test_train_refuses_what_cannot_be_built_or_diverges(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split_at"):
        autometa.train(small_suite(), {"sharing.split_at": 9}, home=tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        autometa.train(small_suite(), tmp_path / "absent.yaml", home=tmp_path)
    wild = {"optimizer.lr": 1e30, "optimizer.clip": 1e30, "backbone.norm": "none"}
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        autometa.train(small_suite(), wild, home=tmp_path, device="cpu")
    assert not (tmp_path / "models").exists()


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no autometa model"):
        autometa.load_model(tmp_path)
