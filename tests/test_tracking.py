"""Tracking: records, the queue on disk, and real MLflow on SQLite and over HTTP."""

from __future__ import annotations

import hashlib
import http.server
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autometa.errors import ConfigError, InfrastructureError, UserError
from autometa.home import Home
from autometa.tracking import (
    NullTracker,
    Tracker,
    UiServer,
    default_uri,
    delete_runs,
    start_ui,
    task_key,
    tracking_place,
)
from autometa.tracking.outbox import Outbox, Writer
from autometa.tracking.places import Place
from autometa.tracking.records import (
    MAX_PARAM,
    clean_metrics,
    clean_values,
    merge,
    record,
    safe_name,
)
from autometa.tracking.runs import quiet

# MLflow's own; the tests call it too, outside of the tracker.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

SUITE = {"name": "s", "fingerprint": "0123456789abcdef" * 4}
PARAMS = {"sharing.kind": "hard", "optimizer.lr": 0.01, "backbone.depth": 3}


# --- records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["value", "score/left", "a b", "A.b-c_d", "größe", "東京"])
def test_names_that_mlflow_takes_stay(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["target_LBL+ALLminpA+fut_001", "a:b", "☃", "", "/a", "a//b", "../a", ".", "x" * 300, "a\nb"],
)
def test_other_names_are_mapped_to_ones_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

    safe = safe_name(name)
    _validate_metric_name(safe)
    assert len(safe) <= MAX_ENTITY_KEY_LENGTH
    assert safe_name(name) == safe
    assert safe_name(safe) == safe


def test_two_names_never_become_one() -> None:
    names = ["a+b", "a*b", "a_b", "a+b ", "x" * 300, "x" * 301]
    assert len({safe_name(n) for n in names}) == len(names)


def test_values_become_plain_json() -> None:
    metrics = clean_metrics(
        {"a": 1, "b": math.nan, "c": -math.inf, "d": None, "e": "no", "f": True}
    )
    assert metrics == {"a": 1.0, "b": "nan", "c": "-inf", "f": 1.0}
    values = clean_values({"a": None, "b": [1, 2], "c": "x" * 9000}, MAX_PARAM)
    assert values["b"] == "[1, 2]"
    assert len(values["c"]) == MAX_PARAM
    assert "a" not in values


def test_merge_folds_records_into_one_update_a_run() -> None:
    records = [
        {"kind": "trial_started", "time": 5, "number": 1, "params": {"p": "1"}, "tags": {}},
        {"kind": "search_started", "time": 6, "params": {}, "tags": {}, "texts": {}},
        {"kind": "trial_rung", "time": 7, "number": 1, "step": 3, "metrics": {"m": 0.5}},
        {"kind": "trial_rung", "time": 8, "number": 1, "step": 3, "metrics": {"m": "nan"}},
        {"kind": "trial_finished", "time": 9, "number": 1, "state": "PRUNED", "step": 3}
        | {"metrics": {"value": 0.5}, "tags": {"pruned": "true"}},
    ]
    parent, trial = merge(records)
    assert (parent.number, parent.status, parent.ends) == (None, "RUNNING", False)
    assert (trial.number, trial.status, trial.end_time, trial.time) == (1, "FINISHED", 9, 5)
    assert math.isnan(trial.metrics["m", 3][0])
    assert trial.metrics["value", 3] == (0.5, 9)
    assert len(trial.records) == 4


# --- the outbox and its thread ----------------------------------------------------------------


