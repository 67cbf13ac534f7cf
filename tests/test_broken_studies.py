"""A study is made in one step or not at all; what a killed driver left is listed and deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from typer.testing import CliRunner, Result

from autometa.cli import app
from autometa.errors import BrokenStudyError, InfrastructureError, StudyError
from autometa.home import Home
from autometa.study import broken_studies, list_studies, open_study, read_study, store
from autometa.study.journal import GroupedJournalBackend
from tests.searching.support import SPACE

ATTRS = {"space": SPACE, "settings": {"n_trials": 2}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def cli(home: Home, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--home", str(home.root)])


def cut(home: Home, lines: int) -> None:
    """The journal of study `s` as a kill leaves it that comes within the first commit."""
    with open_study(home, "s", fingerprint="f", attrs=ATTRS):
        pass
    path = home.journal("s")
    kept = path.read_bytes().splitlines(keepends=True)
    assert len(kept) > lines
    path.write_bytes(b"".join(kept[:lines]))


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_what_cannot_be_kept_makes_no_study(home: Home, storage: str | None) -> None:
    url = None if storage is None else f"sqlite:///{home.root}/studies.db"
    with pytest.raises(TypeError, match="should be JSON"):
        open_study(home, "s", storage=url, fingerprint="f", attrs={"odd": object()})
    assert list_studies(home, url, create=True) == []
    assert not list(home.studies.glob("*"))


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_a_study_whose_making_fails_half_way_is_taken_back(
    home: Home, storage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = None if storage is None else f"sqlite:///{home.root}/studies.db"

    def fails(self: object, key: str, value: Any) -> None:
        raise InfrastructureError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store._QuietStudy, "set_user_attr", fails)
        with pytest.raises(InfrastructureError, match="disk full"):
            open_study(home, "s", storage=url, fingerprint="f", attrs=ATTRS)
    assert list_studies(home, url, create=True) == []
    with open_study(home, "s", storage=url, fingerprint="f", attrs=ATTRS) as handle:
        assert not handle.resumed, "the name is free"
    assert broken_studies(home, url) == []


def test_a_study_that_is_refused_stays_as_it_was(home: Home) -> None:
    with open_study(home, "s", fingerprint="f", attrs=ATTRS):
        pass
    before = home.journal("s").read_bytes()
    with pytest.raises(StudyError, match="other data"):
        open_study(home, "s", resume=True, fingerprint="g", attrs=ATTRS)
    assert home.journal("s").read_bytes() == before


def test_numbers_of_numpy_are_kept_as_plain_ones(home: Home) -> None:
    attrs = {
        "n": np.int64(2),
        "share": np.float32(0.5),
        "flag": np.bool_(True),
        "few": np.arange(3),
    }
    with open_study(home, "s", fingerprint="f", attrs=attrs):
        pass
    found = read_study(home, "s").user_attrs
    assert [found[key] for key in attrs] == [2, 0.5, True, [0, 1, 2]]


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_broken_study_is_listed_as_broken_and_can_be_deleted(home: Home, lines: int) -> None:
    with open_study(home, "fine", fingerprint="f", attrs=ATTRS):
        pass
    cut(home, lines)
    assert broken_studies(home) == ["s"]
    listed = cli(home, "trials")
    assert listed.stdout.splitlines() == ["fine", "s (broken)"]
    assert "autometa delete s" in listed.stderr
    assert json.loads(cli(home, "trials", "--json").stdout) == ["fine", "s"]
    gone = cli(home, "delete", "s", "--yes", "--mlflow-tracking-uri", "off")
    assert gone.exit_code == 0, gone.stderr
    assert "Deleted study s" in gone.stdout
    assert list_studies(home) == ["fine"]
    assert [path.name for path in home.studies.iterdir() if path.stem == "s"] == []


def test_a_journal_without_its_study_says_so(home: Home) -> None:
    cut(home, 0)
    with pytest.raises(BrokenStudyError, match=r"Study `s` is broken.*autometa delete s.*--resume"):
        read_study(home, "s")
    shown = cli(home, "trials", "s")
    assert shown.exit_code == 2
    assert "is broken" in shown.stderr
    assert "Did you mean" not in shown.stderr


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_broken_study_can_be_begun(home: Home, lines: int) -> None:
    cut(home, lines)
    with open_study(home, "s", resume=True, fingerprint="f", attrs=ATTRS):
        pass
    assert broken_studies(home) == []
    assert read_study(home, "s").user_attrs["settings"] == {"n_trials": 2}


def test_a_damaged_study_can_be_deleted(home: Home) -> None:
    with open_study(home, "s", fingerprint="f", attrs=ATTRS):
        pass
    with home.journal("s").open("ab") as file:
        file.write(b'{"op_code": 99, "worker_id": "w"}\n')
    assert cli(home, "trials", "s").exit_code == 1
    gone = cli(home, "delete", "s", "--yes", "--mlflow-tracking-uri", "off")
    assert gone.exit_code == 0, gone.stderr
    assert list_studies(home) == []


def test_a_broken_study_of_a_database_is_listed_and_deleted(home: Home) -> None:
    url = f"sqlite:///{home.root}/studies.db"
    optuna.create_study(study_name="of-others", storage=url)
    half = optuna.create_study(study_name="s", storage=url, direction="maximize")
    half.set_user_attr("owner", None)
    listed = cli(home, "trials", "--storage", url)
    assert listed.stdout.splitlines() == ["of-others", "s (broken)"]
    options = ("--yes", "--mlflow-tracking-uri", "off", "--storage", url)
    assert cli(home, "delete", "s", *options).exit_code == 0
    assert list_studies(home, url) == ["of-others"]


def test_where_nothing_is_the_storage_is_asked_for(home: Home) -> None:
    assert "--storage URL" in cli(home, "trials").stderr
    assert "--storage URL" in cli(home, "trials", "s").stderr


def test_an_empty_backend_knows_it(home: Home) -> None:
    backend = GroupedJournalBackend(home.journal("s"))
    assert backend.is_empty
    backend.close()
    assert not backend.is_empty, "another driver may have it by now"
