"""What a search leaves for later ones, and what it learns from earlier ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler

from autometa.api import SearchResult
from autometa.api import priors as api_priors
from autometa.api.logged import log_end, log_start
from autometa.cli import app
from autometa.errors import StudyError, UserError
from autometa.home import Home
from autometa.priors import shelf
from autometa.priors.records import Record, record_of
from autometa.searching import executors
from autometa.searching.settings import SearchSettings
from autometa.space import Space
from autometa.study import open_study, read_study
from tests.searching.support import SPACE, run, small_suite
from tests.test_api_episodes import run as run_episodes

pytestmark = pytest.mark.usefixtures("short_judgement")

PROBES = {"rows": 1.7, "tasks": 0.5, "features": 0.6}
Score = Callable[[Mapping[str, Any]], float]


def near(params: Mapping[str, Any]) -> float:
    """Best at a rate of 0.01 without dropout."""
    return -abs(float(np.log10(params["optimizer.lr"])) + 2) - params["backbone.dropout"]


def record(
    name: str, score: Score = near, *, n: int = 24, seed: int = 0, space: str = SPACE, **facts: Any
) -> Record:
    """The record of a finished search, whose scores are made up."""
    bound = Space.from_yaml(space).bind(small_suite())
    study = optuna.create_study(
        study_name=name, direction="maximize", sampler=RandomSampler(seed=seed)
    )
    attrs = {
        "id": f"{seed:032x}",
        "suite": {"name": "made-up", "fingerprint": "f"},
        "settings": {"max_steps": 9},
        "space": space,
    }
    for key, value in attrs.items():
        study.set_user_attr(key, value)
    for number in range(n):
        arm = ("sharing", "independent")[number % 2]
        trial = study.ask()
        trial.set_user_attr("arm", arm)
        bound.suggest(trial, arm)
        study.tell(trial, score({"backbone.dropout": 0.0, **trial.params}))
    found = record_of(study, PROBES)
    return Record(found.facts.model_copy(update=facts), found.trials)


TEACHERS = {name: record(name, seed=seed) for seed, name in enumerate(("first", "second"))}


def shelve(folder: Path, *records: Record) -> None:
    for item in records:
        shelf.keep(Home.find(folder), item)


def search(folder: Path, n_trials: int = 20, **options: Any) -> SearchResult:
    return run(folder, small_suite(), n_trials=n_trials, diagnose=False, **options)


def suggested(result: SearchResult) -> list[dict[str, Any]]:
    return list(result.trials["params"])


def prior(result: SearchResult) -> dict[str, Any]:
    assert result.prior is not None
    return result.prior


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchResult]:
    """A home folder with two earlier searches, and one that learned from them."""
    folder = tmp_path_factory.mktemp("taught")
    shelve(folder, *TEACHERS.values())
    return folder, search(folder)


def test_a_finished_search_leaves_a_record(tmp_path: Path) -> None:
    result = run(tmp_path, small_suite(), n_trials=4)
    home = Home.find(tmp_path)
    (left,) = shelf.records(home, warn=lambda text: None)
    study = read_study(home, result.study)
    assert left.facts.study == result.study
    assert left.facts.probes["tasks"] is not None
    assert left.facts.max_steps == study.user_attrs["settings"]["max_steps"]
    own = [t for t in study.trials if t.params]
    assert [(t.number, t.params, t.state) for t in left.trials] == [
        (t.number, t.params, t.state) for t in own
    ]
    assert {t.user_attrs["arm"] for t in left.trials} == {"sharing", "independent"}
    # more trials: the record is of all of them
    run(tmp_path, small_suite(), n_trials=6, study_name=result.study, resume=True)
    (more,) = shelf.records(home, warn=lambda text: None)
    assert more.name == left.name
    assert len(more.trials) > len(left.trials)
    words = ["delete", result.study, "--yes", "--home", str(tmp_path)]
    assert not app([*words, "--mlflow-tracking-uri", "off"], standalone_mode=False)
    assert shelf.records(home, warn=lambda text: None) == []


def test_a_record_that_cannot_be_made_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise ValueError("odd study")

    monkeypatch.setattr(api_priors, "record_of", fails)
    told: list[str | None] = []
    result = run(tmp_path, small_suite(), n_trials=4, progress=lambda s: told.append(s.message))
    assert result.model is not None
    assert any("No record is left" in text and "odd study" in text for text in told if text)


def test_the_next_search_learns_from_it(taught: tuple[Path, SearchResult]) -> None:
    folder, result = taught
    found = prior(result)
    assert (found["asked"], found["reason"], found["n_portfolio"]) == ("auto", None, 3)
    assert {s["name"] for s in found["sources"]} == {"first-00000000", "second-00000000"}
    for source in found["sources"]:
        assert source["trials"] == {"sharing": 12, "independent": 12}
        assert source["weight"] == {"sharing": 0.5, "independent": 0.5}
        assert source["distance"] > 0
    study = read_study(Home.find(folder), result.study)
    by = [t.system_attrs["transfer:by"] for t in study.trials]
    assert by == list(result.trials["proposed_by"])
    assert by[:6] == ["portfolio"] * 6  # three of each arm
    assert {kind: by.count(kind) for kind in found["proposed"]} == found["proposed"]
    assert found["proposed"]["model"] >= 2
    assert found["verdict"] in ("helped", "neutral", "dropped")
    # the first trial of an arm is good in what the sources have of it
    scores = [t.value for teacher in TEACHERS.values() for t in teacher.of_arm("sharing")]
    assert near(study.trials[0].params) > np.quantile(np.array(scores, float), 0.75)
    assert json.loads(json.dumps(result.to_json()["prior"])) == found


def test_same_home_and_seed_same_search(taught: tuple[Path, SearchResult], tmp_path: Path) -> None:
    shelve(tmp_path, *TEACHERS.values())
    assert suggested(search(tmp_path)) == suggested(taught[1])


def test_without_an_earlier_search_nothing_changes(
    tmp_path: Path, taught: tuple[Path, SearchResult]
) -> None:
    alone, off = search(tmp_path / "alone"), search(tmp_path / "off", prior="off")
    assert suggested(alone) == suggested(off)
    assert suggested(alone) != suggested(taught[1])
    assert prior(alone)["reason"] == "no earlier search to learn from"
    assert prior(off)["reason"] == "switched off"
    for result in (alone, off):
        assert prior(result)["sources"] == []
        assert prior(result)["verdict"] is None
        assert result.trials["proposed_by"].isna().all()
    # a search that is switched off leaves a record all the same
    assert len(shelf.records(Home.find(tmp_path / "off"), print)) == 1


@pytest.mark.parametrize("stopped_at", [1, 4])
def test_resuming_learns_from_the_same_searches(
    taught: tuple[Path, SearchResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_at: int,
) -> None:
    """What is in the home folder by then makes no difference."""
    shelve(tmp_path, *TEACHERS.values())
    original, calls = executors.run_unit, []

    def interrupted(unit: Any) -> Any:
        calls.append(unit)
        if len(calls) == stopped_at:
            raise KeyboardInterrupt
        return original(unit)

    with monkeypatch.context() as patch:
        patch.setattr(executors, "run_unit", interrupted)
        stopped = search(tmp_path)
    assert stopped.interrupted
    assert prior(stopped)["sources"]
    shutil.rmtree(Home.find(tmp_path).priors)
    shelve(tmp_path, record("other", lambda params: -near(params), seed=7))
    done = search(tmp_path, study_name=stopped.study, resume=True)
    assert suggested(done) == suggested(taught[1])
    assert prior(done) == prior(taught[1])
    for piece in read_study(Home.find(tmp_path), done.study).user_attrs.values():
        assert len(json.dumps(piece)) < 65_000


def test_a_resumed_study_keeps_its_prior(taught: tuple[Path, SearchResult]) -> None:
    folder, result = taught
    again = {"study_name": result.study, "resume": True, "n_trials": 22}
    for other in ("off", "first-00000000"):
        with pytest.raises(StudyError, match="started with `prior = auto`; a resumed study must"):
            search(folder, prior=other, **again)


def test_a_study_that_was_started_without_one(tmp_path: Path) -> None:
    begun = search(tmp_path, 4, prior="off")
    shelve(tmp_path, record("first"))
    with pytest.raises(StudyError, match="started with `prior = off`"):
        search(tmp_path, 6, study_name=begun.study, resume=True, prior="first-00000000")
    more = search(tmp_path, 6, study_name=begun.study, resume=True)
    assert prior(more)["sources"] == []
    assert more.trials["proposed_by"].isna().all()


def test_by_name_by_path_and_by_url(tmp_path: Path) -> None:
    shelve(tmp_path, record("first"), record("second", seed=1), record("third", seed=2))
    home = Home.find(tmp_path)
    named = search(tmp_path, 8, prior="second-00000000")
    assert [s["name"] for s in prior(named)["sources"]] == ["second-00000000"]
    shelf.build(home, "two", ["first-00000000", "third-00000000"], print, replace=False)
    built = search(tmp_path, 4, prior="two")
    assert {s["name"] for s in prior(built)["sources"]} == {"first-00000000", "third-00000000"}
    file = shelf.named(home, "two").rename(tmp_path / "elsewhere.prior")
    of_file = search(tmp_path, 4, prior=file)
    assert suggested(of_file) == suggested(built)
    # a search of our own, in its journal
    from_study = search(tmp_path, 4, prior=f"{home.journal(named.study)}#{named.study}")
    (source,) = prior(from_study)["sources"]
    assert source["suite"] == "small"
    assert source["distance"] == 0  # it has the probes of the same suite


def test_a_plain_optuna_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/plain.db"
    study = optuna.create_study(study_name="mine", storage=url, direction="maximize")
    for rate in (0.003, 0.0101, 0.02, 0.001):
        trial = study.ask()
        trial.suggest_float("optimizer.lr", rate, rate * 1.001, log=True)
        trial.suggest_categorical("backbone.width", [8])
        trial.suggest_float("unheard_of", 0, 1)
        study.tell(trial, -abs(rate - 0.01))
    found = search(tmp_path, 4, prior=url)
    (source,) = prior(found)["sources"]
    assert source["trials"] == {"sharing": 4, "independent": 0}
    assert prior(found)["proposed"]["portfolio"] == 1
    first = found.trials.iloc[0]["params"]
    assert first["optimizer.lr"] == pytest.approx(0.0101, rel=0.01)
    assert first["backbone.width"] == 8
    assert "unheard_of" not in first
    # of independent networks it says nothing
    independent = found.trials[found.trials["arm"] == "independent"]
    assert independent["proposed_by"].isna().all()


def test_parameters_that_changed_since(tmp_path: Path) -> None:
    """One is new, one is lost, one has other choices, one another range."""
    old = (
        SPACE.replace("choices: [4, 8]", "choices: [8, 16]")
        .replace("low: 1.0e-3, high: 3.0e-2", "low: 1.0e-4, high: 1.0e-2")
        .replace("backbone.dropout", "optimizer.weight_decay")
    )
    shelve(tmp_path, record("old", space=old), record("older", space=old, seed=1))
    result = search(tmp_path)
    assert prior(result)["proposed"]["model"] >= 1
    params = suggested(result)
    assert {p["backbone.width"] for p in params} <= {4, 8}
    assert all(1e-3 <= p["optimizer.lr"] <= 3e-2 for p in params)
    assert len({p["backbone.dropout"] for p in params}) > 10
    assert not any("optimizer.weight_decay" in p for p in params)


def test_auto_takes_searches_of_the_same_kind(tmp_path: Path) -> None:
    shelve(
        tmp_path,
        record("fine"),
        record("few", n=3, seed=1),
        record("level", lambda params: 0.5, seed=2),
        record("episodes", seed=3, episodic=True),
        record("empty", n=0, seed=4),
    )
    assert [s["name"] for s in prior(search(tmp_path, 4))["sources"]] == ["fine-00000000"]


def test_never_from_itself(home: Path) -> None:
    """A driver that died before its first trial may have left a record of an earlier life."""
    place, suite = Home.find(home), small_suite()
    own = record("s", seed=5)
    shelve(home, own)
    bound = Space.from_yaml(SPACE).bind(suite)
    attrs = {"id": own.facts.id}
    settings = SearchSettings(n_trials=8, max_steps=4)
    with open_study(place, "s", fingerprint="f", attrs=attrs) as handle:
        wanted = api_priors.Wanted("auto")
        assert not api_priors.settle_prior(handle, wanted, place, suite, bound, settings, print)
        assert handle.study.user_attrs["prior"]["reason"] == api_priors.NOTHING


def test_episodes_learn_from_episodes(tmp_path: Path) -> None:
    first = run_episodes(tmp_path, n_trials=8)
    assert prior(first)["sources"] == []
    second = run_episodes(tmp_path, n_trials=8)
    (source,) = prior(second)["sources"]
    assert source["name"].startswith(f"{first.study}-")
    with pytest.raises(UserError, match="should name searches in rows, as this one is"):
        search(tmp_path, 4, prior=source["name"])
    shelve(tmp_path, record("rows"))
    with pytest.raises(UserError, match="should name searches in episodes, as this one is"):
        run_episodes(tmp_path, prior="rows-00000000")


def test_probes_that_fail_never_stop_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("odd suite")

    monkeypatch.setattr(api_priors.probes, "measure", fail)
    shelve(tmp_path, record("first"))
    said: list[str] = []
    result = search(tmp_path, 4, progress=lambda step: said.append(step.message or ""))
    assert result.test is not None
    assert prior(result)["reason"] == "the suite could not be measured"
    told = [text for text in said if "ZeroDivisionError: odd suite" in text]
    assert len(told) == 1, "it is tried once"
    own = [r for r in shelf.records(Home.find(tmp_path), print) if r.facts.study == result.study]
    assert set(own[0].facts.probes.values()) <= {None}
    # sources that were named are learned from, each as much as the others
    named = search(tmp_path, 4, prior="first-00000000")
    assert prior(named)["sources"][0]["distance"] is None
    assert prior(named)["proposed"]["portfolio"] == 2


def test_probes_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, original = [], api_priors.probes.measure

    def counting(suite: Any) -> dict[str, float]:
        measured.append(suite)
        return original(suite)

    monkeypatch.setattr(api_priors.probes, "measure", counting)
    shelve(tmp_path, record("first"))
    search(tmp_path, 4)
    assert len(measured) == 1
    assert all(suite._test is None for suite in measured)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "random"}, "with `sampler = random`"),
        ({"cost": "parameters"}, "with `cost = parameters`"),
        ({"no_task_worse_than": 0.1}, "with `no_task_worse_than = 0.1`"),
    ],
)
def test_where_a_prior_has_no_place(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    shelve(tmp_path, record("first"))
    with pytest.raises(UserError, match=f"`prior` should be `auto` or `off` {words}"):
        search(tmp_path, 4, prior="first-00000000", **options)
    assert not Home.find(tmp_path).studies.exists(), "before any work"
    result = run(tmp_path, small_suite(rows=400), n_trials=4, diagnose=False, **options)
    assert prior(result)["reason"] == f"off {words}"
    assert result.trials["proposed_by"].isna().all()


@pytest.mark.parametrize(
    ("n_trials", "portfolio"), [(1, 1), (8, 1), (20, 3), (32, 4), (40, 6), (64, 8), (500, 8)]
)
def test_size_of_the_portfolio(home: Path, n_trials: int, portfolio: int) -> None:
    settings = SearchSettings(n_trials=n_trials, max_steps=4)
    bound = Space.from_yaml(SPACE).bind(small_suite())
    with open_study(Home.find(home), "s", fingerprint="f", attrs={"id": "x"}) as handle:
        wanted = api_priors.Wanted("auto", (record("first"),))
        found = api_priors.settle_prior(
            handle, wanted, Home.find(home), small_suite(), bound, settings, print
        )
        assert set(found) == {"sharing", "independent"}
        assert handle.study.user_attrs["prior"]["n_portfolio"] == portfolio


def test_what_was_begun_and_not_finished_is_chosen_again(home: Path) -> None:
    """A driver that is killed while it writes the sources leaves pieces without their head."""
    place, suite = Home.find(home), small_suite()
    bound, settings = Space.from_yaml(SPACE).bind(suite), SearchSettings(n_trials=8, max_steps=4)
    with open_study(place, "s", fingerprint="f", attrs={"id": "x"}) as handle:
        handle.set_attr("prior:0", "torn")
        wanted = api_priors.Wanted("auto", (record("first"),))
        assert api_priors.settle_prior(handle, wanted, place, suite, bound, settings, print)


class _Listening:
    """A tracker that remembers what it is told."""

    def search_started(self, params: Any, tags: Any, *rest: Any) -> None:
        self.params, self.tags = params, tags

    def search_finished(self, numbers: Any, tags: Any, files: Any, status: Any, texts: Any) -> None:
        self.numbers, self.end_tags, self.texts = numbers, tags, texts


def test_what_mlflow_is_told(taught: tuple[Path, SearchResult]) -> None:
    suite, found = small_suite(), prior(taught[1])
    assert taught[1].test is not None
    assert taught[1].model is not None
    tracker: Any = _Listening()
    settings = SearchSettings(n_trials=20, max_steps=4)
    log_start(tracker, suite, Space.from_yaml(SPACE), settings, {}, found)
    assert tracker.params["prior"] == "auto"
    assert set(tracker.params["prior.sources"].split(", ")) == {
        "first-00000000",
        "second-00000000",
    }
    log_end(tracker, taught[1].test, taught[1].model, None, found)
    assert tracker.end_tags["prior"] == found["verdict"]
    assert tracker.numbers["prior/portfolio"] == found["proposed"]["portfolio"]
    assert tracker.numbers["prior/best_prior"] == found["best"]["prior"]
    assert json.loads(tracker.texts["prior.json"]) == found
    nothing = {"asked": "auto", "reason": api_priors.NOTHING, "sources": []}
    log_start(tracker, suite, Space.from_yaml(SPACE), settings, {}, nothing)
    assert tracker.params["prior.sources"] == api_priors.NOTHING
    log_end(tracker, taught[1].test, taught[1].model, None, nothing)
    assert "prior.json" not in tracker.texts