class FakeServer:
    """A sender whose server can be down or hang."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.down = False
        self.gate = threading.Event()
        self.gate.set()

    def connect(self) -> None:
        if self.down:
            raise ConnectionError("down")

    def send(self, records: list[dict[str, Any]]) -> list[tuple[list[dict[str, Any]], str]]:
        self.gate.wait(30)
        self.connect()
        self.got += [r["number"] for r in records]
        return [([r], "odd") for r in records if r.get("odd")]


def waiting(path: Path) -> list[dict[str, Any]]:
    box = Outbox(path)
    box.close()
    return box.records


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"kind": "x", "time": 1, "number": number, **more}


def make_writer(tmp_path: Path, server: FakeServer) -> Writer:
    box = Outbox.for_study(tmp_path / "outbox", "s", {"outbox": 1, "study": "s", "server": "a"})
    writer = Writer(box, server, linger=0.01)
    writer.start()
    return writer


def until(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def test_writer_sends_in_order_and_leaves_no_file(tmp_path: Path) -> None:
    server = FakeServer()
    writer = make_writer(tmp_path, server)
    for n in range(1200):
        writer.put(item(n))
    assert writer.close()
    assert server.got == list(range(1200))
    assert list((tmp_path / "outbox").iterdir()) == []


def test_writer_goes_on_when_the_server_is_back(tmp_path: Path) -> None:
    server = FakeServer()
    writer = make_writer(tmp_path, server)
    server.down = True
    for n in range(3):
        writer.put(item(n))
    assert until(lambda: writer.problem == "down")
    server.down = False
    writer.put(item(3))
    assert until(lambda: not writer.queued)
    assert until(lambda: writer.problem is None)
    writer.close()
    assert server.got == [0, 1, 2, 3]


def test_what_was_not_sent_is_sent_by_the_next_writer(tmp_path: Path) -> None:
    server = FakeServer()
    server.down = True
    writer = make_writer(tmp_path, server)
    for n in range(3):
        writer.put(item(n))
    assert not writer.close()
    with (tmp_path / "outbox" / "s.jsonl").open("a") as file:
        file.write('{"kind": "torn')
    server.down = False
    writer = make_writer(tmp_path, server)
    writer.put(item(3))
    assert writer.close()
    assert server.got == [0, 1, 2, 3]


def test_closing_is_bounded_when_the_server_hangs_and_nothing_is_lost(tmp_path: Path) -> None:
    server = FakeServer()
    server.gate.clear()
    writer = make_writer(tmp_path, server)
    writer.put(item(0))
    begin = time.monotonic()
    assert not writer.close(timeout=0.2)
    assert time.monotonic() - begin < 2
    assert [r["number"] for r in waiting(tmp_path / "outbox" / "s.jsonl")] == [0]
    server.gate.set()


def test_a_refused_record_is_kept_apart_and_holds_up_nothing(tmp_path: Path) -> None:
    server = FakeServer()
    writer = make_writer(tmp_path, server)
    for n in range(3):
        writer.put(item(n, odd=n == 1))
    assert writer.close()
    lines = (tmp_path / "outbox" / "s.refused.jsonl").read_text().splitlines()
    assert [(json.loads(line)["number"], json.loads(line)["refused"]) for line in lines] == [
        (1, "odd")
    ]


def test_outbox_strikes_off_what_was_sent(tmp_path: Path) -> None:
    head = {"outbox": 1, "server": "a"}
    box = Outbox(tmp_path / "s.jsonl", head)
    for n in range(4):
        box.append(item(n))
    box.sent(2, left=2)
    box.append(item(4))
    box.close()
    again = Outbox(tmp_path / "s.jsonl")
    assert [r["number"] for r in again.records] == [2, 3, 4]
    assert again.head == head
    again.close()


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_a_second_outbox_of_a_study_takes_a_file_of_its_own(tmp_path: Path) -> None:
    first = Outbox.for_study(tmp_path, "s", {"outbox": 1})
    second = Outbox.for_study(tmp_path, "s", {"outbox": 1})
    assert first.path != second.path
    first.close()
    second.close()


def test_a_disk_that_refuses_writes_does_not_stop_the_records(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file where a folder should be")
    server = FakeServer()
    writer = make_writer(tmp_path, server)
    writer.put(item(0))
    assert writer.close()
    assert server.got == [0]


# --- MLflow on SQLite -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database with all migrations run, which takes seconds; tests copy it."""
    ready = Home(tmp_path_factory.mktemp("template"))
    with quiet():
        client(ready).get_experiment_by_name("autometa")
    return ready.mlflow_db


@pytest.fixture
def ready(tmp_path: Path, empty_database: Path) -> Home:
    found = Home(tmp_path / "a home")
    found.root.mkdir()
    shutil.copy(empty_database, found.mlflow_db)
    return found


