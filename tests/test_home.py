"""The home folder: where it is, and names that can be files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autometa.errors import UserError
from autometa.home import Home, check_study_name, note_opening, stem_of


def test_argument_then_environment_then_default(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOMETA_HOME", str(tmp_path / "env"))
    assert Home.find(tmp_path / "arg").root == tmp_path / "arg"
    assert Home.find().root == tmp_path / "env"
    monkeypatch.delenv("AUTOMETA_HOME")
    monkeypatch.chdir(tmp_path)
    assert Home.find().root == tmp_path / "autometa-home"


def test_root_is_absolute_and_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.find("~/place").root == tmp_path / "place"
    assert Home.find("relative").root == Path.cwd() / "relative"


def test_paths_are_below_the_root_and_nothing_is_made(tmp_path):
    home = Home(tmp_path / "home")
    paths = [
        home.studies, home.mlflow_db, home.artifacts, home.priors, home.models, home.outbox,
        home.journal("s"), home.checkpoints("s"),
    ]  # fmt: skip
    assert all(path.is_relative_to(home.root) for path in paths)
    assert len(set(paths)) == len(paths)
    assert home.journal("s").name == "s.journal"
    assert not home.root.exists()


@pytest.mark.parametrize("name", ["a", "Study-1_b.c", "9", "x" * 100])
def test_study_names(name):
    assert check_study_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "a/b", "..", "a b", "é", "x" * 101, "a\n", "-a"])
def test_study_names_that_cannot_be_files(name):
    with pytest.raises(UserError, match="study_name"):
        check_study_name(name)


def test_openings_of_test_rows_are_counted_by_suite(tmp_path):
    home = Home(tmp_path / "home")
    assert [note_opening(home, "a"), note_opening(home, "a"), note_opening(home, "b")] == [0, 1, 0]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: note_opening(home, "a"), range(40)))
    assert sorted(found) == list(range(2, 42))
    (home.root / "openings.json").write_text("no json")
    assert note_opening(home, "a") == 0


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("sales", "sales"),
        ("Daten März (2)", "Daten-Marz-2"),
        ("été 2024", "ete-2024"),
        ("数据", "study"),
        ("数据 2024", "2024"),
        ("..hidden", "hidden"),
        ("a/b\\c:d", "a-b-c-d"),
        ("v1.2_final-", "v1.2_final"),
        ("x" * 79 + ".y", "x" * 79),
        ("", "study"),
    ],
)
def test_any_file_name_gives_the_name_of_a_study(text, stem):
    assert stem_of(text) == stem
    assert check_study_name(f"{stem}-1") == f"{stem}-1"
