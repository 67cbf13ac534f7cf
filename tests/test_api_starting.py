"""`init_from` through the Python front: errors before any work, the search, resuming it, `auto`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import autometa
from autometa.api import SearchResult
from autometa.cli import app
from autometa.cli.finding import print_finding
from autometa.describing import describe_network
from autometa.errors import InfrastructureError, SpaceError, StudyError, UserError
from autometa.finals import Finalist
from autometa.home import Home
from autometa.judge import _notes
from autometa.model import Model
from autometa.priors import probes
from autometa.study import delete_study, list_studies, read_study
from autometa.tasks import TaskSuite
from autometa.training.initial import Initial
from autometa.training.state import PopulationState
from autometa.trial import TrialConfig
from tests.searching.support import SPACE, small_suite
from tests.small import timeless
from tests.test_api_episodes import SPACE as EPISODES
from tests.test_api_episodes import waves

pytestmark = pytest.mark.usefixtures("short_judgement")

NETWORK = {"backbone.width": 8, "backbone.depth": 2}


def train(home: Path, suite: TaskSuite | None = None, out: str = "first", **values: Any) -> Path:
    """A model of other rows of the same kind of suite."""
    config = {**NETWORK, **values}
    folder = home / "models" / out
    suite = small_suite(seed=9) if suite is None else suite
    return autometa.train(suite, config, max_epochs=2, out=folder, device="cpu").model


def run(home: Path, suite: TaskSuite | None = None, **options: Any) -> SearchResult:
    home.mkdir(parents=True, exist_ok=True)
    space = home / "space.yaml"
    space.write_text(options.pop("text", SPACE))
    settings: dict[str, Any] = {
        "n_trials": 8,
        "max_epochs": 2,
        "workers": 0,
        "device": "cpu",
        "study_name": "second",
        "pruner": "none",
        "diagnose": False,
        "mlflow_tracking_uri": "off",
        "deliver": "network",
    } | options
    suite = small_suite() if suite is None else suite
    return autometa.search(suite, space=space, home=home, **settings)


def named(name: str, **options: Any) -> TaskSuite:
    return dataclasses.replace(small_suite(**options), name=name)


def kinds(result: SearchResult) -> list[str]:
    return [config["init.kind"] for config in result.trials["config"]]


class TestRefusedBeforeAnyWork:
    def refused(self, home: Path, match: str, error: type[Exception], **options: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            run(home, **options)
        assert getattr(caught.value, "exit_code", None) == 2
        assert list_studies(Home.find(home)) == []

    def test_no_such_model(self, tmp_path: Path) -> None:
        train(tmp_path)
        self.refused(tmp_path, r"Did you mean `first`\?", UserError, init_from="frist")

    def test_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "models" / "empty").mkdir(parents=True)
        self.refused(tmp_path, "holds no autometa model", UserError, init_from="empty")

    @pytest.mark.parametrize("file", ["weights.safetensors", "model.json"])
    def test_a_damaged_model(self, tmp_path: Path, file: str) -> None:
        path = train(tmp_path) / file
        text = path.read_bytes()
        path.write_bytes(text[: len(text) // 2])
        self.refused(tmp_path, "(is damaged|holds no autometa model)", UserError, init_from="first")

    def test_other_features(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).normal(size=(60, 9))
        train(tmp_path, TaskSuite.from_arrays(x[:, :1], x[:, 3:5]))
        self.refused(tmp_path, "knows 1 of the 4 features", UserError, init_from="first")
        images = TaskSuite.from_arrays(x.reshape(60, 3, 3), x[:, :2])
        train(tmp_path, images, "images")
        self.refused(tmp_path, "reads images of 1×3×3", UserError, init_from="images")

    def test_nothing_in_common(self, tmp_path: Path) -> None:
        train(tmp_path, **{"sharing.kind": "independent"})
        match = r"its tasks have no block in common \(`sharing\.kind = independent`\)"
        self.refused(tmp_path, match, UserError, init_from="first")

    def test_another_backbone(self, tmp_path: Path) -> None:
        train(tmp_path, **{"backbone.width": 16})
        match = r"it has `backbone\.width = 16`, and the space 4, 8"
        self.refused(tmp_path, match, UserError, init_from=tmp_path / "models" / "first")
        train(tmp_path, **{"backbone.norm": "none"})
        match = r"it has `backbone\.norm = none`, and the space layer"
        self.refused(tmp_path, match, UserError, init_from="first")

    def test_a_space_that_wants_what_there_is_not(self, tmp_path: Path) -> None:
        text = SPACE + "  init.kind: {type: categorical, choices: [random, earlier]}\n"
        self.refused(tmp_path, "without an earlier model", SpaceError, text=text)

    def test_train_says_what_differs(self, tmp_path: Path) -> None:
        train(tmp_path)
        with pytest.raises(UserError, match=r"it has `backbone\.width = 8`, not 12"):
            autometa.train(small_suite(), {"backbone.width": 12}, init_from="first", home=tmp_path)


def test_the_model_of_this_very_suite_is_refused(tmp_path: Path) -> None:
    first = run(tmp_path, n_trials=2, study_name="first")
    with pytest.raises(UserError, match="validation rows of this very suite"):
        run(tmp_path, init_from=first.model)
    # `autometa train` has not seen the validation rows
    own = train(tmp_path, small_suite(), "own")
    assert run(tmp_path, init_from=own, n_trials=2).init is not None


def test_both_arms_are_offered_it_where_it_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path)
    result = run(tmp_path, init_from="first", n_trials=24, sampler="random")
    for arm in ("sharing", "independent"):
        own = result.trials[result.trials["arm"] == arm]
        wide = [p["init.kind"] for p in own["params"] if p["backbone.width"] == 8]
        assert set(wide) == {"random", "earlier"}
        assert not any("init.kind" in p for p in own["params"] if p["backbone.width"] == 4)
    for trial in result.trials.itertuples():
        # both blocks, 4 × 8 + 8 and 8 × 8 + 8 numbers, of one network or of three
        copies = {"independent": (3, 3), "sharing": (1, 1)}[trial.arm]
        if trial.arm == "sharing" and trial.params["sharing.split_at"] == 1:
            copies = (1, 3)
        if trial.params.get("init.kind") == "earlier":
            assert trial.taken["leaves"] == 4
            assert trial.taken["parameters"] == copies[0] * 40 + copies[1] * 72
        else:
            assert trial.taken is None
    init = result.init
    assert init is not None
    assert (init["model"], init["suite"], init["blocks"]) == ("first", "small", 2)
    assert init["parameters"] == 112
    assert init["trials"] == kinds(result).count("earlier")
    numbers = {arm: winner["trial"] for arm, winner in init["winners"].items()}
    assert numbers == result.test["winners"]
    starts = {winner["start"] for winner in init["winners"].values()}
    for winner in init["winners"].values():
        assert winner["start"] == kinds(result)[winner["trial"]]
    noted = any("the difference is not of sharing alone" in n for n in result.test["notes"])
    assert noted == (len(starts) == 2)
    print_finding(result.to_json(), Home.find(tmp_path))
    assert f"{init['trials']} trials started from model first (2 blocks" in capsys.readouterr().out


def test_judged_and_saved_with_the_same_start_and_on_its_own(tmp_path: Path) -> None:
    path = train(tmp_path)
    text = SPACE.replace("low: 1.0e-3, high: 3.0e-2", "low: 1.0e-12, high: 1.1e-12")
    text = text.replace("choices: [4, 8]", "choices: [8]") + "  init.kind: earlier\n"
    text += "  optimizer.weight_decay: 0.0\n"
    result = run(tmp_path, text=text, init_from="first", n_trials=2)
    assert set(kinds(result)) == {"earlier"}
    earlier = Model.load(path)
    shutil.rmtree(path)
    delete_study(Home.find(tmp_path), "second")
    assert not Home.find(tmp_path).initial("second").exists()
    model = autometa.load_model(result.model)
    # rates of 1e-12 leave everything where it started: also in the final training
    leaf = model.params["blocks.0.weight"]
    expected = earlier.params["blocks.0.weight"].expand_as(leaf)
    torch.testing.assert_close(leaf, expected, rtol=1e-5, atol=1e-6)
    assert len(model.predict(np.zeros((3, 4)))) == 3


def test_the_verdict_says_who_started_from_it() -> None:
    config = TrialConfig.from_flat({"init.kind": "earlier"})
    assert "started from an earlier model" in describe_network(config)
    alone = TrialConfig.from_flat({"sharing.kind": "independent", "init.kind": "earlier"})
    assert describe_network(alone).startswith(
        "independent networks that started from an earlier model"
    )
    assert "earlier" not in describe_network(TrialConfig())


@pytest.mark.parametrize("kinds", [("earlier", "random"), ("earlier", "earlier")])
def test_the_verdict_notes_where_the_arms_start_differently(kinds: tuple[str, str]) -> None:
    winners = {
        arm: [finalist(arm, number, kind)]
        for number, (arm, kind) in enumerate(zip(("sharing", "independent"), kinds, strict=True))
    }
    assert len(_notes(winners, [], 0)) == len(set(kinds)) - 1


def finalist(arm: str, number: int, kind: str) -> Finalist:
    state = PopulationState(torch.zeros(5, 1), {}, {})
    return Finalist(arm, number, TrialConfig.from_flat({"init.kind": kind}), 9, 9, 0.5, {}, state)


class TestResuming:
    @pytest.fixture
    def stopped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A home with a search that was stopped after its first unit, its model gone."""
        train(tmp_path)
        shutil.copytree(tmp_path / "models", tmp_path / "elsewhere")
        from autometa.searching import executors

        original, calls = executors.run_unit, []

        def interrupted(unit: Any) -> Any:
            calls.append(unit)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(unit)

        with monkeypatch.context() as patched:
            patched.setattr(executors, "run_unit", interrupted)
            assert run(tmp_path, init_from="first").interrupted
        shutil.rmtree(tmp_path / "models")
        return tmp_path

    def test_goes_on_from_the_same_parameters(self, stopped: Path, tmp_path: Path) -> None:
        done = run(stopped, resume=True)
        whole = run(tmp_path / "other", init_from=tmp_path / "elsewhere" / "first")
        assert "earlier" in kinds(done)
        assert kinds(done) == kinds(whole)
        assert done.trials["value"].tolist() == whole.trials["value"].tolist()
        assert timeless(done.test) == timeless(whole.test)
        again = run(stopped, resume=True, init_from="auto")  # it keeps what it has
        assert timeless(again.test) == timeless(done.test)

    def test_other_parameters_are_refused(self, stopped: Path) -> None:
        train(stopped, small_suite(seed=8))
        with pytest.raises(StudyError, match="was started with model `first`"):
            run(stopped, resume=True, init_from="first")

    def test_a_changed_file_is_refused(self, stopped: Path) -> None:
        path = Home.find(stopped).initial("second")
        initial = Initial.load(path)
        initial.params["blocks.0.bias"] += 1.0
        initial.save(path)
        with pytest.raises(InfrastructureError, match="SHA-256 should be"):
            run(stopped, resume=True)

    def test_a_lost_file_can_be_given_again(self, stopped: Path) -> None:
        Home.find(stopped).initial("second").unlink()
        with pytest.raises(StudyError, match="add --init-from with model `first`"):
            run(stopped, resume=True)
        done = run(stopped, resume=True, init_from=stopped / "elsewhere" / "first")
        assert done.test is not None

    def test_a_study_that_began_without_stays_without(self, tmp_path: Path) -> None:
        train(tmp_path)
        run(tmp_path, n_trials=2)
        for init_from in ("first", "auto"):
            with pytest.raises(StudyError, match="was started with no earlier model"):
                run(tmp_path, init_from=init_from, resume=True)


