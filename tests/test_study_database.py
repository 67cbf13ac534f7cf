"""Studies in databases: SQLite always, PostgreSQL where it is installed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autometa.errors import InfrastructureError, StudyError
from autometa.home import Home
from autometa.networks import Problem
from autometa.space import Space
from autometa.study import (
    StudyHandle,
    databases,
    delete_study,
    list_studies,
    make_sampler,
    open_study,
    read_study,
    trial_rows,
)
from tests import postgres_cluster

PROBLEM = Problem(
    layout="aligned", feature_shape=(4,), kinds=("regression", "regression"), n_outputs=(1, 1)
)
SPACE = Space.load("hard").bind(PROBLEM)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if reason := postgres_cluster.missing():
        pytest.skip(reason)
    with postgres_cluster.cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/studies.db"
    found: str = request.getfixturevalue("postgres")
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The server is shared by the tests of this file; names are not."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:90]


def opened(home: Home, name: str, url: str, **options: Any) -> StudyHandle:
    given = {"fingerprint": "f", "attrs": {"space": SPACE.text}, "storage": url}
    return open_study(home, name, **{**given, **options})


def step(handle: StudyHandle) -> dict[str, Any]:
    trial = handle.ask("sharing", partial(make_sampler, "tpe", 0))
    values = SPACE.suggest(trial, "sharing")
    handle.commit()
    trial.report(0.1, 1)
    handle.tell(trial, values["backbone.dropout"])
    handle.commit()
    return values


def test_a_study_in_a_database(home: Home, name: str, url: str) -> None:
    with opened(home, name, url) as handle:
        assert (handle.resumed, handle.path) == (False, None)
        suggested = [step(handle) for _ in range(4)]
        running = handle.ask("independent", partial(make_sampler, "tpe", 0))
        half = running.suggest_categorical("backbone.width", [32, 96, 192])
    with pytest.raises(StudyError, match="exists. Add --resume"):
        opened(home, name, url)
    with pytest.raises(StudyError, match="fingerprint"):
        opened(home, name, url, resume=True, fingerprint="g")
    with opened(home, name, url, resume=True) as handle:
        assert handle.resumed
        (revived,) = handle.revive(partial(make_sampler, "tpe", 0))
        assert SPACE.suggest(revived, "independent")["backbone.width"] == half
        handle.tell(revived, state=TrialState.FAIL, reason="NaN")
        seen = read_study(home, name, url)
        rows = trial_rows(seen)
        assert [r["state"] for r in rows] == ["COMPLETE"] * 4 + ["FAIL"]
        assert [r["value"] for r in rows[:4]] == [v["backbone.dropout"] for v in suggested]
        assert rows[4]["params"]["sharing.kind"] == "independent"
        assert rows[4]["reason"] == "NaN"
        assert name in list_studies(home, url)
        with pytest.raises(StudyError, match=rf"in use by process {os.getpid()} on .*Stop it"):
            delete_study(home, name, url)
    assert delete_study(home, name, url) == []
    with pytest.raises(StudyError, match="no study"):
        read_study(home, name, url)
    assert not home.root.exists(), "a database study leaves nothing in the home folder"


def test_suggestions_are_those_of_a_journal(home: Home, name: str, url: str) -> None:
    with (
        opened(home, name, url) as database,
        open_study(home, name, fingerprint="f", attrs={}) as journal,
    ):
        assert [step(database) for _ in range(12)] == [step(journal) for _ in range(12)]


def test_a_live_driver_is_respected_and_a_dead_one_forgotten(
    home: Home, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, ready = os.pipe()
    driver = os.fork()
    if driver == 0:
        try:
            with opened(home, name, url) as handle:
                step(handle)
                os.write(ready, b"x")
                time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(receiver, 1) == b"x"
    with pytest.raises(StudyError, match=rf"in use by process {driver} on "):
        opened(home, name, url, resume=True)
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(databases, "_machine", lambda: "another machine")
        with pytest.raises(StudyError, match="forgotten after 60 s"):
            opened(home, name, url, resume=True)
        later = time.time() + databases.STALE_SECONDS
        elsewhere.setattr(databases.time, "time", lambda: later)
        opened(home, name, url, resume=True).close()
    with opened(home, name, url, resume=True) as handle:
        assert len(handle.trials()) == 1
    os.close(receiver)
    os.close(ready)


def test_a_driver_that_slept_notices_that_it_was_replaced(
    home: Home, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = opened(home, name, url)
    now = time.time
    with monkeypatch.context() as later:
        later.setattr(databases.time, "time", lambda: now() + 100)
        other = opened(home, name, url, resume=True)
        monkeypatch.setattr(sleeper._owner, "_beaten", time.monotonic() - 100)
        with pytest.raises(StudyError, match=r"taken over by another process.*let that one go on"):
            sleeper.ask("sharing", partial(make_sampler, "random", 0))
        with pytest.raises(StudyError, match="taken over"):
            sleeper.commit()
        sleeper.close()
        step(other)
        assert other.study.user_attrs["owner"]["pid"] == os.getpid(), "still held by the other"
        other.close()
    assert read_owner(home, name, url) is None


def read_owner(home: Home, name: str, url: str) -> Any:
    return read_study(home, name, url).user_attrs["owner"]


def test_the_heart_beats_while_a_unit_runs(
    home: Home, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BEAT_SECONDS", 0.05)
    with opened(home, name, url) as handle:
        first = handle.study.user_attrs["owner"]["beat"]
        deadline = time.monotonic() + 10
        while handle.study.user_attrs["owner"]["beat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        handle.commit()


def test_only_one_of_two_claims_at_once_succeeds(home: Home, name: str, url: str) -> None:
    receiver, results = os.pipe()
    start = time.time() + 0.5
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            try:
                time.sleep(max(0.0, start - time.time()))
                with opened(home, name, url, resume=True):
                    os.write(results, b"w")
                    time.sleep(1.5)
            except StudyError:
                os.write(results, b"l")
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(results)
    assert sorted(os.read(receiver, 10)) == sorted(b"wlll")
    os.close(receiver)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (
            "nonsense",
            r"should be a database URL .*Found `storage = nonsense` .*\. Leave it out",
        ),
        ("redis://localhost", "should be a database URL"),
        ("mysql://localhost/x", "needs a Python driver for mysql"),
    ],
)
def test_storage_that_is_not_one(home: Home, storage: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        opened(home, "s", storage)


@pytest.mark.parametrize("call", [read_study, lambda h, n, u: list_studies(h, u)])
def test_reading_makes_no_database(home: Home, call: Any) -> None:
    path = home.root / "s.db"
    with pytest.raises(StudyError, match=r"There is no database .*s\.db"):
        call(home, "s", f"sqlite:///{path}")
    assert not path.exists()


@pytest.mark.parametrize("call", [opened, read_study, lambda h, n, u: list_studies(h, u)])
def test_storage_that_cannot_be_reached(home: Home, call: Any) -> None:
    storages = ["postgresql://tester:secret@127.0.0.1:1/x"]
    if call is opened:
        storages.append(f"sqlite:///{home.root}/no/such/folder/s.db")
    for storage in storages:
        started = time.monotonic()
        with pytest.raises(InfrastructureError, match=r"cannot be reached.*run with --resume") as e:
            call(home, "s", storage)
        assert "secret" not in str(e.value)
        assert time.monotonic() - started < 30


def test_a_newer_optunas_tables_are_an_error(home: Home, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    opened(home, "s", url).close()
    with sqlite3.connect(tmp_path / "s.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.0.0'")
    database.close()
    with pytest.raises(InfrastructureError, match=r"cannot be used: The runtime optuna version"):
        opened(home, "s", url, resume=True)


def test_plain_optuna_reads_it(home: Home, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    with opened(home, "s", url) as handle:
        values = step(handle)
    study = optuna.load_study(study_name="s", storage=url)
    assert study.best_value == values["backbone.dropout"]
    assert json.loads(json.dumps(study.user_attrs))["fingerprint"] == "f"
    databases.disconnect(study._storage._backend)
