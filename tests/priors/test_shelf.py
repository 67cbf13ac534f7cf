"""Records and named priors in the home folder, and `autometa prior`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autometa.cli import app
from autometa.errors import UserError
from autometa.home import Home
from autometa.priors import shelf
from autometa.priors.records import Record, record_of
from tests.priors.test_prior_file import finished, record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    found = Home(tmp_path / "home")
    monkeypatch.setenv("AUTOMETA_HOME", str(found.root))
    monkeypatch.chdir(tmp_path)
    return found


def cli(*words: str) -> int:
    return int(app(list(words), standalone_mode=False) or 0)


def test_a_damaged_record_is_left_out_and_said(home: Home) -> None:
    shelf.keep(home, record())
    shelf.keep(home, record())  # the same study once more
    shelf.keep(home, record("sales-1", 1))  # another of that name
    (home.priors / "records" / "x.prior").write_text("no")
    said: list[str] = []
    assert len(shelf.records(home, said.append)) == 2
    assert len(said) == 1
    assert "x.prior" in said[0]


def ended(name: str, at: str) -> Record:
    """A record whose search ended at that time."""
    found = record(name, seed=len(name))
    return dataclasses.replace(found, facts=found.facts.model_copy(update={"finished": at}))


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock shows five hours less than UTC in winter."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_the_newest_is_the_one_that_ended_last(home: Home) -> None:
    for name, at in {
        "b-within-the-second": "2026-01-05T12:00:00.000001+00:00",
        "a-last-microsecond": "2026-01-05T12:00:00.000002+00:00",
        "of-another-zone": "2026-01-05T12:59:00+01:00",  # 11:59 in UTC
        "of-an-older-version": "2026-01-05T07:30:00",  # local time: 12:30 in UTC
    }.items():
        shelf.keep(home, ended(name, at))
    assert [r.facts.study for r in shelf.records(home, lambda text: None)] == [
        "of-another-zone",
        "b-within-the-second",
        "a-last-microsecond",
        "of-an-older-version",
    ]


@pytest.mark.usefixtures("new_york")
def test_a_record_says_when_its_search_ended(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    study = finished()
    found = record_of(study, {})
    last = max(t.datetime_complete for t in study.trials if t.datetime_complete)
    assert found.finished.timestamp() == last.timestamp()
    assert found.facts.finished.endswith("+00:00")
    shelf.keep(home, ended("sales-1", "2026-01-05T07:30:00.25"))
    assert cli("prior", "list") == 0
    assert "2026-01-05 12:30:00 UTC" in capsys.readouterr().out
    assert cli("prior", "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["records"]
    assert row["finished"] == "2026-01-05T12:30:00.250000+00:00"


def test_the_command_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("prior", "list") == 0
    assert "No prior" in capsys.readouterr().err
    assert cli("prior", "build", "ours") == 2
    assert "no finished search" in capsys.readouterr().err
    for seed in (0, 1):
        shelf.keep(home, record(f"sales-{seed}", seed))
    assert cli("prior", "build", "ours") == 0
    assert "Built prior ours: 2 searches, 24 trials." in capsys.readouterr().out
    assert cli("prior", "build", "ours") == 2
    assert "already" in capsys.readouterr().err
    assert cli("prior", "build", "one", "sales-1-00000001") == 0
    assert cli("prior", "export", "ours.prior", "--name", "ours") == 0
    assert cli("prior", "export", "ours.prior") == 2
    assert cli("prior", "import", "ours.prior", "--name", "theirs") == 0
    assert cli("prior", "import", "ours.prior") == 2
    assert cli("prior", "import", "ours.prior", "--name", "../up") == 2
    assert cli("prior", "import", "ours.prior", "--name", "auto") == 2
    capsys.readouterr()
    assert cli("prior", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: len(records) for name, records in found["priors"].items()} == {
        "one": 1, "ours": 2, "theirs": 2,
    }  # fmt: skip
    assert [row["record"] for row in found["records"]] == ["sales-0-00000000", "sales-1-00000001"]
    assert found["records"][0]["states"] == {"COMPLETE": 9, "PRUNED": 2, "FAIL": 1}
    assert cli("prior", "show", "theirs") == 0
    assert "rows: 2.5" in capsys.readouterr().out
    assert cli("prior", "show", "their") == 2
    assert "Did you mean `theirs`?" in capsys.readouterr().err


def test_odd_files_beside_the_priors(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.keep(home, record())
    shelf.build(home, "ours", [], lambda text: None, replace=False)
    (home.priors / "junk.prior").write_text("no")
    (home.priors / "two words.prior").write_bytes((home.priors / "ours.prior").read_bytes())
    assert cli("prior", "list") == 0
    printed = capsys.readouterr()
    assert "prior ours: 1 search" in printed.out
    assert "junk.prior" in printed.err
    assert "It is left out." in printed.err


@pytest.mark.parametrize("text", ["x" * 300, "~nobody-of-this-name/x", "\0"])
def test_what_can_be_no_path_is_no_prior(home: Home, text: str) -> None:
    with pytest.raises(UserError, match="should be the name of a prior"):
        shelf.find(home, text, lambda said: None)


def test_a_record_of_the_longest_name(home: Home) -> None:
    shelf.keep(home, record("s" * 100))
    (kept,) = shelf.records(home, pytest.fail)
    assert kept.facts.study == "s" * 100


def test_a_hostile_import_leaves_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bad.prior").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError):
        shelf.take_in(home, tmp_path / "bad.prior", None, replace=False)
    assert not home.priors.exists()