class TestAuto:
    def test_nothing_there_yet(self, tmp_path: Path) -> None:
        told: list[str | None] = []
        result = run(
            tmp_path, init_from="auto", n_trials=2, progress=lambda step: told.append(step.message)
        )
        assert "There is no earlier model yet: every run starts at random." in told
        assert result.init is not None
        assert result.init["model"] is None
        plain = run(tmp_path / "plain", n_trials=2)
        assert result.trials["value"].tolist() == plain.trials["value"].tolist()
        assert timeless(result.test) == timeless(plain.test)
        # and so it stays, whatever is there by now
        assert run(tmp_path, init_from="auto", n_trials=4, resume=True).init["model"] is None

    def test_the_nearest_that_fits(self, tmp_path: Path) -> None:
        options = {"text": SPACE.replace("choices: [4, 8]", "choices: [8]"), "n_trials": 2}
        options["independent_share"] = 0.0  # the model shares
        run(tmp_path, named("a", seed=3, rows=95), study_name="near", **options)
        run(tmp_path, named("b", seed=4, rows=3000), study_name="far", **options)
        run(tmp_path, small_suite(seed=2), study_name="same-name", **options)
        x = np.random.default_rng(0).normal(size=(90, 3))
        run(tmp_path, TaskSuite.from_arrays(x[:, :1], x[:, 1:]), study_name="other", **options)
        told: list[str | None] = []
        result = run(
            tmp_path, init_from="auto", n_trials=2, progress=lambda step: told.append(step.message)
        )
        assert result.init is not None
        assert (result.init["model"], result.init["asked"]) == ("near", "auto")
        assert result.init["fit"] == 2
        assert result.init["distance"] is not None
        assert any("the nearest of 2 that fit" in text for text in told if text)

    def test_the_newest_where_the_suite_cannot_be_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"text": SPACE.replace("choices: [4, 8]", "choices: [8]"), "n_trials": 2}
        options["independent_share"] = 0.0
        for k, name in enumerate(("older", "newer")):
            run(tmp_path, named(name, seed=3 + k, rows=95), study_name=name, **options)

        def fails(suite: object) -> None:
            raise ValueError("odd rows")

        monkeypatch.setattr(probes, "measure", fails)
        told: list[str | None] = []
        result = run(
            tmp_path, init_from="auto", n_trials=2, progress=lambda step: told.append(step.message)
        )
        assert result.init is not None
        assert (result.init["model"], result.init["distance"]) == ("newer", None)
        assert any("odd rows), so the newest" in text for text in told if text)

    def test_says_why_none_fits(self, tmp_path: Path) -> None:
        run(tmp_path, n_trials=2, study_name="same", independent_share=0.0)
        run(tmp_path, named("b", seed=2), n_trials=2, study_name="alone", independent_share=1.0)
        told: list[str | None] = []
        result = run(
            tmp_path, init_from="auto", n_trials=2, progress=lambda step: told.append(step.message)
        )
        assert result.init["model"] is None
        (text,) = [text for text in told if text and "No earlier model fits" in text]
        assert "`same`: its suite has the same name" in text
        assert "`alone`: its tasks have no block in common" in text