def client(ready: Home) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(default_uri(ready))


def runs(ready: Home, role: str, study: str = "study") -> list[Any]:
    api = client(ready)
    experiment = api.get_experiment_by_name("autometa")
    query = f"tags.study_name = '{study}' and tags.`autometa.role` = '{role}'"
    found = api.search_runs([experiment.experiment_id], query)
    return sorted(found, key=lambda run: int(run.data.tags.get("trial_number", -1)))


def start(tracker: Tracker, **params: Any) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": ["x", "y"]})
    tracker.search_started(
        {"n_trials": 4} | params, {"suite": "s"}, SUITE, "parameters: {}", frame, "table"
    )


def run_trial(tracker: Tracker, number: int, state: Any = "COMPLETE") -> None:
    tracker.trial_started(number, PARAMS, {"arm": "sharing"})
    for epoch in (3, 9, 27):
        tracker.trial_rung(number, epoch, {"value": epoch / 100, "score/left": epoch / 50})
    failed = state == "FAIL"
    reason = "diverged" if failed else None
    tracker.trial_finished(number, state, None if failed else 0.27, reason, 27)


def test_a_search_becomes_one_run_with_one_child_a_trial(
    ready: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    report.write_text("<html>")
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    with Tracker.open(None, ready, "study") as tracker:
        start(tracker)
        for number, state in enumerate(["COMPLETE", "PRUNED", "FAIL"]):
            run_trial(tracker, number, state)
        tracker.search_finished(
            {"best": 0.27}, {"verdict": "share"}, [report, folder, tmp_path / "gone"], "FINISHED"
        )
        assert tracker.run_id is not None
        assert tracker.tracking_uri == default_uri(ready)
    assert tracker.problem is None
    assert tracker.queued == 0

    (parent,) = runs(ready, "search")
    assert parent.info.run_id == tracker.run_id
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "study"
    assert parent.data.params == {"n_trials": "4"}
    assert parent.data.metrics == {"best": 0.27}
    assert parent.data.tags["verdict"] == "share"
    (data,) = parent.inputs.dataset_inputs
    assert data.dataset.name == "table"
    assert data.dataset.digest == SUITE["fingerprint"][:36]
    assert json.loads(data.dataset.profile)["num_rows"] == 2
    api = client(ready)
    names = {f.path for f in api.list_artifacts(parent.info.run_id)}
    assert names == {"suite.json", "space.yaml", "report.html", "plots"}
    assert (ready.artifacts / parent.info.run_id / "artifacts" / "plots" / "a.txt").exists()

    complete, pruned, failed = runs(ready, "trial")
    assert complete.data.params == {k: str(v) for k, v in PARAMS.items()}
    assert complete.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert complete.data.tags["trial_number"] == "0"
    assert complete.data.tags["arm"] == "sharing"
    assert [r.info.status for r in (complete, pruned, failed)] == ["FINISHED", "FINISHED", "FAILED"]
    assert "pruned" not in complete.data.tags
    assert pruned.data.tags["pruned"] == "true"
    assert failed.data.tags["reason"] == "diverged"
    history = api.get_metric_history(complete.info.run_id, "score/left")
    assert sorted((m.step, m.value) for m in history) == [(3, 0.06), (9, 0.18), (27, 0.54)]
    assert capfd.readouterr() == ("", "")


def test_a_resumed_search_goes_on_in_the_same_runs(ready: Home) -> None:
    with Tracker.open(None, ready, "study") as tracker:
        start(tracker)
        run_trial(tracker, 0)
        tracker.trial_started(1, PARAMS, {"arm": "sharing"})
        tracker.trial_rung(1, 3, {"value": 0.1})
        tracker.search_finished({}, {}, [], "KILLED")
        first = tracker.run_id
    assert [r.info.status for r in runs(ready, "trial")] == ["FINISHED", "KILLED"]
    with Tracker.open(None, ready, "study", linger=0.01) as tracker:
        start(tracker, n_trials=8)
        assert tracker.run_id == first
        tracker.trial_rung(1, 9, {"value": 0.2})
        assert tracker.flush()
        assert runs(ready, "trial")[1].info.status == "RUNNING"
        assert runs(ready, "search")[0].info.status == "RUNNING"
        run_trial(tracker, 1)
        run_trial(tracker, 1)
        run_trial(tracker, 2)
        tracker.search_finished({}, {}, [], "FINISHED")
    (parent,) = runs(ready, "search")
    assert parent.data.params["n_trials"] == "4"
    assert parent.data.tags["resumed.n_trials"] == "8"
    assert len(parent.inputs.dataset_inputs) == 1
    assert [r.data.tags["trial_number"] for r in runs(ready, "trial")] == ["0", "1", "2"]
    assert {r.info.status for r in runs(ready, "trial")} == {"FINISHED"}


def test_a_trial_that_is_only_told_after_a_resume_has_its_value_at_its_last_step(
    ready: Home,
) -> None:
    with Tracker.open(None, ready, "study") as tracker:
        tracker.trial_started(0, PARAMS, {})
        tracker.trial_rung(0, 27, {"value": 0.5})
    with Tracker.open(None, ready, "study") as tracker:
        tracker.trial_finished(0, "COMPLETE", 0.5, None, 27)
    (trial,) = runs(ready, "trial")
    history = client(ready).get_metric_history(trial.info.run_id, "value")
    assert {m.step for m in history} == {27}


def test_an_experiment_that_another_search_makes_meanwhile_is_taken(
    ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    theirs: list[str] = []
    make = MlflowClient.create_experiment

    def create(api: MlflowClient, name: str, **options: Any) -> str:
        theirs.append(make(api, name, **options))
        return make(api, name, **options)

    monkeypatch.setattr(MlflowClient, "create_experiment", create)
    with Tracker.open(None, ready, "study") as tracker:
        run_trial(tracker, 0)
    assert tracker.problem is None
    assert [r.info.experiment_id for r in runs(ready, "trial")] == theirs


def test_a_search_shorter_than_its_connection_sends_what_waits(ready: Home) -> None:
    server = hashlib.sha256(default_uri(ready).encode()).hexdigest()[:16]
    ready.outbox.mkdir()
    for name in ("other", "study.123"):  # the second of two trackers of the study has such a name
        study = name.split(".")[0]
        head = {"outbox": 1, "study": study, "study_id": None, "server": server}
        box = Outbox(ready.outbox / f"{name}.jsonl", head)
        box.append(record("trial_started", number=0, params={}, tags={}))
        box.close()
    with Tracker.open(None, ready, "study") as tracker:
        tracker.trial_started(0, PARAMS, {})
    assert tracker.problem is None
    assert len(runs(ready, "trial")) == 1
    assert len(runs(ready, "trial", "other")) == 1
    assert list(ready.outbox.iterdir()) == []


def test_studies_of_one_name_are_told_apart_by_their_id(ready: Home) -> None:
    found = []
    for study_id in ("one", "two", "one"):
        with Tracker.open(None, ready, "study", study_id=study_id) as tracker:
            run_trial(tracker, 0)
            found.append(tracker.run_id)
    assert found[0] == found[2] != found[1]
    assert len(runs(ready, "trial")) == 2


def test_odd_names_long_values_and_nan_break_nothing(ready: Home) -> None:
    task = "target_LBL+ALLminpA+fut_001"
    with Tracker.open(None, ready, "study") as tracker:
        tracker.trial_started(0, {"long": "x" * 9000, "odd*": 1}, {"t": "y" * 9000, "größe": 1})
        tracker.trial_rung(0, 1, {f"score/{task}": 0.5, "nan": math.nan, "inf": math.inf})
        tracker.trial_rung(0, 2, {f"task/{n}": float(n) for n in range(1500)})
        tracker.trial_finished(0, "COMPLETE", math.nan, None)
    assert tracker.problem is None
    (trial,) = runs(ready, "trial")
    assert len(trial.data.params["long"]) == MAX_PARAM
    assert trial.data.metrics[safe_name(f"score/{task}")] == 0.5
    assert math.isnan(trial.data.metrics["nan"])
    assert math.isnan(trial.data.metrics["value"])
    assert trial.data.metrics["inf"] > 1e300
    assert trial.data.metrics["task/1499"] == 1499.0
    assert trial.info.status == "FINISHED"


def test_records_wait_while_the_database_cannot_be_used(ready: Home) -> None:
    aside = ready.mlflow_db.rename(ready.root / "aside.db")
    ready.mlflow_db.mkdir()
    with Tracker.open(None, ready, "study") as tracker:
        start(tracker)
        run_trial(tracker, 0)
        assert tracker.run_id is None
        assert "unable to open database file" in str(tracker.problem)
    text = (ready.outbox / "study.jsonl").read_text()
    kinds = [json.loads(line).get("kind") for line in text.splitlines()]
    assert kinds == [None, "search_started", "trial_started", *["trial_rung"] * 3, "trial_finished"]
    ready.mlflow_db.rmdir()
    aside.rename(ready.mlflow_db)
    # The next search here, of whatever study, sends what waits for this database.
    with Tracker.open(None, ready, "other") as tracker:
        assert until(lambda: not (ready.outbox / "study.jsonl").exists())
    assert len(runs(ready, "search")) == 1
    (trial,) = runs(ready, "trial")
    assert trial.info.status == "FINISHED"
    assert trial.data.metrics["value"] == 0.27


def test_a_lost_answer_makes_no_second_run(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    create, lost = MlflowClient.create_run, iter([True, False, True])

    def create_and_lose_the_answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = create(self, *args, **kwargs)
        if next(lost, False):
            raise ConnectionError("the answer was lost")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_and_lose_the_answer)
    monkeypatch.setattr("autometa.tracking.outbox.FIRST_RETRY", 0.01)
    with Tracker.open(None, ready, "study", linger=0.01) as tracker:
        run_trial(tracker, 0)
        assert until(lambda: not tracker.queued)
        run_trial(tracker, 1)
        assert until(lambda: not tracker.queued)
    assert len(runs(ready, "search")) == 1
    assert len(runs(ready, "trial")) == 2


def test_a_run_deleted_meanwhile_holds_up_nothing(ready: Home) -> None:
    with Tracker.open(None, ready, "study", linger=0.01) as tracker:
        run_trial(tracker, 0)
        tracker.trial_started(1, PARAMS, {})
        assert tracker.flush()
        for run in [*runs(ready, "search"), runs(ready, "trial")[1]]:
            client(ready).delete_run(run.info.run_id)
        tracker.trial_rung(1, 3, {"value": 0.1})
        run_trial(tracker, 2)
        tracker.search_finished({"best": 1.0}, {}, [], "FINISHED")
        assert tracker.close()
    assert [r.data.tags["trial_number"] for r in runs(ready, "trial")] == ["0", "2"]
    assert "active" in str(tracker.problem)
    assert (ready.outbox / "study.refused.jsonl").exists()


def test_a_finished_trial_costs_three_calls(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    calls: list[str] = []
    for name in ("create_run", "log_batch", "set_terminated", "update_run", "search_runs"):
        original = getattr(MlflowClient, name)

        def counted(*args: Any, _name: str = name, _do: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _do(*args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, counted)
    with Tracker.open(None, ready, "study") as tracker:
        start(tracker)
        tracker.flush()
        calls.clear()
        for number in range(5):
            run_trial(tracker, number)
    assert sorted(calls) == ["create_run"] * 5 + ["log_batch"] * 5 + ["set_terminated"] * 5


def test_delete_runs_makes_room_for_a_new_study(ready: Home) -> None:
    with Tracker.open(None, ready, "study") as tracker:
        start(tracker)
        run_trial(tracker, 0)
    assert delete_runs(None, ready, "study") == 2
    assert runs(ready, "search") == []
    with Tracker.open(None, ready, "study") as again:
        run_trial(again, 0)
        assert again.run_id != tracker.run_id
    assert delete_runs(None, Home(ready.root / "new"), "study") == 0
    assert not (ready.root / "new").exists()


def test_experiment_name_is_mlflows_own_variable(
    ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with Tracker.open(default_uri(ready), ready, "study") as tracker:
        run_trial(tracker, 0)
    assert client(ready).get_experiment_by_name("mine") is not None


# --- what cannot be opened --------------------------------------------------------------------


def test_off_does_nothing(tmp_path: Path) -> None:
    with Tracker.open("off", Home(tmp_path / "home"), "study") as tracker:
        assert isinstance(tracker, NullTracker)
        start(tracker)
        run_trial(tracker, 0)
        tracker.search_finished({}, {}, [], "FINISHED")
        assert tracker.run_id is None
        assert tracker.tracking_uri is None
        assert tracker.flush()
    assert not (tmp_path / "home").exists()


def test_an_unreachable_server_is_an_error_at_open(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(InfrastructureError, match="cannot be used") as caught:
        Tracker.open("http://me:secret@127.0.0.1:9", Home(tmp_path), "study")
    assert time.monotonic() - begin < 20
    assert "secret" not in str(caught.value)
    assert "http://me:***@127.0.0.1:9" in str(caught.value)
    with pytest.raises(InfrastructureError, match="not deleted"):
        delete_runs("http://127.0.0.1:9", Home(tmp_path), "study")


class TestPlace:
    """The flag goes before the variable, and that before the home folder."""

    def test_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home, mine = Home(tmp_path), f"sqlite:///{tmp_path}/mine.db"
        assert tracking_place(None, home) == Place(default_uri(home), None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        assert tracking_place(None, home) == Place(default_uri(home), None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mine)
        assert tracking_place(None, home) == Place(mine, "$MLFLOW_TRACKING_URI")
        assert tracking_place(None, home).is_of_environment
        assert tracking_place("http://other", home).uri == "http://other"
        assert not tracking_place("http://other", home).is_of_environment
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
        assert isinstance(Tracker.open(None, home, "study"), NullTracker)

    def test_runs_are_written_where_the_variable_says_and_deleted_there(
        self, ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = Home(tmp_path / "other")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(ready))
        with Tracker.open(None, other, "study") as tracker:
            start(tracker)
            assert tracker.run_id is not None
        assert len(runs(ready, "search")) == 1
        assert not other.mlflow_db.exists()
        assert delete_runs(None, other, "study") == 1
        assert runs(ready, "search") == []

    def test_a_variable_that_cannot_be_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
        with pytest.raises(ConfigError, match=r"It is from \$MLFLOW_TRACKING_URI"):
            Tracker.open(None, Home(tmp_path), "study")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(InfrastructureError, match=r"or correct \$MLFLOW_TRACKING_URI"):
            Tracker.open(None, Home(tmp_path), "study")


def test_the_key_of_a_task_is_the_same_behind_everything() -> None:
    for name in ("a", "a b", ".", "pH (water)", "x" * 300, "ü/β", ""):
        key = task_key(name)
        for before in ("task", "test/sharing/task"):
            assert safe_name(f"{before}/{key}") == f"{before}/{key}"
    assert task_key("pH") == "pH"
    assert len({task_key(name) for name in (".", "..", "_", "")}) == 4


@pytest.mark.parametrize("uri", ["htp://x", "./mlruns", "file:///tmp/mlruns", "sqlite://"])
def test_a_uri_mlflow_cannot_write_to_is_a_users_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="mlflow_tracking_uri"):
        Tracker.open(uri, Home(tmp_path), "study")


def test_a_web_server_that_is_not_mlflow_is_an_error_at_open(tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(InfrastructureError, match="answers 404, not as an MLflow server"):
            Tracker.open(f"http://127.0.0.1:{other.server_port}", Home(tmp_path), "study")
        other.shutdown()


def test_a_bad_study_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study_name"):
        Tracker.open(None, Home(tmp_path), "../x")


# --- processes and servers --------------------------------------------------------------------

FIRST = """
import sys
from pathlib import Path
from autometa.home import Home
from autometa.tracking import Tracker
home = Home(Path(sys.argv[1]))
with Tracker.open(sys.argv[2] or None, home, f"study-{sys.argv[3]}") as tracker:
    tracker.trial_started(0, {"a": 1}, {})
    print(tracker.run_id, tracker.problem)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("named", [False, True])
def test_two_first_searches_at_once_both_write_their_runs(tmp_path: Path, named: bool) -> None:
    home = Home(tmp_path / "home")
    uri = f"sqlite:///{tmp_path / 'shared' / 'runs.db'}" if named else ""
    commands = [[sys.executable, "-c", FIRST, str(home.root), uri, n] for n in "12"]
    both = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    answers = [process.communicate(timeout=200) for process in both]
    assert [errors for _, errors in answers] == ["", ""]
    assert all(out.split()[1:] == ["None"] and len(out.split()[0]) == 32 for out, _ in answers)
    assert list(home.outbox.iterdir()) == []


SCRIPT = """
import os, signal, sys
from pathlib import Path
from autometa.home import Home
from autometa.tracking import Tracker
tracker = Tracker.open(None, Home(Path(sys.argv[1])), "study")
for n in range(20):
    tracker.trial_started(n, {"a": 1}, {})
    tracker.trial_finished(n, "COMPLETE", 0.5, None)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
raise KeyboardInterrupt
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_and_kill_lose_no_record(ready: Home) -> None:
    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, str(ready.root), how]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert run("kill").returncode == -signal.SIGKILL
    assert len(waiting(ready.outbox / "study.jsonl")) == 40
    stopped = run("interrupt")
    assert stopped.stderr.strip().endswith("KeyboardInterrupt")
    assert stopped.stdout == ""
    assert "mlflow" not in stopped.stderr
    assert len(runs(ready, "search")) == 1
    assert len(runs(ready, "trial")) == 20
    assert not (ready.outbox / "study.jsonl").exists()


@pytest.fixture
def server(ready: Home) -> Iterator[UiServer]:
    with start_ui(ready, port=0) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_ui_answers_on_loopback_only(server: UiServer, ready: Home) -> None:
    port = int(server.url.rpartition(":")[2])

    def status(url: str, host: str | None = None) -> int:
        request = urllib.request.Request(url, headers={"Host": host} if host else {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            code = exc.code
            exc.close()
            return code

    assert status(f"http://127.0.0.1:{port}/") == 200
    assert status(f"http://localhost:{port}/") == 200
    assert status(f"http://127.0.0.1:{port}/", host="evil.example") == 403
    with pytest.raises(ConfigError, match=f"port = {port}"):
        start_ui(ready, port=port)
    server.stop()
    assert server.process.poll() is not None
    with pytest.raises(urllib.error.URLError):
        status(f"http://127.0.0.1:{port}/")


def test_the_ui_is_never_shown_to_other_machines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="host"):
        start_ui(Home(tmp_path), host="0.0.0.0")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_dies_and_comes_back_gets_everything(
    ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr("autometa.tracking.outbox.LAST_RETRY", 1.0)
    ours = Home(tmp_path / "ours")
    first = start_ui(ready, port=0)
    port = int(first.url.rpartition(":")[2])
    with Tracker.open(first.url, ours, "study", linger=0.05) as tracker:
        start(tracker)
        run_trial(tracker, 0)
        assert tracker.flush()
        assert len(runs(ready, "trial")) == 1
        first.stop()
        begin = time.monotonic()
        run_trial(tracker, 1)
        run_trial(tracker, 2, "PRUNED")
        assert time.monotonic() - begin < 0.5
        assert until(lambda: tracker.problem, 30)
        waiting = (ours.outbox / "study.jsonl").read_text()
        assert waiting.count("trial_finished") == 2
        with start_ui(ready, port=port):
            assert until(lambda: not tracker.queued, 30)
            assert tracker.problem is None
            run_trial(tracker, 3)
            tracker.search_finished({"best": 0.27}, {}, [], "FINISHED")
            assert tracker.close()
    assert [r.data.tags["trial_number"] for r in runs(ready, "trial")] == ["0", "1", "2", "3"]
    assert {r.info.status for r in runs(ready, "trial")} == {"FINISHED"}
    (parent,) = runs(ready, "search")
    names = {f.path for f in client(ready).list_artifacts(parent.info.run_id)}
    assert names == {"suite.json", "space.yaml"}
    assert list(ours.outbox.iterdir()) == []
    assert capfd.readouterr() == ("", "")