def test_a_meta_learned_initialisation_starts_a_search_in_episodes(tmp_path: Path) -> None:
    path = autometa.train(
        waves(seed=5),
        {**NETWORK, "adaptation.kind": "gradient", "sharing.split_at": 0},
        max_epochs=1,
        episodic=True,
        shots=5,
        home=tmp_path,
        device="cpu",
    ).model
    result = run(
        tmp_path,
        waves(),
        text=EPISODES + "  init.kind: earlier\n",
        init_from=path,
        episodic=True,
        shots=5,
        n_trials=4,
    )
    assert set(kinds(result)) <= {"random", "earlier"}
    assert result.init is not None
    assert result.init["blocks"] == 2


@pytest.mark.timeout(300)
def test_workers_on_ray_start_from_it_too(tmp_path: Path) -> None:
    train(tmp_path)
    text = SPACE.replace("choices: [4, 8]", "choices: [8]") + "  init.kind: earlier\n"
    here = run(tmp_path, text=text, init_from="first", n_trials=4)
    there = run(tmp_path, text=text, init_from="first", n_trials=4, workers=1, study_name="ray")
    assert there.trials["value"].tolist() == here.trials["value"].tolist()


def test_mlflow_knows_which_model(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    train(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = run(tmp_path, init_from="first", n_trials=4, mlflow_tracking_uri=uri)
    client = MlflowClient(uri)
    assert result.mlflow is not None
    parent = client.get_run(str(result.mlflow["run_id"]))
    study = read_study(Home.find(tmp_path), "second")
    assert parent.data.params["init.model"] == "first"
    assert parent.data.params["init.sha256"] == study.user_attrs["init"]["sha256"]
    query = f"tags.`mlflow.parentRunId` = '{result.mlflow['run_id']}'"
    runs = client.search_runs([parent.info.experiment_id], query)
    tagged = {int(r.data.tags["trial_number"]) for r in runs if "taken" in r.data.tags}
    assert tagged == {t.number for t in study.trials if "taken" in t.user_attrs}
    assert tagged


class TestCommandLine:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.normal(size=(90, 4)), columns=["a", "b", "c", "d"])
        path = tmp_path / "new.csv"
        frame.assign(up=frame["a"] - frame["b"], down=frame["b"]).to_csv(path, index=False)
        old = tmp_path / "old.csv"
        pd.read_csv(path).sample(frac=0.9, random_state=1)[
            ["d", "c", "b", "a", "up", "down"]
        ].to_csv(old, index=False)
        return path

    def call(self, home: Path, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--home", str(home), "--targets", "up,down"])

    def test_train_and_search(self, tmp_path: Path, table: Path) -> None:
        small = ["--set", "backbone.width=32", "--max-epochs", "2"]
        old = str(tmp_path / "old.csv")
        assert self.call(tmp_path, "train", old, *small).exit_code == 0
        again = self.call(tmp_path, "train", str(table), *small, "--init-from", "old-train-1")
        assert again.exit_code == 0, again.stderr
        config = Model.load(tmp_path / "models" / "new-train-1").config
        assert config.init.kind == "earlier"
        words = ["--n-trials", "6", "--max-epochs", "2", "--workers", "0", "--sampler", "random"]
        words += ["--mlflow-tracking-uri", "off", "--no-diagnosis", "--space", "hard"]
        found = self.call(tmp_path, "search", str(table), *words, "--init-from", "old-train-1")
        assert found.exit_code == 0, found.stderr
        assert "Runs may start from model `old-train-1` of suite `old`." in found.stderr
        assert "trials started from model old-train-1 (3 blocks, " in found.stdout
        # columns in another order: the first layer was put in order
        first = Initial.load(Home.find(tmp_path).initial("new-1")).params["blocks.0.weight"]
        earlier = Model.load(tmp_path / "models" / "old-train-1").member(0)[0]["blocks.0.weight"]
        assert torch.equal(first, earlier.flip(1))

    def test_mistakes_are_one_sentence(self, tmp_path: Path, table: Path) -> None:
        for command in ("search", "train"):
            result = self.call(tmp_path, command, str(table), "--init-from", "nothing")
            assert result.exit_code == 2
            told = " ".join(result.stderr.split())
            assert "`--init-from`) should be a model's folder or its name in" in told
